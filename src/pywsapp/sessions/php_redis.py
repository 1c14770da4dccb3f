"""`PhpRedisStore`: the sessions of a PHP site in Redis, for reading only. Needs `pip install 'pywsapp[redis]'`."""

from __future__ import annotations

from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.exceptions import SessionError
from pywsapp.sessions.php import PhpStore

try:
    from pywsapp._clients.redis_client import RedisClient
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "redis") from exc


class PhpRedisStore(PhpStore):
    """Reads the sessions that PHP keeps in Redis (`session.save_handler = redis`, of phpredis).

    Args:
        url: redis://, rediss:// or unix://; see docs/reference/brokers.md.
        prefix: the beginning of the keys, which phpredis calls `prefix` too.
        options: those of `PhpStore`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(self, url: str, *, prefix: str = "PHPREDIS_SESSION:", **options: Any) -> None:
        super().__init__(**options)
        self._client = RedisClient(url)
        self._prefix = prefix
        self.name = f"the session store of PHP, {self._client.name}"

    async def read(self, session_id: str) -> bytes | None:
        """Return the value of a key."""
        (value,) = await self._client.execute(("GET", self._prefix + session_id))
        if value is None:
            return None
        if not isinstance(value, bytes):
            raise SessionError("it is no string in Redis")
        return value

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()
