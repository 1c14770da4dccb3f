"""The topics of one process that keep a history: which they are, and what follows them; the theory is in `recovery`."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._outbox.awaitables import LazyAwaitable
from pywsapp.brokers.base import Keep, Kept, Position
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.topics.history.memory_store import MemoryHistory
from pywsapp.topics.history.recovery import Follower
from pywsapp.topics.history.rules import HistoryRule

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp.brokers.base import BrokerConnection
    from pywsapp.brokers.relay import Relay

#: Seconds that a history may take to be read.
_READ_SECONDS = 5.0
#: Seconds until a history is read again that could not be, though the broker is there.
_RETRY_SECONDS = 1.0
_MAX_ROUNDS = 20
#: How many are read at once: after a reconnect, all have to be.
_MAX_READING = 100


class HistoryService:
    """Rules, followers, and a history of its own for as long as there is no broker.

    Args:
        origin: this process's name on the broker.
        deliver: takes a topic's name, an envelope and its position, in order.
        lose: takes a topic's name and the position up to which messages are lost.
    """

    def __init__(
        self,
        origin: str,
        deliver: Callable[[str, bytes, Position], None],
        lose: Callable[[str, Position], None],
    ) -> None:
        self.memory = MemoryHistory(time.monotonic)
        self.rules: list[HistoryRule] = []
        self._origin = origin
        self._numbers = count(1)
        self._deliver = deliver
        self._lose = lose
        self._relay: Relay | None = None
        self._tasks: TaskGroup | None = None
        self._followers: dict[str, Follower] = {}
        self._ready: dict[str, anyio.Event] = {}
        self._retrying: set[str] = set()
        self._reading: anyio.Semaphore

    def rule(self, name: str) -> HistoryRule | None:
        """Give what is kept of a topic: the first rule that matches."""
        return next((rule for rule in self.rules if rule.pattern.matches(name)), None)

    def keep(self, rule: HistoryRule) -> Keep:
        """Give what goes with the next message of a topic with this rule."""
        return Keep((self._origin, next(self._numbers)), rule.size, rule.seconds)

    def start(self, relay: Relay, tasks: TaskGroup) -> None:
        """Follow over a broker from now on."""
        self._relay, self._tasks = relay, tasks
        self._retrying.clear()
        self._reading = anyio.Semaphore(_MAX_READING)

    def stop(self) -> None:
        """Follow nothing any more."""
        self._relay = self._tasks = None
        for name in list(self._followers):
            self.unfollow(name)

    async def connected(self, connection: BrokerConnection) -> None:
        """Catch up on all topics, for the connection is a new one."""
        for follower in self._followers.values():
            follower.catch_up()

    # -- following ---------------------------------------------------------------------------------------------------

    def follow(self, name: str, *, subscribe: bool) -> Awaitable[None]:
        """Begin to follow a topic, if that is not so yet; give what waits until it is subscribed.

        Args:
            name: of the topic.
            subscribe: whether it is not listened to already.
        """
        assert self._tasks is not None
        ready = self._ready.get(name)
        if ready is None:
            ready = self._ready[name] = anyio.Event()
            follower = self._followers[name] = Follower(
                name,
                functools.partial(self._read_or_retry, name),
                functools.partial(self._deliver, name),
                functools.partial(self._lose, name),
                self._start_soon,
            )
            self._tasks.start_soon(self._begin, name, follower, ready, subscribe)
        return LazyAwaitable(ready.wait)

    def unfollow(self, name: str) -> None:
        """Stop following a topic."""
        follower = self._followers.pop(name, None)
        if follower is not None:
            follower.close()
            del self._ready[name]

    def _start_soon(self, task: Callable[[], Any]) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(task)

    async def _begin(self, name: str, follower: Follower, ready: anyio.Event, subscribe: bool) -> None:
        with suppress(Exception):  # the broker is away; when it is there again, `connected` sees to it
            await follower.begin()
        if self._followers.get(name) is follower and self._relay is not None:
            if subscribe:
                self._relay.subscribe(name)
                await self._relay.subscribed(name)
            follower.catch_up()
        ready.set()

    def receive(self, name: str, data: bytes, position: Position) -> None:
        """Take what came of a topic, for those who follow it."""
        follower = self._followers.get(name)
        if follower is not None:
            follower.receive(data, position)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, name: str, since: Position | None) -> Kept:
        """Read a topic's history.

        Raises:
            BrokerUnavailable: it cannot be read.
        """
        if self._relay is None:
            return self.memory.read(name, since)
        connection = self._relay.connection
        if connection is None:
            raise BrokerUnavailable(f"{self._relay.broker.name} is not connected")
        try:
            async with self._reading:
                with anyio.fail_after(_READ_SECONDS):
                    return await connection.read_history(name, since)
        except Exception as exc:
            raise BrokerUnavailable(f"reading the history of {name!r} failed: {exc!r}") from exc

    async def _read_or_retry(self, name: str, since: Position | None) -> Kept:
        """Read for a follower; if that fails though the broker is there, let it catch up a little later."""
        try:
            return await self.read(name, since)
        except BrokerUnavailable:
            if self._relay is not None and self._relay.connection is not None and name not in self._retrying:
                self._retrying.add(name)
                self._start_soon(functools.partial(self._retry, name))
            raise

    async def _retry(self, name: str) -> None:
        await anyio.sleep(_RETRY_SECONDS)
        self._retrying.discard(name)
        follower = self._followers.get(name)
        if follower is not None:
            follower.catch_up()

    async def read_current(self, name: str, since: Position | None) -> Kept:
        """Read a topic's history up to what has been delivered here when this returns."""
        follower = self._followers.get(name)
        if follower is None:
            return await self.read(name, since)
        for _ in range(_MAX_ROUNDS):
            before = follower.position
            with follower.recording() as delivered:
                kept = await self.read(name, since)
            here, (epoch, last) = follower.position, kept.position
            if here is None or here == before or kept.position.covers(here):
                return kept
            later = [(at.offset, data) for at, data in delivered if at.epoch == epoch and at.offset > last]
            if here.epoch == epoch and len(later) == here.offset - last:
                return Kept(here, [*kept.messages, *later], kept.complete)
        raise BrokerUnavailable(f"the history of {name!r} stays behind what comes")
