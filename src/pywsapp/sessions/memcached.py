"""`MemcachedSessionStore`: sessions in memcached; it needs no client library.

Memcached forgets the least recently used sessions when its memory is full, and all of them when it restarts. The users
of forgotten sessions log in again.
"""

from __future__ import annotations

from typing import Any

from pywsapp._clients.memcached_client import MemcachedClient
from pywsapp.exceptions import ConfigurationError
from pywsapp.sessions.key_value import KeyValueStore

_MAX_PREFIX = 250 - 64  # bytes of a key, without the digest


class MemcachedSessionStore(KeyValueStore):
    """Keeps sessions in memcached, on one server.

    Args:
        url: memcached://host:port; the default port is 11211.
        prefix: the beginning of the keys.
        options: those of `SessionStore`: `cookie`, `max_age`, `sliding`, `max_size`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(self, url: str, *, prefix: str = "pywsapp:session:", **options: Any) -> None:
        super().__init__(**options)
        if not prefix.isascii() or not prefix.isprintable() or " " in prefix or len(prefix) > _MAX_PREFIX:
            raise ConfigurationError(f"{prefix!r} cannot be the beginning of keys in memcached")
        self._client = MemcachedClient(url)
        self._prefix = prefix.encode()
        self.name = f"the session store {self._client.name}"

    async def read(self, key: str, renew_seconds: int | None) -> bytes | None:
        """Return the value of a key."""
        return await self._client.get(self._prefix + key.encode(), renew_seconds)

    async def write(self, key: str, value: bytes, seconds: int, *, create: bool) -> bool:
        """Write a value."""
        name = self._prefix + key.encode()
        if not create:
            return await self._client.set(name, value, seconds, replace=True)
        if not await self._client.set(name, value, seconds):
            raise ConnectionError("memcached did not store a session")
        return True

    async def remove(self, key: str) -> None:
        """Remove a key."""
        await self._client.delete(self._prefix + key.encode())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
