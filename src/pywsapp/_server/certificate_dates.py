"""When a certificate ends, read from its PEM file: the module `ssl` knows the dates of peers' certificates only.

The certificate is the program's own, and OpenSSL has loaded it before. So this reads only as much of its DER as comes
before the dates (RFC 5280, section 4.1), and what it does not understand has no date.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from datetime import datetime, timezone

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0  # the tag [0] of the version, which a certificate of version 1 does not have
_UTC_TIME = 0x17
_DAY = 24 * 60 * 60


def first_certificate(pem: bytes) -> bytes | None:
    """Return the DER of the first certificate in a PEM file; None if there is none."""
    found = _CERTIFICATE.search(pem)
    try:
        return None if found is None else ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
    except ValueError:
        return None


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 fingerprint of the first certificate of a PEM file, as browsers show it; "" without one."""
    return hashlib.sha256(der).digest().hex(":").upper() if (der := first_certificate(pem)) else ""


def days_left(pem: bytes) -> float | None:
    """Return for how many days the first certificate of a PEM file is valid, negative after its end.

    Returns:
        None if the file does not say.
    """
    der = first_certificate(pem)
    try:
        return None if der is None else (_expiry(der) - time.time()) / _DAY
    except (ValueError, IndexError):
        return None


def _expiry(der: bytes) -> float:
    """Return when a certificate ends, in seconds since 1970.

    Raises:
        ValueError: the certificate has another form.
        IndexError: it is too short.
    """
    _, certificate, _ = _element(der, 0)
    _, fields, _ = _element(certificate, 0)
    position = _element(fields, 0)[2] if fields[0] == _VERSION else 0
    for _ in ("serial number", "signature", "issuer"):
        position = _element(fields, position)[2]
    validity = _element(fields, position)[1]
    tag, value, _ = _element(validity, _element(validity, 0)[2])
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # two digits for the year, 1950 to 2049 (RFC 5280, section 4.1.2.5.1)
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Return the tag and the content of an element of DER, and where it ends."""
    tag, size = data[position], data[position + 1]
    start = position + 2
    if size & 0x80:
        digits = size & 0x7F
        size = int.from_bytes(data[start : start + digits], "big")
        start += digits
    return tag, data[start : start + size], start + size
