"""The relay's connection: it is replaced whatever step fails or hangs, and ends when it is cancelled."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD
from support.topic_bench import Bench, Inbox, failing, failure_of, kept, relaying, taken, until
from support.waiting import until_blocked

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import BrokerConnection
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.relay import Relay, pause_before
from pywsapp.topics.registry import TopicRegistry

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


@contextmanager
def impatient() -> Iterator[None]:
    """Have short time limits in a block whose steps hang; other steps can take longer on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONNECT_SECONDS", "PUBLISH_SECONDS", "CLOSE_SECONDS"):
            patch.setattr(relay_module, name, 0.05)
        yield


def test_pauses_grow_and_are_random_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    random.seed(1)
    pauses = {attempt: [pause_before(attempt) for _ in range(200)] for attempt in (1, 2, 3, 6, 7, 20, 10**6)}
    for attempt, found in pauses.items():
        longest = min(3, 0.1 * 2 ** min(attempt, 30))
        assert longest / 2 <= min(found) < 0.6 * longest
        assert 0.9 * longest < max(found) <= longest
        assert len(set(found)) > 150


async def test_pauses_grow_until_a_connection_was_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def note(attempt: int) -> float:
        attempts.append(attempt)
        return 0

    monkeypatch.setattr(relay_module, "pause_before", note)
    broker = Bench()
    broker.before["connect"] = failing(OSError("refused"), 3)
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        await until(lambda: relay.connection)
        assert attempts == [1, 2, 3]
        broker.disconnect()  # too soon
        await until(lambda: relay.stats.connects == 2)
        assert attempts == [1, 2, 3, 4]
        monkeypatch.setattr(relay_module, "GOOD_SECONDS", -1)
        broker.disconnect()
        await until(lambda: relay.stats.connects == 3)
        assert attempts == [1, 2, 3, 4, 1]
        broker.before["connect"] = failing(OSError("took long"), 2)
        broker.disconnect()
        await until(lambda: relay.stats.connects == 4)
        assert attempts == [1, 2, 3, 4, 1, 1, 2, 3], "what never was a connection was no good one"


async def test_one_log_line_when_the_broker_is_lost_and_one_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        assert caplog.messages == ["connected to the memory broker"]
        caplog.clear()
        broker.before["connect"] = failing(OSError("refused"), 5)
        broker.disconnect()
        await until(lambda: relay.connection is None)
        for _ in range(3):
            relay.publish("t", b"x")
        await until(lambda: relay.connection)
    (lost, back) = caplog.records
    assert (lost.levelname, lost.getMessage()) == (
        "ERROR",
        "the memory broker is unavailable (the connection was closed); local delivery goes on, trying again",
    )
    assert back.levelname == "WARNING"
    found = re.fullmatch(
        "connected to the memory broker again; this process received nothing for at least ([0-9.]+) seconds, "
        "and 3 messages were not published",
        back.getMessage(),
    )
    assert found is not None
    assert float(found[1]) < GUARD


@pytest.mark.parametrize("step", ["connect", "subscribe", "publish", "unsubscribe", "close"])
async def test_a_step_that_hangs_is_cancelled(step: str) -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("old")
    async with AsyncExitStack() as stack:
        if step in ("connect", "subscribe"):
            broker.before[step] = anyio.sleep_forever
            with impatient():
                await stack.enter_async_context(relaying(relay))
                assert relay.connection is None
                assert relay.stats.connects == 0
                broker.before.clear()
        else:
            await stack.enter_async_context(relaying(relay))
            broker.before[step] = anyio.sleep_forever
            with impatient():
                message = relay.publish("t", b"x")
                relay.unsubscribe("old")
                if step == "publish":
                    assert "does not answer" in await failure_of(message)
                elif step == "close":
                    broker.disconnect()
                await until(lambda: relay.connection is None)
                broker.before.clear()
        relay.subscribe("new")
        await until(lambda: relay.connection and "new" in broker.subscribed)
        await taken(relay.publish("new", b"again"))
        assert inbox.data == [b"again"]


async def test_run_has_started_after_the_first_attempt() -> None:
    broker = Bench()
    broker.before["connect"] = failing(OSError("refused"))
    async with relaying(Relay(broker, Inbox())):
        assert broker.calls == ["connect"]


