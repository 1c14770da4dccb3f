"""`KeyValueStore`: sessions in anything that keeps bytes under keys for a time.

The token is an id of 256 random bits. The key is the SHA-256 of the token. So the keys of the server, in a dump or in
the output of `MONITOR`, contain no id that a client could send, and the time of a look-up reveals no other id.

The value is one JSON object: `{"data": {...}}`, and `"expires"` if the life of the session is fixed.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from abc import ABC, abstractmethod
from typing import Any

from pywsapp.exceptions import SessionEnded, SessionError
from pywsapp.sessions.base import SessionStore, Stored
from pywsapp.sessions.json_data import decode_object, encode_data

_ID_BYTES = 32
_TOKEN = re.compile(r"[0-9A-Za-z_-]{43}")  # what token_urlsafe makes of 32 bytes
#: Bytes of the value beside the data.
_ENVELOPE_BYTES = 64


class KeyValueStore(SessionStore, ABC):
    """The base of stores with random ids and JSON; a subclass has `read`, `write` and `remove`.

    The arguments are those of `SessionStore`.
    """

    @abstractmethod
    async def read(self, key: str, renew_seconds: int | None) -> bytes | None:
        """Return the value of a key, or None.

        Args:
            key: 64 hexadecimal digits.
            renew_seconds: the new life of the key; None leaves it as it is.
        """

    @abstractmethod
    async def write(self, key: str, value: bytes, seconds: int, *, create: bool) -> bool:
        """Write a value, and return whether it was written.

        Args:
            key: 64 hexadecimal digits.
            value: the value.
            seconds: the life of the key.
            create: whether the key is new. Otherwise it is written only if it exists, in one step.
        """

    @abstractmethod
    async def remove(self, key: str) -> None:
        """Remove a key, if it exists."""

    async def load(self, token: str) -> Stored | None:
        """Return the session of an id."""
        if not _TOKEN.fullmatch(token):
            return None
        value = await self.read(_key(token), math.ceil(self.max_age) if self.is_sliding else None)
        if value is None:
            return None
        if len(value) > self.max_size + _ENVELOPE_BYTES:
            raise SessionError(f"it has {len(value)} bytes, and max_size is {self.max_size}")
        stored = _decode(value)
        if stored.expires is not None and stored.expires <= self.now():
            return None
        return stored

    async def save(self, token: str | None, stored: Stored) -> str:
        """Save a session under its id, or under a new one."""
        data = encode_data(stored.data, self.max_size)
        value, seconds = b'{"data":' + data + b"}", self.max_age
        if stored.expires is not None and not self.is_sliding:
            value = b'{"expires":%d,"data":' % stored.expires + data + b"}"
            seconds = stored.expires - self.now()
        is_new = token is None
        token = secrets.token_urlsafe(_ID_BYTES) if token is None else token
        if seconds <= 0 or not await self.write(_key(token), value, math.ceil(seconds), create=is_new):
            raise SessionEnded("the session was destroyed or has expired")
        return token

    async def delete(self, token: str) -> None:
        """Delete the session of an id."""
        await self.remove(_key(token))


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _decode(value: bytes) -> Stored:
    try:
        found = decode_object(value)
    except ValueError as exc:
        raise SessionError(f"it is not what pywsapp writes: {exc}") from None
    data: Any = found.get("data")
    expires: Any = found.get("expires")
    if not isinstance(data, dict) or not (expires is None or type(expires) is int):
        raise SessionError("it is not what pywsapp writes: its fields are wrong")
    return Stored(data, expires)
