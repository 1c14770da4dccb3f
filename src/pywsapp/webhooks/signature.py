"""The signature of a request, in the format of Standard Webhooks (standardwebhooks.com).

A secret is `whsec_` and the key in base64, or any other text, whose UTF-8 is the key. The signature is an HMAC-SHA256
of the id, the time and the body. With several keys there are several signatures, so that a receiver can have either of
two secrets while one replaces the other.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

from pywsapp.exceptions import ConfigurationError

Secrets = str | bytes | Sequence[str | bytes]

_PREFIX = "whsec_"
#: Bytes of a key; the format asks for 24 to 64, and a longer one is no more secure.
_MIN_KEY = 16


def keys_of(secrets: Secrets) -> tuple[bytes, ...]:
    """Return the keys of one secret or several; no message shows one.

    Raises:
        ConfigurationError: a secret is too short or invalid, or there is none.
    """
    found = tuple(secrets) if isinstance(secrets, (list, tuple)) else (secrets,)
    if not found:
        raise ConfigurationError("a webhook needs a secret")
    return tuple(_key_of(secret) for secret in found)


def _key_of(secret: object) -> bytes:
    if not isinstance(secret, (str, bytes)):
        raise ConfigurationError(f"the secret of a webhook is a str or bytes, not {type(secret).__name__}")
    key = secret.encode() if isinstance(secret, str) else secret
    if isinstance(secret, str) and secret.startswith(_PREFIX):
        try:
            key = b64decode(secret[len(_PREFIX) :], validate=True)
        except ValueError:
            raise ConfigurationError("the secret of a webhook begins with whsec_, but no base64 follows") from None
    if len(key) < _MIN_KEY:
        raise ConfigurationError(f"the secret of a webhook needs at least {_MIN_KEY} bytes; use 32 random bytes")
    return key


def sign(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the field webhook-signature.

    Args:
        keys: the keys, each of which makes a signature.
        message_id: the value of the field webhook-id.
        timestamp: the value of the field webhook-timestamp, in seconds since 1970.
        body: the body of the request.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{b64encode(hmac.digest(key, signed, 'sha256')).decode()}" for key in keys)
