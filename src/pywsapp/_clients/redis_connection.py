"""One connection to a Redis server, for commands or for subscriptions.

It uses the connections of redis-py, but neither its clients nor its pools: those reconnect and repeat commands by
themselves, and our callers must know that a connection was lost. A `RedisConnection` is one connection and one task
that reads from it. Redis answers in order, so every command, a ping or a subscription included, adds an entry to a
queue, and every reply that is not a published message belongs to the front of that queue.

A frozen server, or a peer that disappeared without closing, keeps a connection open for ever. So each connection sends
pings all the time, and is lost when it has received nothing for `health_seconds`. It must have been silent at several
checks in a row, because an event loop that was blocked has not read anything either.

It needs asyncio; `AsyncioThread` runs it under trio.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

#: The words of one command.
Command = Sequence["str | bytes | int"]

#: Checks in `health_seconds`; a connection is lost when it was silent at all of them.
_CHECKS = 3
#: Replies that are handled before other tasks get their turn.
_REPLIES_PER_TURN = 100


class RedisConnection:
    """One connection to one server: a queue of commands that wait for replies, and a task that reads.

    Args:
        connection: a connection of redis-py that is not connected yet, from `RedisUrl.new_connection`.
        health_seconds: seconds of silence after which the connection is lost.
        on_lost: called with the reason when the connection is lost; it can be called more than once.
        on_message: for a connection that subscribes. Called with every reply; returns whether the reply was a published
            message, which answers no command. A command of such a connection names one channel, so that it has one
            reply, refused or not.
    """

    def __init__(
        self,
        connection: Connection,
        health_seconds: float,
        on_lost: Callable[[Exception], None],
        on_message: Callable[[Any], bool] | None = None,
    ) -> None:
        self._connection = connection
        self._health_seconds = health_seconds
        self._on_lost = on_lost
        self._on_message = on_message
        self._waiting: deque[_Replies] = deque()
        self._sending = asyncio.Lock()  # before Python 3.10.6 only one task may wait for a full socket buffer
        self._reply_count = 0
        self._lost = False
        self._tasks: list[asyncio.Task[None]] = []
        self._transport: asyncio.WriteTransport | None = None

    async def open(self) -> None:
        """Connect, and start to read.

        Raises:
            Exception: the server cannot be reached, or refuses the login.
        """
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self._transport = self._connection._writer.transport  # type: ignore[union-attr]
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._check_health())]

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one batch, and return their replies.

        Raises:
            ResponseError: the server refused one of the commands. It has executed the others.
            ConnectionError: the connection was lost.
            Exception: another reason for which the connection was lost.
        """
        replies = await self.try_execute(commands)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    async def try_execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one batch, and return their replies: a `ResponseError` for each refused command.

        Raises:
            ConnectionError: the connection was lost.
            Exception: another reason for which the connection was lost.
        """
        if not commands:
            return []
        replies = await self._send(commands, len(commands))
        return await replies.complete

    async def _send(self, commands: Sequence[Command], reply_count: int) -> _Replies:
        replies = _Replies(reply_count)
        async with self._sending:
            if self._lost or not self._connection.is_connected:  # redis-py would reconnect
                raise ConnectionError("the connection is closed")
            self._waiting.append(replies)
            try:
                await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
            except Exception as exc:
                if self._lost:  # redis-py raises AttributeError for a connection that was closed meanwhile
                    raise ConnectionError("the connection is closed") from exc
                raise
        return replies

    async def _read(self) -> None:
        try:
            while True:
                for _ in range(_REPLIES_PER_TURN):
                    try:
                        reply = await self._connection.read_response(disable_decoding=True)
                    except ResponseError as exc:
                        reply = exc
                    self._reply_count += 1
                    if self._on_message is None or not self._on_message(reply):
                        self._add_reply(reply)
                await asyncio.sleep(0)
        except Exception as exc:
            self._lose(exc)

    def _add_reply(self, reply: Any) -> None:
        if not self._waiting:
            raise reply if isinstance(reply, Exception) else ConnectionError(f"the server sent {reply!r:.100} unasked")
        replies = self._waiting[0]
        replies.received.append(reply)
        if len(replies.received) == replies.expected:
            self._waiting.popleft()
            if not replies.complete.done():
                replies.complete.set_result(replies.received)

    async def _check_health(self) -> None:
        silent_checks = 0
        pong = _Replies(0)
        pong.complete.set_result([])
        try:
            while silent_checks < _CHECKS:
                before = self._reply_count
                if pong.complete.done():
                    pong = await asyncio.wait_for(self._send([("PING",)], 1), self._health_seconds)
                    if self._lost:  # `aclose` cancels this task, and wait_for can lose that before Python 3.12
                        return
                await asyncio.sleep(self._health_seconds / _CHECKS)
                is_silent = self._reply_count == before and not pong.complete.done()
                silent_checks = silent_checks + 1 if is_silent else 0
            raise ConnectionError(f"no answer for {self._health_seconds:g} seconds")
        except asyncio.TimeoutError:
            self._lose(ConnectionError(f"the server has not read for {self._health_seconds:g} seconds"))
        except Exception as exc:
            self._lose(exc)

    def _lose(self, reason: Exception) -> None:
        self._on_lost(reason)
        self._fail_waiting(reason)

    def _fail_waiting(self, reason: Exception) -> None:
        self._lost = True
        while self._waiting:
            replies = self._waiting.popleft()
            if not replies.complete.done():
                replies.complete.set_exception(reason)
                replies.complete.exception()  # no warning when no task awaits it

    async def aclose(self) -> None:
        """Close the connection at once, without waiting for the server. Never raises."""
        for task in self._tasks:
            task.cancel()
        self._fail_waiting(ConnectionError("the connection is closed"))
        with suppress(Exception):
            await self._connection.disconnect(nowait=True)
        if self._transport is not None:
            self._transport.abort()  # it would stay open until a frozen server has read everything
        if self._tasks:
            # `gather` raises the cancellation of these tasks if the caller is cancelled meanwhile, without its message.
            # A time limit around the call would not recognise it as its own.
            await asyncio.wait(self._tasks)


class _Replies:
    """The replies to one batch of commands, which the server has not sent completely yet."""

    __slots__ = ("complete", "expected", "received")

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.received: list[Any] = []
        self.complete: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
