"""Helpers for tests of topics: a broker with steps that hang or fail, and a way to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from pywsapp.brokers.base import Keep, Outgoing, Position, Receive
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.brokers.relay import Relay
from pywsapp.exceptions import BrokerUnavailable, OutcomeUnknown
from pywsapp.topics.names import TopicPattern
from support.serving import GUARD

Step = Callable[[], Awaitable[None]]
Message = tuple[str, bytes, "Position | None"]


class Bench(MemoryBroker):
    """A memory broker that awaits something before or after some of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.batches: list[list[Outgoing]] = []
        self.before: dict[str, Step] = {}
        self.after: dict[str, Step] = {}

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        self.calls.append(name)
        if name in self.before:
            await self.before[name]()
        yield
        if name in self.after:
            await self.after[name]()

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        async with self.step("connect"):
            await anyio.lowlevel.checkpoint()
            if not self.available:
                raise BrokerUnavailable("it is not available")
            connection = BenchConnection(self, receive, [TopicPattern(text) for text in patterns])
            self.connections.append(connection)
        return connection

    @property
    def subscribed(self) -> set[str]:
        """The topics that the only connection subscribes to."""
        (connection,) = self.connections
        return set(connection._topics)


class BenchConnection(MemoryConnection):
    def __init__(self, broker: Bench, receive: Receive, patterns: Sequence[TopicPattern]) -> None:
        super().__init__(broker, receive, patterns)
        self._bench = broker

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        async with self._bench.step("publish"):
            self._bench.batches.append(list(messages))
            await super().publish(messages)

    async def subscribe(self, topics: Sequence[str]) -> None:
        async with self._bench.step("subscribe"):
            assert not self._topics.intersection(topics), "it is subscribed already"
            assert topics
            await super().subscribe(topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        async with self._bench.step("unsubscribe"):
            assert self._topics.issuperset(topics), "it is not subscribed"
            assert topics
            await super().unsubscribe(topics)

    async def aclose(self) -> None:
        async with self._bench.step("close"):
            await super().aclose()


def failing(exc: Exception, times: int = 10**9) -> Step:
    """Return a step that raises an exception a number of times."""
    left = [times]

    async def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise exc

    return fail


class Inbox:
    """A receiver that records what the broker delivers."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, topic: str, data: bytes, position: Position | None) -> None:
        self.messages.append((topic, data, position))

    @property
    def data(self) -> list[bytes]:
        return [data for _, data, _ in self.messages]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that has no event."""
    with anyio.fail_after(GUARD):
        while not condition():
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def relaying(relay: Relay) -> AsyncIterator[None]:
    """Run a relay that has tried to connect."""
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(GUARD):
            await tasks.start(relay.run)
        yield
        tasks.cancel_scope.cancel()


def kept(number: int, process: str = "p") -> Keep:
    return Keep((process, number), 100, 60)


async def failure_of(acknowledgement: Awaitable[None]) -> str:
    with anyio.fail_after(GUARD), pytest.raises(BrokerUnavailable) as info:
        await acknowledgement
    return str(info.value)


async def until_unknown(publish: Callable[[], Awaitable[None]]) -> OutcomeUnknown:
    """Publish with a short time limit until the limit ends after the broker was given the message.

    An earlier limit withdraws the message.
    """
    with anyio.fail_after(GUARD):
        while True:
            with pytest.raises(BrokerUnavailable) as info:
                await publish()
            if isinstance(info.value, OutcomeUnknown):
                return info.value


async def taken(acknowledgement: Awaitable[None]) -> None:
    with anyio.fail_after(GUARD):
        await acknowledgement
