"""`AsyncPublisher` and `Publisher` over a broker in this process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from pywsapp import AsyncPublisher, BrokerUnavailable, ConfigurationError, Publisher, TopicError
from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import decode_envelope
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio
Received = list[tuple[str, str | bytes | None, Position | None]]


@asynccontextmanager
async def subscribed(broker: MemoryBroker, *topics: str, key: bytes | None = None) -> AsyncIterator[Received]:
    received: Received = []

    def receive(topic: str, data: bytes, position: Position | None) -> None:
        received.append((topic, decode_envelope(data, topic, () if key is None else (key,)).message, position))

    connection = await broker.connect(receive, [])
    await connection.subscribe(topics)
    yield received
    await connection.aclose()


async def test_a_message_arrives() -> None:
    broker = MemoryBroker()
    async with subscribed(broker, "news") as received, AsyncPublisher(broker) as publisher:
        await publisher.publish("news", "hello")
        await publisher.publish("news", b"\x00\xff")
        assert received == [("news", "hello", None), ("news", b"\x00\xff", None)]


async def test_messages_are_signed_with_the_key() -> None:
    broker = MemoryBroker()
    async with subscribed(broker, "news", key=b"secret") as received:
        async with AsyncPublisher(broker, key="secret") as publisher:
            await publisher.publish("news", "hello")
        assert received == [("news", "hello", None)]


async def test_messages_of_a_history_have_positions() -> None:
    broker = MemoryBroker()
    async with subscribed(broker, "room:1", "news") as received, AsyncPublisher(broker) as publisher:
        publisher.history("room:*", size=2, seconds=60)
        for number in range(3):
            await publisher.publish("room:1", str(number))
        await publisher.publish("news", "plain")
        assert [position and position.offset for _, _, position in received] == [1, 2, 3, None]


async def test_publishing_without_a_connection_raises() -> None:
    broker = MemoryBroker()
    broker.available = False
    async with AsyncPublisher(broker) as publisher:
        with pytest.raises(BrokerUnavailable, match="not connected"):
            await publisher.publish("news", "hello")
        broker.available = True
        with anyio.fail_after(10):
            while True:
                try:
                    await publisher.publish("news", "hello")
                    break
                except BrokerUnavailable:
                    await anyio.lowlevel.checkpoint()


async def test_invalid_calls_raise() -> None:
    publisher = AsyncPublisher(MemoryBroker())
    with pytest.raises(ConfigurationError, match="within `async with`"):
        await publisher.publish("news", "hello")
    async with publisher:
        with pytest.raises(TopicError, match="cannot be the name"):
            await publisher.publish("no spaces", "hello")
        with pytest.raises(TypeError, match="a message is a str or bytes"):
            await publisher.publish("news", {})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [AsyncPublisher, Publisher])
def test_a_url_without_a_broker_is_refused(kind: type[AsyncPublisher] | type[Publisher]) -> None:
    with pytest.raises(ConfigurationError, match="needs a broker"):
        kind("memory")
    with pytest.raises(ConfigurationError, match="no broker for http"):
        kind("http://localhost")


def test_a_blocking_publisher_works_after_a_fork_and_does_not_keep_the_program_alive() -> None:
    program = """
        import os
        from pywsapp import Publisher
        from pywsapp.brokers.memory import MemoryBroker

        class Shared(MemoryBroker):
            pass

        publisher = Publisher(Shared())
        publisher.publish("news", "hello")
        child = os.fork()
        publisher.publish("news", "in the parent or the child")
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("published", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "published\n", "")


def test_a_blocking_publisher_can_be_closed_and_used_again() -> None:
    broker = MemoryBroker()
    with Publisher(broker) as publisher:
        publisher.history("room:*")
        publisher.publish("room:1", "hello")
        publisher.close()
        publisher.publish("room:1", "hello again")
    assert broker.history.read("room:1", None).position.offset == 2


def test_a_history_can_be_declared_after_the_first_message() -> None:
    broker = MemoryBroker()
    with Publisher(broker) as publisher:
        publisher.publish("news", "hello")
        publisher.history("room:*")
        publisher.publish("room:1", "hello")
    assert broker.history.read("room:1", None).position.offset == 1
