"""A router of the local bus in the process of a test, with brokers and with raw sockets that the test drives."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from pywsapp.brokers.base import Position
from pywsapp.brokers.local.broker import LocalBroker, LocalConnection
from pywsapp.brokers.local.frames import BEGIN, BEGUN, FrameReader, encode, items_of
from pywsapp.brokers.local.router import QUEUE_LIMIT, BusRouter
from pywsapp.testing.broker_peers import Peer
from support.serving import GUARD

TOPIC = "room:42"
NAME = TOPIC.encode()
KIB = 1024

#: Topic, message and position.
Received = tuple[str, bytes, Position | None]


class Bus:
    """A router, and the sockets of its workers."""

    def __init__(self, queue_limit: int) -> None:
        self.router = BusRouter(queue_limit)
        self._ends: list[socket.socket] = []
        self._brokers: list[LocalBroker] = []
        self._number = 0

    def pair(self) -> socket.socket:
        """Return the socket of a new worker."""
        ours, theirs = socket.socketpair()
        self._number += 1
        self.router.attach(self._number, ours)
        return theirs

    def broker(self) -> LocalBroker:
        """Return the broker of a new worker."""
        self._brokers.append(LocalBroker(self.pair()))
        return self._brokers[-1]

    def close(self) -> None:
        """Close the router, the brokers and the sockets."""
        self.router.close()
        for broker in self._brokers:
            broker.close()
        for end in self._ends:
            end.close()

    def raw(self) -> socket.socket:
        """Return the non-blocking socket of a new worker that sends only what the test sends."""
        end = self.pair()
        end.setblocking(False)
        self._ends.append(end)
        return end

    async def peer(self, *topics: str) -> Peer:
        """Return a connected worker that subscribes to topics."""
        peer = Peer()
        peer.connection = await self.broker().connect(peer.receive, [])
        await peer.connection.subscribe(topics)
        return peer


@asynccontextmanager
async def running(queue_limit: int = QUEUE_LIMIT) -> AsyncIterator[Bus]:
    """Run a router; the test fails if the block takes too long."""
    bus = Bus(queue_limit)
    try:
        with anyio.fail_after(GUARD):
            yield bus
    finally:
        bus.close()
        # Tasks of the router close its sockets.
        for _ in range(3):
            await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds for which there is no event."""
    while not condition():  # noqa: ASYNC110 - there is no event for this
        await anyio.sleep(0.002)


async def send(end: socket.socket, data: bytes) -> None:
    while data:
        await anyio.wait_writable(end)
        data = data[end.send(data) :]


async def frames(end: socket.socket) -> AsyncGenerator[tuple[int, bytes, list[bytes]], None]:
    """Yield the frames that come from a socket, until the end of the stream."""
    reader = FrameReader()
    while True:
        await anyio.wait_readable(end)
        try:
            data = end.recv(1 << 20)
        except ConnectionResetError:
            return
        if not data:
            return
        for frame in reader.read(data):
            yield frame[0], frame[2], items_of(reader.buffer, frame)


@asynccontextmanager
async def without_router(
    received: list[Received] | None = None,
) -> AsyncIterator[tuple[LocalConnection, socket.socket]]:
    """Yield a connection, and the other end of its socket, where the test acts as the router.

    Args:
        received: a list to which the received messages are appended.
    """
    found: list[Received] = [] if received is None else received
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    broker = LocalBroker(theirs)

    async def answer() -> None:
        assert await read(ours) == [(BEGIN, b"1", [])]
        await send(ours, encode(BEGUN, b"1", []))

    try:
        with anyio.fail_after(GUARD), ours:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                connection = await broker.connect(lambda *message: found.append(message), [])
            yield connection, ours
    finally:
        broker.close()
        await anyio.lowlevel.checkpoint()


async def read(end: socket.socket) -> list[tuple[int, bytes, list[bytes]]]:
    """Wait for data; return the complete frames in it."""
    await anyio.wait_readable(end)
    reader = FrameReader()
    return [(frame[0], frame[2], items_of(reader.buffer, frame)) for frame in reader.read(end.recv(1 << 16))]
