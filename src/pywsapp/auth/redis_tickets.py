"""`RedisTicketStore`: tickets in Redis or Valkey, from version 6.2 on. Needs `pip install 'pywsapp[redis]'`."""

from __future__ import annotations

import math

import anyio

from pywsapp._clients.redis_client import RedisClient
from pywsapp.auth.tickets import TicketStore

#: Seconds that a command may take.
_TIMEOUT = 5.0


class RedisTicketStore(TicketStore):
    """Keeps tickets in Redis or Valkey. GETDEL removes a ticket as it reads it, so that two servers never both get it.

    Args:
        url: redis://, rediss:// (TLS) or unix://, as for a broker; see docs/reference/brokers.md.
        prefix: the beginning of the keys.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(self, url: str, *, prefix: str = "pywsapp:ticket:") -> None:
        self._client = RedisClient(url)
        self._prefix = prefix
        self.name = f"the ticket store {self._client.name}"

    async def put(self, key: str, data: bytes, seconds: float) -> None:
        """Store the data of a ticket."""
        with anyio.fail_after(_TIMEOUT):
            await self._client.execute(("SET", self._prefix + key, data, "PX", math.ceil(seconds * 1000)))

    async def take(self, key: str) -> bytes | None:
        """Remove a ticket and return its data."""
        with anyio.fail_after(_TIMEOUT):
            (data,) = await self._client.execute(("GETDEL", self._prefix + key))
        assert data is None or isinstance(data, bytes)
        return data

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()
