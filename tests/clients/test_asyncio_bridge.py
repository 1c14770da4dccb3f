"""An asyncio-only client under trio: nothing is lost, nothing grows, nothing is left running."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from pywsapp._clients import asyncio_bridge as bridge
from pywsapp._clients.asyncio_bridge import connect_on_asyncio
from pywsapp.brokers.base import BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.exceptions import BrokerUnavailable

pytestmark = pytest.mark.anyio

GUARD = 10


@dataclass
class Client(BrokerConnection):
    """A client that runs on asyncio only, and says what was done with it."""

    log: list[str] = field(default_factory=list)
    connecting: float = 0
    produced: int = 0
    receive: Receive = lambda topic, data, position: None

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> Client:
        self.receive = receive
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self.log.append(f"connect {patterns}")
        await asyncio.sleep(self.connecting)
        return self

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Receive them; an empty batch takes forever."""
        assert asyncio.get_running_loop() is self.loop
        with anyio.CancelScope(shield=True):  # anyio knows where it is
            await anyio.lowlevel.checkpoint()
        try:
            if not messages:
                self.log.append("forever")
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        for topic, data, _ in messages:
            self.produced += 1
            self.receive(topic, data, Position("e", self.produced))

    async def subscribe(self, topics: Sequence[str]) -> None:
        raise LookupError(*topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self.lost.set_exception(ConnectionError("gone"))

    async def read_history(self, topic: str, since: Position | None) -> Kept:
        return Kept(since or Position("e", 0), [], True)

    async def wait_lost(self) -> None:
        await asyncio.shield(self.lost)

    async def aclose(self) -> None:
        self.log.append("close")
        if not self.lost.done():
            self.lost.set_result(None)
        elif not self.lost.cancelled():
            self.lost.exception()


def bridges() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pywsapp broker"]


@asynccontextmanager
async def connected(client: Client, receive: Receive) -> AsyncIterator[BrokerConnection]:
    connection = await connect_on_asyncio(client.connect, receive, ["a:*"])
    try:
        with anyio.fail_after(GUARD):
            yield connection
    finally:
        await connection.aclose()
        assert bridges() == []
        assert client.log[-1] == "close"


def nowhere(topic: str, data: bytes, position: Position | None) -> None:
    raise AssertionError("nothing is to be received")


def block_until(condition: Callable[[], bool]) -> None:
    """Wait in the thread of the event loop, so that it does not turn."""
    while not condition():
        time.sleep(0.001)


async def test_on_asyncio_there_is_no_bridge(anyio_backend_name: str) -> None:
    client = Client()
    async with connected(client, nowhere) as connection:
        assert (connection is client) == (anyio_backend_name == "asyncio")
        assert len(bridges()) == (anyio_backend_name == "trio")
        assert client.log == ["connect ['a:*']"]


async def test_what_is_received_comes_in_order_and_in_the_thread_of_the_loop() -> None:
    client, received, here = Client(), [], threading.get_ident()
    everything = anyio.Event()

    def receive(topic: str, data: bytes, position: Position | None) -> None:
        assert threading.get_ident() == here
        received.append((topic, data, position))
        if len(received) == 10_000:
            everything.set()

    async with connected(client, receive) as connection:
        for start in range(0, 10_000, 2500):
            await connection.publish([Outgoing("t", b"%d" % n) for n in range(start, start + 2500)])
        await everything.wait()
    assert received == [("t", b"%d" % n, Position("e", n + 1)) for n in range(10_000)]


@pytest.mark.parametrize(("size", "bound"), [(0, bridge.MAX_WAITING), (1 << 18, bridge.MAX_WAITING_BYTES >> 18)])
async def test_what_waits_is_bounded_when_trio_does_not_turn(anyio_backend_name: str, size: int, bound: int) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("there is no bridge")
    client, received, most = Client(), 0, 0
    everything = anyio.Event()

    def receive(topic: str, data: bytes, position: Position | None) -> None:
        nonlocal received, most
        most = max(most, client.produced - received)
        received += 1
        if received == 5 * bound:
            everything.set()

    async with connected(client, receive) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(connection.publish, [Outgoing("t", bytes(size))] * (5 * bound))
        while not client.produced:
            await anyio.lowlevel.checkpoint()
        block_until(lambda: client.produced > received + bound)
        await everything.wait()
    assert most == bound + 1  # one waits outside


async def test_closing_does_not_wait_for_what_is_received(anyio_backend_name: str) -> None:
    client, received = Client(), []
    async with connected(client, lambda *message: received.append(message)) as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.publish([Outgoing("t", b"")] * (bridge.MAX_WAITING * 3))
        await connection.aclose()
        after = len(received)
        await connection.aclose()
        await anyio.lowlevel.checkpoint()
        assert len(received) == after


async def test_what_is_cancelled_here_is_cancelled_there() -> None:
    client = Client()
    async with connected(client, nowhere) as connection:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.publish, [])
            while "forever" not in client.log:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        while "cancelled" not in client.log:
            await anyio.lowlevel.checkpoint()
        assert await connection.read_history("t", Position("x", 1)) == (("x", 1), [], True)


async def test_a_connect_that_is_cancelled_leaves_nothing() -> None:
    client = Client(connecting=3600)
    with anyio.move_on_after(0.05) as scope:
        await connect_on_asyncio(client.connect, nowhere, [])
    assert scope.cancelled_caught
    assert bridges() == []
    assert client.log == ["connect []"]


async def test_errors_come_through() -> None:
    async with connected(Client(), nowhere) as connection:
        with pytest.raises(LookupError, match="a"):
            await connection.subscribe(["a"])
        await connection.unsubscribe(["a"])
        with pytest.raises(ConnectionError, match="gone"):
            await connection.wait_lost()


async def test_a_connect_that_fails_leaves_nothing() -> None:
    async def connect(receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        raise LookupError("no such broker")

    with pytest.raises(LookupError, match="no such broker"):
        await connect_on_asyncio(connect, nowhere, [])
    assert bridges() == []


async def test_whoever_waits_is_told_when_it_is_closed(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("there is no bridge")
    client, told = Client(), 0

    async def publish_forever() -> None:
        nonlocal told
        with pytest.raises(BrokerUnavailable):
            await connection.publish([])
        told += 1

    async with connected(client, nowhere) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(publish_forever)
        tasks.start_soon(publish_forever)
        while client.log.count("forever") < 2:
            await anyio.lowlevel.checkpoint()
        await connection.aclose()
    assert told == 2
    with pytest.raises(BrokerUnavailable):
        await connection.publish([])
    with pytest.raises(BrokerUnavailable):
        await connection.wait_lost()
