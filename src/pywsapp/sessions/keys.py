"""The secret keys of stores that sign: one, or several of which the first one signs and all are accepted."""

from __future__ import annotations

from collections.abc import Sequence

from pywsapp.exceptions import ConfigurationError

#: One key, or several of which the first one signs.
Keys = str | bytes | Sequence[str | bytes]

#: Bytes that the keys of our own store need: 128 bits.
MIN_KEY_BYTES = 16


def checked_keys(keys: Keys, min_bytes: int = 1) -> list[bytes]:
    """Return the keys as bytes, the one that signs first.

    Args:
        keys: the keys. The messages of exceptions never contain them.
        min_bytes: how long each key must be.

    Raises:
        ConfigurationError: there is no key, or one is too short or no str or bytes.
    """
    found = [keys] if isinstance(keys, (str, bytes)) else list(keys)
    if not found:
        raise ConfigurationError("a session store that signs needs a secret key")
    encoded = []
    for key in found:
        if not isinstance(key, (str, bytes)):
            raise ConfigurationError(f"the secret key of a session store is a str or bytes, not {type(key).__name__}")
        encoded.append(key.encode() if isinstance(key, str) else key)
    if min(map(len, encoded)) < min_bytes:
        raise ConfigurationError(
            f"the secret key of a session store has less than {min_bytes} bytes: "
            "make one with python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return encoded
