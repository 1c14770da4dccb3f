"""The relay publishes nothing twice and reports what is lost."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import GUARD
from support.topic_bench import Bench, Inbox, failing, failure_of, kept, relaying, taken, until
from support.waiting import until_blocked

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import MIB
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.relay import MAX_PENDING, MAX_TRIES, Relay
from pywsapp.exceptions import BrokerUnavailable, TopicError

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


# -- publishing --------------------------------------------------------------------------------------------------------


async def test_queued_messages_are_published_in_order_and_in_batches() -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    async with relaying(relay):
        acknowledgements = [relay.publish("t", b"%d" % number) for number in range(1200)]
        for acknowledgement in acknowledgements:
            await taken(acknowledgement)
        assert inbox.data == [b"%d" % number for number in range(1200)]
        assert [len(batch) for batch in broker.batches] == [500, 500, 200]
        assert relay.stats[:6] == (True, 1, 1200, 0, 1200, 0)


async def test_a_batch_is_bounded_in_bytes() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        for _ in range(8):
            relay.publish("t", bytes(400_000))
        await relay.flush()
        assert [len(batch) for batch in broker.batches] == [3, 3, 2]


async def test_a_plain_message_fails_at_once_while_there_is_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    assert "not connected" in await failure_of(relay.publish("t", b"too early"))
    broker.available = False
    async with relaying(relay):
        acknowledgement = relay.publish("t", b"x")
        relay.publish("t", b"not awaited")
        assert await failure_of(acknowledgement) == "the memory broker is not connected"
        assert await failure_of(acknowledgement) == "the memory broker is not connected", "once more"
        assert relay.stats[:6] == (False, 0, 0, 3, 0, 0)
        broker.available = True
        await until(lambda: relay.connection)
        await taken(relay.publish("t", b"x"))
    assert "not connected" in await failure_of(relay.publish("t", b"too late"))
    assert "not connected" in await failure_of(relay.publish("t", b"too late", kept(1)))
    assert relay.stats.failed == 5


async def test_a_plain_message_in_flight_fails_with_the_connection() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.before["publish"] = anyio.Event().wait
        on_its_way = relay.publish("t", b"1")
        await until(lambda: "publish" in broker.calls)
        queued = relay.publish("t", b"2")
        assert relay.stats.pending == 2
        broker.before.clear()
        broker.disconnect()
        for acknowledgement in (on_its_way, queued):
            assert await failure_of(acknowledgement) == "the memory broker is unavailable: the connection was closed"
        assert relay.stats[2:6] == (0, 2, 0, 0)
        await until(lambda: relay.connection)
        assert not any(broker.batches), "they are not repeated"
        await taken(relay.publish("t", b"3"))


async def test_a_failed_message_has_the_reason() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.before["publish"] = failing(OSError("the cable is cut"), 1)
        assert "is unavailable: OSError: the cable is cut" in await failure_of(relay.publish("t", b"1"))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kept_message_is_repeated_and_comes_once(when: str) -> None:
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    async with relaying(relay):
        getattr(broker, when)["publish"] = failing(OSError("broken"), 1)
        acknowledgements = [relay.publish("t", b"%d" % number, kept(number)) for number in range(1, 4)]
        plain = relay.publish("t", b"plain")
        assert "broken" in await failure_of(plain)
        acknowledgements.append(relay.publish("t", b"4", kept(4)))  # meanwhile
        for acknowledgement in acknowledgements:
            await taken(acknowledgement)
        assert relay.stats[:6] == (True, 2, 4, 1, len(inbox.data), 0)
        kept_ones = [data for _, data, position in inbox.messages if position is not None]
        assert kept_ones[:3] == [b"1", b"2", b"3"] or when == "after"
        assert broker.history.read("t", broker.history.read("t", None).position._replace(offset=0)).messages == tuple(
            (number, b"%d" % number) for number in range(1, 5)
        )


async def test_a_kept_message_waits_for_the_connection_and_keeps_its_place() -> None:
    broker, inbox = Bench(), Inbox()
    broker.available = False
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    async with relaying(relay):
        acknowledgements = [relay.publish("t", b"%d" % number, kept(number)) for number in range(1, 1001)]
        assert relay.stats.pending == 1000
        broker.available = True
        for acknowledgement in acknowledgements:
            await taken(acknowledgement)
        assert inbox.data == [b"%d" % number for number in range(1, 1001)]


@pytest.mark.parametrize("connected", [True, False])
async def test_a_kept_message_does_not_wait_for_a_broker_that_accepts_nothing_while_the_app_drains(
    connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "GIVE_UP_SECONDS", 0.05)
    broker = Bench()
    broker.available = connected
    broker.before["publish"] = anyio.Event().wait
    relay = Relay(broker, Inbox())
    async with relaying(relay), anyio.create_task_group() as tasks:
        acknowledgements = [relay.publish("t", b"%d" % number, kept(number)) for number in range(1, 1001)]
        tasks.start_soon(relay.give_up_when_stuck, 0)
        for acknowledgement in acknowledgements:
            assert await failure_of(acknowledgement) == "the memory broker accepts nothing, and the app stops"
        assert relay.stats.pending == 0
        with anyio.fail_after(GUARD):
            await relay.flush()
            assert not connected or await failure_of(relay.publish("t", b"later", kept(2000)))
        if not connected:
            assert await failure_of(relay.publish("t", b"later", kept(2000))) == "the memory broker is not connected"
        tasks.cancel_scope.cancel()


async def test_a_slow_broker_gets_all_messages_while_the_app_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "_BATCH", 1)
    broker, inbox = Bench(), Inbox()
    relay = Relay(broker, inbox)
    relay.subscribe("t")
    looks = 0

    async def sleep(seconds: float) -> None:
        """Pass the time until the relay looks again, in which the broker accepts one message."""
        nonlocal looks
        looks += seconds == relay_module.GIVE_UP_SECONDS
        before = relay.stats.published
        await until(lambda: not seconds or relay.stats.published > before)

    async def wait() -> None:
        await until(lambda: looks > relay.stats.published)

    async with relaying(relay), anyio.create_task_group() as tasks:
        broker.before["publish"] = wait
        monkeypatch.setattr(anyio, "sleep", sleep)
        tasks.start_soon(relay.give_up_when_stuck, 0)
        acknowledgements = [relay.publish("t", b"%d" % number, kept(number)) for number in range(1, 31)]
        for acknowledgement in acknowledgements:
            await taken(acknowledgement)
        assert inbox.data == [b"%d" % number for number in range(1, 31)]
        assert (relay.stats.published, relay.stats.failed) == (30, 0)
        tasks.cancel_scope.cancel()


async def test_a_kept_message_that_the_broker_never_accepts_is_dropped_after_some_attempts() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())

    async def choke() -> None:
        if any(acknowledgement.message.data == b"poison" for acknowledgement in relay._in_flight):
            raise OSError("no, not this one")

    broker.before["publish"] = choke
    async with relaying(relay):
        assert "no, not this one" in await failure_of(relay.publish("t", b"poison", kept(1)))
        assert broker.calls.count("publish") == MAX_TRIES
        await until(lambda: relay.connection)
        await taken(relay.publish("t", b"fine", kept(2)))


async def test_the_queue_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    broker = Bench()
    broker.available = False
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        for number in range(MAX_PENDING):
            relay.publish("t", b"", kept(number))
        caplog.clear()
        late = [relay.publish("t", b"", kept(MAX_PENDING + number)) for number in range(10)]
        assert await failure_of(late[-1]) == "the memory broker is too slow: 10000 messages wait for it"
        assert relay.stats.failed == 10
        assert 1 <= len(caplog.records) <= 5, "they are logged, and ever more seldom"
        broker.available = True
        await relay.flush()
        assert relay.stats.published == MAX_PENDING


async def test_the_queue_is_bounded_in_bytes() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    gate = anyio.Event()
    broker.before["publish"] = gate.wait
    async with relaying(relay):
        messages = [relay.publish("t", bytes(4 * MIB)) for _ in range(4)]
        assert "too slow" in await failure_of(relay.publish("t", b"x"))
        gate.set()
        for message in messages:
            await taken(message)
        await taken(relay.publish("t", bytes(16 * MIB)))
        with pytest.raises(TopicError, match="a message of 16777217 bytes is more than the memory broker carries"):
            relay.publish("t", bytes(16 * MIB + 1))


async def test_awaiting_each_message_is_backpressure() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    sent = []

    async def publish() -> None:
        for number in range(5):
            await relay.publish("t", b"%d" % number)
            sent.append(number)

    async with relaying(relay):
        gate = anyio.Event()
        broker.before["publish"] = lambda: gate.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            for number in range(5):
                await until(lambda: broker.calls.count("publish") == len(sent) + 1)
                await until_blocked()
                assert sent == list(range(number))
                relay.subscribe(f"other:{number}")  # it holds up nothing else
                await taken(relay.subscribed(f"other:{number}"))
                opened, gate = gate, anyio.Event()
                opened.set()
        assert sent == list(range(5))


# -- subscribing -------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([f"t:{number}" for number in range(6)])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["subscribe", "subscribe", "unsubscribe"]), NAMES),
        st.tuples(st.sampled_from(["turn", "turn", "lose", "refuse", "accept", "fail", "all"]), st.just("")),
    ),
    max_size=40,
)


@given(OPERATIONS)
@settings(max_examples=40, deadline=None)
async def test_all_wanted_topics_are_subscribed_in_the_end(operations: list[tuple[str, str]]) -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    wanted: set[str] = set()
    async with relaying(relay):
        for operation, topic in operations:
            if operation == "subscribe":
                relay.subscribe(topic)
                wanted.add(topic)
            elif operation == "unsubscribe":
                relay.unsubscribe(topic)
                wanted.discard(topic)
            elif operation == "turn":
                await anyio.lowlevel.checkpoint()
            elif operation == "lose":
                broker.disconnect()
            elif operation == "fail":
                broker.before["subscribe"] = failing(OSError("broken"), 1)
            elif operation == "all":
                await until_blocked()
            else:
                broker.available = operation == "accept"
        broker.available = True
        broker.before.clear()
        with anyio.fail_after(GUARD):
            await until(lambda: relay.connection and broker.connections)
            for topic in wanted:
                await relay.subscribed(topic)
        for _ in range(2):  # a connection that was about to break has broken the second time
            await until(lambda: relay.connection and broker.connections and broker.subscribed == wanted)
            await until_blocked()


async def test_waiting_for_a_subscription() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        gate = anyio.Event()
        broker.before["subscribe"] = gate.wait
        relay.subscribe("t")
        awaited = relay.subscribed("t")
        done = []

        async def wait() -> None:
            await awaited
            done.append(set(broker.subscribed))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await until_blocked()
            assert not done
            gate.set()
        assert done == [{"t"}, {"t"}]
        with anyio.fail_after(GUARD):
            await relay.subscribed("t")
            relay.unsubscribe("t")
            await until(lambda: not broker.subscribed)
            await relay.subscribed("t")  # it is not wanted: there is nothing to wait for


async def test_waiting_for_a_subscription_ends_with_the_connection() -> None:
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        broker.before["subscribe"] = anyio.Event().wait
        relay.subscribe("t")
        awaited = relay.subscribed("t")
        await until(lambda: "subscribe" in broker.calls)
        assert not broker.subscribed
        broker.available = False
        broker.disconnect()
        await taken(awaited)
        assert not relay.stats.connected
        await taken(relay.subscribed("t"))


@pytest.mark.parametrize("step", ["subscribe", "unsubscribe"])
async def test_topics_that_come_and_go_do_not_wait_for_a_slow_broker(step: str) -> None:
    """A client can subscribe and unsubscribe any number of names while the broker takes its time."""
    broker = Bench()
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        if step == "unsubscribe":
            relay.subscribe("first")
            await until(lambda: broker.subscribed)
        gate = anyio.Event()
        broker.before[step] = gate.wait
        (relay.subscribe if step == "subscribe" else relay.unsubscribe)("first")
        await until(lambda: step in broker.calls)
        for number in range(3000):
            relay.subscribe(f"t:{number}")
            awaited = relay.subscribed(f"t:{number}")
            relay.unsubscribe(f"t:{number}")
        await taken(awaited)
        assert len(relay._changed) + len(relay._awaited) < 5
        relay.subscribe("last")
        for _ in range(3):  # a name whose subscription is under way is not forgotten
            relay.unsubscribe("first")
            relay.subscribe("first")
        gate.set()
        await until(lambda: broker.subscribed == {"first", "last"})


async def test_topics_can_be_unsubscribed_without_the_broker() -> None:
    broker = Bench()
    broker.available = False
    relay = Relay(broker, Inbox())
    async with relaying(relay):
        for number in range(3000):
            relay.subscribe(f"t:{number}")
            relay.unsubscribe(f"t:{number}")
            if number % 1000 == 0:
                enough = len(broker.calls) + 2
                while len(broker.calls) < enough:
                    await anyio.lowlevel.checkpoint()
        assert len(relay._changed) < 2100


async def test_publishing_in_a_loop_without_the_broker_does_not_block_the_event_loop() -> None:
    relay = Relay(MemoryBroker(), lambda *_: None)  # it does not run
    ran = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.lowlevel.checkpoint)
        tasks.start_soon(_set, ran)
        while not ran.is_set():
            with pytest.raises(BrokerUnavailable):
                await relay.publish("t", b"x")


async def _set(event: anyio.Event) -> None:
    event.set()