async def test_on_connect_is_called_for_each_connection_and_can_fail() -> None:
    broker = Bench()
    seen: list[set[str]] = []

    async def on_connect(connection: BrokerConnection) -> None:
        seen.append(broker.subscribed)
        if len(seen) == 1:
            raise LookupError("not yet")

    relay = Relay(broker, Inbox(), on_connect=on_connect)
    relay.subscribe("t")
    async with relaying(relay):
        await until(lambda: relay.connection)
        broker.disconnect()
        await until(lambda: relay.stats.connects == 2)
        assert seen == [{"t"}, {"t"}, {"t"}]
        assert len(broker.connections) == 1, "that which was no good has been closed"


@pytest.mark.parametrize("step", ["connect", "subscribe", "publish", "close", "pause", "rest"])
@pytest.mark.parametrize("cancelled", ["quietly", "loudly"])
async def test_run_can_be_cancelled_in_every_step(step: str, cancelled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    reached = anyio.Event()

    async def stay() -> None:
        reached.set()
        try:
            await anyio.sleep_forever()
        finally:
            if cancelled == "loudly":
                raise OSError("interrupted")

    monkeypatch.setattr(relay_module, "CLOSE_SECONDS", 0.01)
    if step == "pause":
        monkeypatch.setattr(relay_module, "pause_before", lambda attempt: 1000.0)
        broker.available = False
        reached.set()
    elif step == "rest":
        reached.set()
    else:
        broker.before[step] = stay
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.run)
        await until_blocked()
        relay.subscribe("t")
        acknowledgement = relay.publish("t", b"x", kept(1))
        if step == "close":
            broker.disconnect()
        with anyio.fail_after(GUARD):
            await reached.wait()
            await until_blocked()
            tasks.cancel_scope.cancel()
    assert not broker.connections
    assert relay.connection is None
    assert relay.stats.pending == 0
    if step in ("connect", "publish", "pause"):
        assert await failure_of(acknowledgement) == "the app has stopped"


async def test_run_can_be_called_again() -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    for number in (1, 2):
        async with relaying(relay):
            relay.subscribe("t")
            await taken(relay.subscribed("t"))
            await taken(relay.publish("t", b"%d" % number))
    assert inbox.data == [b"1", b"2"]
    assert relay.stats.connects == 2


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_queued_messages_are_published_before_the_end() -> None:
    broker, inbox = MemoryBroker(), Inbox()
    registry, listening = TopicRegistry(broker), Relay(broker, inbox)
    listening.subscribe("t")
    async with relaying(listening):
        async with registry.running():
            for number in range(1500):
                registry.topic("t").broadcast(str(number))
        assert len(inbox.data) == 1500


@pytest.mark.parametrize("how", ["hangs", "is unavailable"])
async def test_the_end_does_not_wait_for_a_broker(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pywsapp.topics.registry._FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(relay_module, "PUBLISH_SECONDS", 2 * GUARD)
    broker = Bench()
    registry = TopicRegistry(broker)
    with anyio.fail_after(GUARD):
        async with registry.running():
            relay = registry.relay
            assert relay is not None
            if how == "hangs":
                broker.before["publish"] = anyio.sleep_forever
            else:
                broker.available = False
                broker.disconnect()
            plain = relay.publish("t", b"x")
            acknowledgement = relay.publish("t", b"x", kept(1))
            await until_blocked()
    assert await failure_of(acknowledgement) == "the app has stopped"
    assert await failure_of(plain)
    number = 2 if how == "hangs" else 1  # the plain one fails before if the broker is unavailable
    assert (
        caplog.messages[-1] == f"{number} messages were not published to the memory broker, because the app has stopped"
    )


async def test_a_broadcast_after_the_end_of_the_connection_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    relay = Relay(Bench(), Inbox())
    async with relaying(relay):
        pass
    caplog.clear()
    for _ in range(2):
        await failure_of(relay.publish("t", b"x"))
    assert caplog.messages == [
        "a message on 't' does not leave this process, because its connection to the memory broker has ended"
    ]


async def test_flush_ends_when_all_messages_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.before["publish"] = anyio.sleep_forever
        relay.publish("t", b"x")
        await until(lambda: "publish" in broker.calls)
        broker.available = False

        async def disconnect() -> None:
            broker.disconnect()

        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(GUARD):
                tasks.start_soon(disconnect)
                await relay.flush()
