"""A certificate for localhost that signs itself, for development; requires `pip install 'pywsapp[dev-tls]'`.

It is stored for the user of the machine, so every worker and every restart has the same one: a browser asks about it
once, and a program can trust its file. It is replaced before it ends.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pywsapp._server.certificate_dates import days_left
from pywsapp.exceptions import ConfigurationError

#: Browsers refuse certificates that are valid for much longer.
VALID_DAYS = 90
#: A certificate that ends sooner is replaced.
MIN_DAYS = 14
_NAME = "development-certificate.pem"


def development_certificate() -> Path:
    """Return the file of the certificate and its key; creates it if there is none, or if it ends soon. Blocks.

    Raises:
        ConfigurationError: the file cannot be written, or belongs to another user.
    """
    path = _directory() / _NAME
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_usable(path):
            _replace(path, create())
    except OSError as exc:
        raise ConfigurationError(
            f"the certificate for development cannot be stored in {str(path)!r}: {exc.strerror}; set XDG_CACHE_HOME to "
            "a directory of yours, or use a certificate of your own"
        ) from exc
    return path


def create() -> bytes:
    """Create a key and a certificate for localhost, 127.0.0.1 and ::1; return both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pywsapp development")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of virtual machines differ
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem) + key.private_bytes(pem, pkcs8, plain)


def _directory() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "pywsapp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pywsapp"


def _is_usable(path: Path) -> bool:
    """Return whether there is a certificate that does not end soon, which no other user can have written."""
    try:
        with path.open("rb") as file:
            found, pem = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return False
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        return False
    return (days_left(pem) or 0) > MIN_DAYS and b"PRIVATE KEY-----" in pem


def _replace(path: Path, pem: bytes) -> None:
    """Write the file in one step, because workers can start at the same time; only this user can read it."""
    descriptor, part = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        os.replace(part, path)
    except OSError:
        os.unlink(part)
        raise
