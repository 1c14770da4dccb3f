"""`AsyncPublisher` and `Publisher` over a broker in this process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from support.serving import GUARD
from support.topic_bench import Bench, until_unknown

from pywsapp import (
    App,
    AsyncPublisher,
    BrokerUnavailable,
    ConfigurationError,
    Publisher,
    TopicError,
)
from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Position, Receive
from pywsapp.brokers.envelope import decode_envelope
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.brokers.relay import Relay

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


async def test_the_numbers_of_signed_messages_arrive_in_their_order() -> None:
    broker = Bench()
    async with AsyncPublisher(broker, key="secret") as publisher, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(publisher.publish, "news", str(number))
    messages = [message for batch in broker.batches for message in batch]
    numbers = [decode_envelope(message.data, "news", [b"secret"]).number for message in messages]
    assert len(numbers) == 50
    assert numbers == sorted(numbers), "receivers drop a number that is not larger than the last one"


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
        with anyio.fail_after(GUARD):
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
        with pytest.raises(TypeError, match="None is no message"):
            await publisher.publish("news", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [AsyncPublisher, Publisher])
def test_a_url_without_a_broker_is_refused(kind: type[AsyncPublisher] | type[Publisher]) -> None:
    with pytest.raises(ConfigurationError, match="needs a broker"):
        kind("memory")
    with pytest.raises(ConfigurationError, match="no broker for http"):
        kind("http://localhost")


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


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
    done = run_program(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "published\n", "")


def test_a_blocking_publisher_can_be_closed_and_used_again() -> None:
    broker = MemoryBroker()
    with Publisher(broker) as publisher:
        publisher.history("room:*")
        publisher.publish("room:1", "hello")
        publisher.close()
        publisher.publish("room:1", "hello again")
    assert broker.history.read("room:1", None).position.offset == 2


@pytest.mark.parametrize(("size", "seconds"), [(0, 1), (1, 0), (10**10, 1), (1, float("inf")), (1, float("nan"))])
def test_a_history_that_a_broker_cannot_keep_is_refused(size: int, seconds: float) -> None:
    with Publisher(MemoryBroker()) as publisher, pytest.raises(ConfigurationError, match="a history keeps"):
        publisher.history("room:*", size=size, seconds=seconds)
    with pytest.raises(ConfigurationError, match="a history keeps"):
        App().history("room:*", size=size, seconds=seconds)


def test_a_history_can_be_declared_after_the_first_message() -> None:
    broker = MemoryBroker()
    with Publisher(broker) as publisher:
        publisher.publish("news", "hello")
        publisher.history("room:*")
        publisher.publish("room:1", "hello")
    assert broker.history.read("room:1", None).position.offset == 1


def test_a_child_that_is_forked_while_a_thread_connects_can_publish() -> None:
    program = """
        import os, signal, threading
        import anyio
        from pywsapp import BrokerUnavailable, Publisher
        from pywsapp.brokers.memory import MemoryBroker

        connecting = threading.Event()

        class Hanging(MemoryBroker):
            async def connect(self, receive, patterns):
                if os.getpid() == parent:
                    connecting.set()
                    await anyio.sleep(1.5)
                return await super().connect(receive, patterns)

        parent = os.getpid()
        publishers = [Publisher(Hanging(), timeout=20) for _ in range(3)]
        threads = [threading.Thread(target=each.publish, args=("news", "hello")) for each in publishers]
        for thread in threads:
            thread.start()
        connecting.wait(20)
        children = [os.fork()]
        if children[0]:
            children.append(os.fork())
        if children[-1]:
            assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
            for thread in threads:
                thread.join()
            publishers[0].publish("news", "goes on in the parent")
            print("published", flush=True)
        else:
            signal.alarm(30)
            for each in publishers:
                each.publish("news", "in the child")
                each.close()
            os._exit(0)
    """
    done = run_program(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "published\n", "")


class Hanging(MemoryBroker):
    """A broker that does not answer while a process connects."""

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        await anyio.sleep_forever()
        raise AssertionError


def test_a_blocking_publisher_blocks_no_longer_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "CONNECT_SECONDS", 2 * GUARD)
    broker = Hanging()
    with Publisher(broker, timeout=0.2) as publisher:
        publisher.history("room:*")
        for topic in ("news", "room:1"):
            began = time.monotonic()
            with pytest.raises(
                BrokerUnavailable, match=r"the memory broker has not answered within 0\.2 seconds"
            ) as caught:
                publisher.publish(topic, "hello")
            assert caught.type is BrokerUnavailable
            assert time.monotonic() - began < GUARD  # the attempt to connect takes longer


def test_closing_a_publisher_keeps_other_threads_from_nothing() -> None:
    broker = Bench()
    publisher = Publisher(broker, timeout=20)
    publisher.history("room:*")
    publisher.publish("news", "hello")
    broker.available = False
    broker.disconnect()
    waiting = threading.Thread(target=_publish, args=(publisher, "room:1"))
    waiting.start()
    while not any(relay.stats.pending for relay in [_relay(publisher)] if relay):
        time.sleep(0.001)
    closing = threading.Thread(target=publisher.close)
    closing.start()
    while publisher._thread is not None:
        time.sleep(0.001)
    with pytest.raises(BrokerUnavailable, match="not connected"):
        publisher.publish("news", "a new connection is tried meanwhile")
    broker.available = True
    for thread in (closing, waiting):
        thread.join(20)
        assert not thread.is_alive()
    assert broker.history.read("room:1", None).position.offset == 1
    publisher.close()


def _publish(publisher: Publisher, topic: str) -> None:
    publisher.publish(topic, "hello")


def _relay(publisher: Publisher) -> Relay | None:
    thread = publisher._thread
    return None if thread is None else thread.publisher._relay


# -- outcomes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_a_kept_message_that_waits_for_the_broker_is_withdrawn(how: str) -> None:
    broker = Bench()
    broker.available = False
    async with AsyncPublisher(broker) as publisher:
        publisher.history("room:*")
        if how == "timeout":
            with pytest.raises(BrokerUnavailable, match="has not answered within") as caught:
                await publisher._publish("room:1", "late", None, 0.02)
            assert caught.type is BrokerUnavailable
        else:
            with anyio.move_on_after(0.02):
                await publisher.publish("room:1", "late")
        broker.available = True
        await publisher.publish("room:1", "in time")
        start = broker.history.read("room:1", None).position._replace(offset=0)
        kept = broker.history.read("room:1", start).messages
        assert [decode_envelope(data, "room:1").message for _, data in kept] == ["in time"]


async def test_a_message_that_the_broker_may_have_is_unknown_and_is_not_repeated() -> None:
    broker = Bench()
    async with AsyncPublisher(broker) as publisher:
        publisher.history("room:*")
        gate = anyio.Event()
        broker.before["publish"] = gate.wait
        unknown = await until_unknown(lambda: publisher._publish("room:1", "late", "order:7", 0.02))
        assert "publish it again with message_id='order:7'" in str(unknown)
        assert unknown.message_id == "order:7"
        broker.before.clear()
        broker.disconnect()
        await publisher.publish("room:1", "in time")
        assert [message for batch in broker.batches for message in batch if b"late" in message.data] == []


def test_an_invalid_id_is_refused() -> None:
    with (
        Publisher(MemoryBroker()) as publisher,
        pytest.raises(ConfigurationError, match="cannot be the id of a message"),
    ):
        publisher.publish("news", "hello", message_id="no spaces")
