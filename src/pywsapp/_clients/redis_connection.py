"""One connection to a Redis server, for commands or for subscriptions.

redis-py's connections are used, and neither its clients nor its pools: those connect again by themselves and repeat
commands, which the `Relay` does, once for all brokers, and a lost connection has to be known as such. So a
`RedisConnection` is one connection with a task that reads. Redis answers in order, which makes it simple: everything
that is asked, a ping and a subscription included, goes into a queue, and every reply that is no published message
belongs to its front.

A server that is frozen, or a peer that vanished without a word, keeps a connection open forever. Each link asks for a
pong all the time and is lost when nothing at all has come for `health_seconds`. It has to have been silent at several
looks, since an event loop that was blocked itself has not heard anything either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

from pywsapp.brokers.redis.history import Command
from pywsapp.exceptions import BrokerUnavailable

#: How often a link is looked at in `health_seconds`, and is silent each time when it is lost.
_LOOKS = 3
#: Replies taken before other tasks get their turn.
_AT_ONCE = 100


class RedisConnection:
    """One connection to one server: a queue of what was asked, and a task that reads.

    Args:
        connection: a new one.
        health_seconds: as in `RedisBroker`.
        note_lost: called when it is lost, more than once perhaps.
        take: takes a reply if it answers nothing.
    """

    def __init__(
        self,
        connection: Connection,
        health_seconds: float,
        note_lost: Callable[[Exception], None],
        take: Callable[[Any], bool] | None,
    ) -> None:
        self._connection = connection
        self._health_seconds = health_seconds
        self._note_lost = note_lost
        self._take = take
        self._asked: deque[_Asked] = deque()
        self._sending = asyncio.Lock()  # before Python 3.10.6 only one task may wait until the socket takes more
        self._replies = 0
        self._lost = False
        self._tasks: list[asyncio.Task[None]] = []
        self._transport: asyncio.WriteTransport | None = None

    async def open(self) -> None:
        """Connect, and read from then on."""
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self._transport = self._connection._writer.transport  # type: ignore[union-attr]
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def ask(self, commands: Sequence[Command], replies: int | None = None) -> list[Any]:
        """Send commands, and give the replies; as many as there are commands, or a number of them.

        Raises:
            ResponseError: one of them was refused; the others were done.
        """
        asked = await self._send(commands, len(commands) if replies is None else replies)
        found = await asked.all
        for reply in found:
            if isinstance(reply, ResponseError):
                raise reply
        return found

    async def _send(self, commands: Sequence[Command], replies: int) -> _Asked:
        asked = _Asked(replies)
        async with self._sending:
            if self._lost or not self._connection.is_connected:  # it would connect again by itself
                raise BrokerUnavailable("the connection is lost")
            self._asked.append(asked)
            await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        return asked

    async def _read(self) -> None:
        try:
            while True:
                for _ in range(_AT_ONCE):
                    try:
                        reply = await self._connection.read_response(disable_decoding=True)
                    except ResponseError as exc:
                        reply = exc
                    self._replies += 1
                    if self._take is None or not self._take(reply):
                        self._answer(reply)
                await asyncio.sleep(0)
        except Exception as exc:
            self._lose(exc)

    def _answer(self, reply: Any) -> None:
        if not self._asked:
            raise reply if isinstance(reply, Exception) else BrokerUnavailable(f"the server says {reply!r:.100}")
        asked = self._asked[0]
        asked.replies.append(reply)
        if isinstance(reply, ResponseError) and self._take is not None:
            raise reply  # it stands for an unknown number of replies, and what was to be subscribed is not
        if len(asked.replies) == asked.number:
            self._asked.popleft()
            if not asked.all.done():
                asked.all.set_result(asked.replies)

    async def _watch(self) -> None:
        """Find out that nothing comes any more."""
        silent = 0
        pong = _Asked(0)
        pong.all.set_result([])
        try:
            while silent < _LOOKS:
                before = self._replies
                if pong.all.done():
                    pong = await asyncio.wait_for(self._send([("PING",)], 1), self._health_seconds)
                await asyncio.sleep(self._health_seconds / _LOOKS)
                silent = silent + 1 if self._replies == before and not pong.all.done() else 0
            raise BrokerUnavailable(f"no answer for {self._health_seconds:g} seconds")
        except asyncio.TimeoutError:
            self._lose(BrokerUnavailable(f"it took nothing for {self._health_seconds:g} seconds"))
        except Exception as exc:
            self._lose(exc)

    def _lose(self, reason: Exception) -> None:
        self._note_lost(reason)
        self._refuse(reason)

    def _refuse(self, reason: Exception) -> None:
        self._lost = True
        while self._asked:
            asked = self._asked.popleft()
            if not asked.all.done():
                asked.all.set_exception(reason)
                asked.all.exception()  # so that nobody has to wait for it

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._refuse(BrokerUnavailable("the connection is closed"))
        with suppress(Exception):
            await self._connection.disconnect(nowait=True)
        if self._transport is not None:
            self._transport.abort()  # else it would stay until a frozen server has taken what was sent
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Asked:
    """Some replies that are to come."""

    __slots__ = ("all", "number", "replies")

    def __init__(self, number: int) -> None:
        self.number = number
        self.replies: list[Any] = []
        self.all: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
