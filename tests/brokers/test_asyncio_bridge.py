"""A broker whose client needs asyncio, under trio: no message is lost, the queue is bounded, no thread stays."""

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

from pywsapp.brokers.asyncio_bridge import MAX_QUEUED, MAX_QUEUED_BYTES, connect_on_asyncio
from pywsapp.brokers.base import BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.exceptions import BrokerUnavailable

pytestmark = pytest.mark.anyio

TIMEOUT = 20


@dataclass
class Client(BrokerConnection):
    """A client that runs on asyncio only, and logs its calls."""

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
        """Receive the messages oneself; an empty batch never returns."""
        assert asyncio.get_running_loop() is self.loop
        with anyio.CancelScope(shield=True):  # anyio detects asyncio
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

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        return Kept(since or Position("e", 0), [], True)

    async def wait_lost(self) -> None:
        await asyncio.shield(self.lost)

    async def aclose(self) -> None:
        self.log.append("close")
        if not self.lost.done():
            self.lost.set_result(None)
        elif not self.lost.cancelled():
            self.lost.exception()


def broker_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pywsapp broker"]


@asynccontextmanager
async def connected(client: Client, receive: Receive) -> AsyncIterator[BrokerConnection]:
    connection = await connect_on_asyncio(client.connect, receive, ["a:*"])
    try:
        with anyio.fail_after(TIMEOUT):
            yield connection
    finally:
        await connection.aclose()
        assert broker_threads() == []
        assert client.log[-1] == "close"


def unexpected(topic: str, data: bytes, position: Position | None) -> None:
    raise AssertionError("received a message")


def block_until(condition: Callable[[], bool]) -> None:
    """Block the event loop until a condition holds."""
    while not condition():
        time.sleep(0.001)


async def test_asyncio_uses_the_connection_directly(anyio_backend_name: str) -> None:
    client = Client()
    async with connected(client, unexpected) as connection:
        assert (connection is client) == (anyio_backend_name == "asyncio")
        assert len(broker_threads()) == (anyio_backend_name == "trio")
        assert client.log == ["connect ['a:*']"]


async def test_messages_arrive_in_order_and_in_the_thread_of_the_event_loop() -> None:
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


@pytest.mark.parametrize(("size", "bound"), [(0, MAX_QUEUED), (1 << 18, MAX_QUEUED_BYTES >> 18)])
async def test_the_queue_is_bounded_while_trio_is_blocked(anyio_backend_name: str, size: int, bound: int) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("only trio has a bridge")
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
        assert client.produced == received + bound + 1, "one message waits outside of the queue"
        await everything.wait()
    assert most <= bound + 2, "one more is taken from the queue and not delivered yet"


async def test_closing_does_not_wait_for_messages_in_the_queue(anyio_backend_name: str) -> None:
    client, received = Client(), []
    async with connected(client, lambda *message: received.append(message)) as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.publish([Outgoing("t", b"")] * (MAX_QUEUED * 3))
        await connection.aclose()
        after = len(received)
        await connection.aclose()
        await anyio.lowlevel.checkpoint()
        assert len(received) == after


async def test_cancelling_a_call_cancels_its_asyncio_task() -> None:
    client = Client()
    async with connected(client, unexpected) as connection:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.publish, [])
            while "forever" not in client.log:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        while "cancelled" not in client.log:
            await anyio.lowlevel.checkpoint()
        assert await connection.read_history("t", Position("x", 1)) == (("x", 1), [], True)


async def test_a_cancelled_connect_leaves_no_thread() -> None:
    client = Client(connecting=3600)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect_on_asyncio, client.connect, unexpected, [])
        while not client.log:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert broker_threads() == []
    assert client.log == ["connect []"]


async def test_exceptions_reach_the_caller() -> None:
    async with connected(Client(), unexpected) as connection:
        with pytest.raises(LookupError, match="a"):
            await connection.subscribe(["a"])
        await connection.unsubscribe(["a"])
        with pytest.raises(ConnectionError, match="gone"):
            await connection.wait_lost()


async def test_a_failed_connect_leaves_no_thread() -> None:
    async def connect(receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        raise LookupError("no such broker")

    with pytest.raises(LookupError, match="no such broker"):
        await connect_on_asyncio(connect, unexpected, [])
    assert broker_threads() == []


async def test_closing_ends_waiting_calls(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("only trio has a bridge")
    client, raised = Client(), 0

    async def publish_forever() -> None:
        nonlocal raised
        with pytest.raises(BrokerUnavailable):
            await connection.publish([])
        raised += 1

    async with connected(client, unexpected) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(publish_forever)
        tasks.start_soon(publish_forever)
        while client.log.count("forever") < 2:
            await anyio.lowlevel.checkpoint()
        await connection.aclose()
    assert raised == 2
    with pytest.raises(BrokerUnavailable):
        await connection.publish([])
    with pytest.raises(BrokerUnavailable):
        await connection.wait_lost()
