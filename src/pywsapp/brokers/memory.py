"""A broker within one process: between the apps of a test, or of a program that runs several apps."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from pywsapp._clocks import monotonic_clock
from pywsapp.brokers.base import Broker, BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.topics.history.memory_store import MemoryHistory
from pywsapp.topics.names import TopicPattern


class MemoryBroker(Broker):
    """Carries messages between all connections to this object, in one event loop.

    Attributes:
        available: False refuses connections, like a broker that is down.
        connections: the open connections.
        history: the kept messages of the topics.
    """

    name = "the memory broker"
    keeps_history = True

    def __init__(self) -> None:
        self.available = True
        self.connections: list[MemoryConnection] = []
        self.history = MemoryHistory(monotonic_clock)

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        """Connect, see `Broker.connect`.

        Raises:
            BrokerUnavailable: `available` is False.
        """
        await anyio.lowlevel.checkpoint()
        if not self.available:
            raise BrokerUnavailable("it is not available")
        connection = MemoryConnection(self, receive, [TopicPattern(text) for text in patterns])
        self.connections.append(connection)
        return connection

    def disconnect(self) -> None:
        """Break all connections, like a broker that restarts."""
        for connection in list(self.connections):
            connection.lose()


class MemoryConnection(BrokerConnection):
    """A connection to a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, receive: Receive, patterns: Sequence[TopicPattern]) -> None:
        self._broker = broker
        self._receive = receive
        self._patterns = patterns
        self._topics: set[str] = set()
        self._lost = anyio.Event()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._check()
        for topic, data, keep in messages:
            position = None
            if keep is not None:
                position = self._broker.history.append(topic, data, keep)
                if position is None:
                    continue
            for connection in list(self._broker.connections):
                connection.deliver(topic, data, position)

    def deliver(self, topic: str, data: bytes, position: Position | None) -> None:
        """Hand over a message if its topic is subscribed. Called by the broker's connections."""
        if topic in self._topics or any(pattern.matches(topic) for pattern in self._patterns):
            self._receive(topic, data, position)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._check()
        self._topics.update(topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._check()
        self._topics.difference_update(topics)

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        await self._check()
        return self._broker.history.read(topic, since, max_bytes)

    async def wait_lost(self) -> None:
        await self._lost.wait()

    async def aclose(self) -> None:
        self.lose()

    def lose(self) -> None:
        """Break the connection; safe to call again."""
        self._lost.set()
        if self in self._broker.connections:
            self._broker.connections.remove(self)

    async def _check(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self._lost.is_set():
            raise BrokerUnavailable("the connection is lost")
