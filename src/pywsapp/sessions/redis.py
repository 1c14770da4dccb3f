"""`RedisSessionStore`: sessions in Redis or Valkey. Needs `pip install 'pywsapp[redis]'`."""

from __future__ import annotations

from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.sessions.key_value import KeyValueStore

try:
    from pywsapp._clients.redis_client import RedisClient
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "redis") from exc


class RedisSessionStore(KeyValueStore):
    """Keeps sessions in Redis or Valkey, from version 6.2 on; all processes share one connection each.

    Args:
        url: redis://, rediss:// (TLS) or unix://, as for a broker; see docs/reference/brokers.md.
        prefix: the beginning of the keys.
        options: those of `SessionStore`: `cookie`, `max_age`, `sliding`, `max_size`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(self, url: str, *, prefix: str = "pywsapp:session:", **options: Any) -> None:
        super().__init__(**options)
        self._client = RedisClient(url)
        self._prefix = prefix
        self.name = f"the session store {self._client.name}"

    async def read(self, key: str, renew_seconds: int | None) -> bytes | None:
        """Return the value of a key."""
        key = self._prefix + key
        command = ("GET", key) if renew_seconds is None else ("GETEX", key, "EX", renew_seconds)
        (value,) = await self._client.execute(command)
        assert value is None or isinstance(value, bytes)
        return value

    async def write(self, key: str, value: bytes, seconds: int, *, create: bool) -> bool:
        """Write a value."""
        condition = () if create else ("XX",)
        (reply,) = await self._client.execute(("SET", self._prefix + key, value, "EX", seconds, *condition))
        return reply is not None

    async def remove(self, key: str) -> None:
        """Remove a key."""
        await self._client.execute(("DEL", self._prefix + key))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()
