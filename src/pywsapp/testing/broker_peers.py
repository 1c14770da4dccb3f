"""Connections to a broker for the checks of brokers, with the messages that they receive."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from pywsapp.brokers.base import Broker, BrokerConnection, Outgoing, Position

MakeBroker = Callable[[], Broker]
Check = Callable[[MakeBroker], Awaitable[None]]
Received = tuple[str, bytes, "Position | None"]

#: Seconds in which published messages must arrive, also on a busy machine.
PATIENCE = 30.0


class Peer:
    """One connection to a broker, and the messages that it has received."""

    def __init__(self) -> None:
        self.connection: BrokerConnection
        self.received: list[Received] = []
        self._event = anyio.Event()

    def receive(self, topic: str, data: bytes, position: Position | None) -> None:
        """Store a message; the `Receive` function of the connection."""
        self.received.append((topic, data, position))
        self._event.set()

    async def publish(self, topic: str, *messages: bytes) -> None:
        """Publish messages in one batch."""
        await self.connection.publish([Outgoing(topic, message) for message in messages])

    async def wait_for(self, number: int) -> None:
        """Wait until this number of messages has arrived."""
        with anyio.move_on_after(PATIENCE) as scope:
            while len(self.received) < number:
                self._event = anyio.Event()
                await self._event.wait()
        assert not scope.cancelled_caught, f"{len(self.received)} messages arrived, not {number}"

    async def expect(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Wait for the same number of messages, compare them, and forget them."""
        await self.wait_for(len(messages))
        found = [(topic, data) for topic, data, _ in self.received]
        expected = list(messages)
        assert found == expected, f"received {_describe(found)} instead of {_describe(expected)}"
        self.received.clear()


def _describe(messages: Sequence[tuple[str, bytes]]) -> str:
    shown = [(topic, data[:20]) for topic, data in messages[:5]]
    return f"{len(messages)} messages {shown!r}{'...' if len(messages) > len(shown) else ''}"


@asynccontextmanager
async def peers(make: MakeBroker, number: int = 1, patterns: Sequence[str] = ()) -> AsyncIterator[list[Peer]]:
    """Connect peers, each through a broker of its own, and close them at the end."""
    found: list[Peer] = []
    try:
        for _ in range(number):
            peer = Peer()
            peer.connection = await make().connect(peer.receive, patterns)
            found.append(peer)
        yield found
    finally:
        for peer in found:
            with anyio.move_on_after(PATIENCE, shield=True):
                await peer.connection.aclose()


def unique_topic(name: str = "t") -> str:
    """Return the name of a topic that no other check and no other program uses."""
    return f"{name}:{secrets.token_hex(6)}"


async def expect_nothing_else(topic: str, publisher: Peer, *subscribers: Peer) -> None:
    """Check that no message has arrived: a further one, published now, is the next."""
    await publisher.publish(topic, b"the end")
    for peer in subscribers:
        await peer.expect([(topic, b"the end")])
