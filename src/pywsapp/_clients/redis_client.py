"""Commands to one Redis server, over one connection that is made when it is needed, from any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ReadOnlyError, ResponseError

from pywsapp._clients.asyncio_calls import AsyncioCalls
from pywsapp._clients.redis_connection import Command, RedisConnection
from pywsapp._clients.redis_url import RedisUrl

#: Seconds of silence after which the connection is lost.
_HEALTH_SECONDS = 3.0


class RedisClient:
    """Sends commands to one server. All callers share one connection, and their commands are pipelined.

    A command is sent again once, on a new connection, when the connection was lost. So it must be one that can be
    executed twice.

    Args:
        url: redis://, rediss:// (TLS) or unix://, as for the `from_url` of redis-py.

    Attributes:
        name: the URL without its password, for logs.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(self, url: str) -> None:
        self._url = RedisUrl(url)
        self.name = self._url.name
        self._calls = AsyncioCalls("pywsapp redis", close=self._close, forget=self._forget)
        self._forget()

    async def execute(self, *commands: Command) -> list[Any]:
        """Send commands, and return their replies.

        Raises:
            ResponseError: the server refused one of the commands.
            Exception: the server cannot be reached.
        """
        replies: list[Any] = await self._calls.call(self._execute, commands)
        return replies

    async def aclose(self) -> None:
        """Close the connection. A later command makes a new one. Never raises."""
        await self._calls.aclose()

    # -- on asyncio --------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._connection: RedisConnection | None = None
        self._is_lost = False
        self._connecting: asyncio.Lock | None = None

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        if connection is not None and not self._is_lost:
            try:
                return await connection.execute(commands)
            except ReadOnlyError:  # the server is a replica now, and the URL may lead to another one
                self._note_lost(connection)
                raise
            except ResponseError:
                raise
            except Exception:
                self._note_lost(connection)
        return await (await self._connected()).execute(commands)

    async def _connected(self) -> RedisConnection:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._connection is not None and not self._is_lost:
                return self._connection
            await self._close()
            connection = RedisConnection(
                self._url.new_connection(), _HEALTH_SECONDS, lambda _: self._note_lost(connection)
            )
            try:
                await connection.open()
            except BaseException:
                await connection.aclose()
                raise
            self._connection, self._is_lost = connection, False
            return connection

    def _note_lost(self, connection: RedisConnection) -> None:
        if self._connection is connection:
            self._is_lost = True

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()
