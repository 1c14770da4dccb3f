"""Several processes, here several apps in one process, with a broker between them."""

from __future__ import annotations

import gc
import json
import re
from typing import Any

import anyio
import pytest
from support.topic_bench import Bench, Inbox, failing, until
from support.topic_rooms import Rooms, expect, running
from support.waiting import until_blocked

from pywsapp import App, BrokerUnavailable, TopicError
from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Outgoing, Position
from pywsapp.brokers.envelope import Envelope, EnvelopeNumbers, encode_envelope
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics import registry as registry_module
from pywsapp.topics.registry import TopicRegistry

pytestmark = pytest.mark.anyio

NUMBERS = EnvelopeNumbers()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


async def publisher(broker: MemoryBroker) -> MemoryConnection:
    """Connect a publisher that is not an app."""
    return await broker.connect(Inbox(), ())


def envelope(text: str = "hello", topic: str = "t", key: bytes | None = None, origin: str = "") -> Outgoing:
    number = 0 if key is None else next(NUMBERS)
    return Outgoing(topic, encode_envelope(Envelope(topic, text, origin or ("x" if key else ""), number=number), key))


def connected(rooms: Rooms) -> bool:
    relay = rooms.app.topics.relay
    return relay is not None and relay.connection is not None


async def subscribed_somewhere(broker: Bench, name: str) -> None:
    await until(lambda: any(name in connection._topics for connection in broker.connections))


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_an_app_starts_while_its_broker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "START_SECONDS", 0.01)
    answers, broker = anyio.Event(), Bench()
    broker.before["connect"] = answers.wait
    rooms = Rooms(broker)
    async with running(rooms):
        assert not connected(rooms)
        answers.set()  # of the attempt that goes on
        await until(lambda: connected(rooms))
        assert broker.calls.count("connect") == 1


# -- between processes -------------------------------------------------------------------------------------------------


async def test_a_broadcast_reaches_all_processes_once() -> None:
    broker = Bench()
    one, two, three = Rooms(broker), Rooms(broker), Rooms(broker)
    async with running(one, two, three) as clients:
        ana, ana_conn = await one.connect(clients)
        ben, _ = await one.connect(clients)
        cem, cem_conn = await two.connect(clients)
        other, _ = await two.connect(clients, "other")
        await one.topic().broadcast("to all")
        await one.topic().broadcast("not to ana", exclude=ana_conn)
        await one.topic().broadcast(b"\x00\xff")
        one.topic().broadcast("only here", eligible=[ana_conn, cem_conn])
        await three.topic().broadcast("from a process without subscribers")
        await two.topic().broadcast("the end")
        await expect(ana, "to all", b"\x00\xff", "only here", "from a process without subscribers", "the end")
        await expect(ben, "to all", "not to ana", b"\x00\xff", "from a process without subscribers", "the end")
        await expect(cem, "to all", "not to ana", b"\x00\xff", "from a process without subscribers", "the end")
        await two.topic("other").broadcast("for others")
        await expect(other, "for others")


async def test_the_order_of_a_process_is_kept() -> None:
    broker = MemoryBroker()
    one, two = Rooms(broker), Rooms(broker)
    async with running(one, two) as clients:
        ana, _ = await one.connect(clients)
        ben, _ = await two.connect(clients)
        for number in range(1000):
            one.topic().broadcast(str(number))
        for client in (ana, ben):
            await expect(client, *map(str, range(1000)))


async def test_a_topic_without_subscribers_is_not_subscribed_on_the_broker() -> None:
    broker = Bench()
    one = Rooms(broker)
    async with running(one) as clients:
        one.topic("idle").broadcast("x")
        assert not broker.subscribed
        (first, _), (_, second_conn) = await one.connect(clients), await one.connect(clients)
        await one.connect(clients, "u")
        assert broker.subscribed == {"t", "u"}
        await first.close()
        await one.until_called("unsubscribe")
        await until_blocked()
        assert broker.subscribed == {"t", "u"}
        one.topic().remove(second_conn)
        await until(lambda: broker.subscribed == {"u"})
        assert broker.calls.count("subscribe") == 2


async def test_subscribing_need_not_be_awaited() -> None:
    broker = Bench()
    one, two = Rooms(broker), Rooms(broker)
    two.app.history("kept:*")
    async with running(one, two) as clients:
        for rooms, name in ((one, "t"), (two, "kept:t")):
            client, conn = await rooms.connect(clients, None)
            rooms.topic(name).add(conn)
            gc.collect()  # what is not awaited would complain
            await subscribed_somewhere(broker, name)
            await rooms.topic(name).broadcast("x")
            assert await client.message()


async def test_local_delivery_goes_on_without_the_broker(caplog: pytest.LogCaptureFixture) -> None:
    broker = Bench()
    one, two = Rooms(broker), Rooms(broker)
    async with running(one, two) as clients:
        (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
        caplog.clear()
        broker.available = False
        broker.disconnect()
        await until(lambda: not connected(one) and not connected(two))
        one.topic().broadcast("not awaited")
        with pytest.raises(BrokerUnavailable, match="the memory broker is not connected"):
            await one.topic().broadcast("only here")
        await expect(ana, "not awaited", "only here")
        cem, _ = await two.connect(clients)  # it can be subscribed to as ever
        dan, _ = await two.connect(clients, "new")
        broker.available = True
        await until(lambda: connected(one) and connected(two))
        await one.topic().broadcast("all again")
        await one.topic("new").broadcast("new again")
        await expect(ana, "all again")
        await expect(ben, "all again")
        await expect(cem, "all again")
        await expect(dan, "new again")
        assert sum("is unavailable" in message for message in caplog.messages) == 2
        lines = (re.sub("[0-9.]+ seconds", "0 seconds", message) for message in caplog.messages)
        again = sorted(message for message in lines if message.startswith("connected to"))
        assert again == [
            f"connected to the memory broker again; this process received nothing for at least 0 seconds, "
            f"and {number} messages were not published"
            for number in (0, 2)
        ]


async def test_an_app_starts_and_serves_without_its_broker() -> None:
    broker = Bench()
    broker.available = False
    one = Rooms(broker)
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        one.topic().broadcast("x")
        await expect(client, "x")
        broker.available = True
        await until(lambda: broker.connections and broker.subscribed == {"t"})


async def test_an_app_can_be_served_again() -> None:
    broker = Bench()
    one, two = Rooms(broker), Rooms(broker)
    for _ in range(2):
        async with running(one, two) as clients:
            await one.connect(clients)
            client, _ = await two.connect(clients)
            await one.topic().broadcast("x")
            await expect(client, "x")
        assert not broker.connections


async def test_a_message_that_is_too_large_for_the_broker_is_delivered_to_no_subscriber() -> None:
    broker = Bench()
    broker.max_size = 200
    one = Rooms(broker)
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        with pytest.raises(TopicError, match="is more than the memory broker carries"):
            one.topic().broadcast("x" * 200)
        await one.topic().broadcast("x")
        await expect(client, "x")


async def test_an_exception_inside_running_is_not_wrapped_in_a_group() -> None:
    with pytest.raises(LookupError, match="its own"):
        async with TopicRegistry(Bench()).running():
            raise LookupError("its own")


# -- what others say on the broker -------------------------------------------------------------------------------------

JUNK = [
    b"",
    b"hello",
    b"[]",
    b'{"v": 9, "topic": "t", "text": "x"}',
    b'{"v": 1, "topic": "u", "text": "x"}',
    b'{"v": 1, "topic": "t"}',
    b'{"v": 1, "topic": "t", "text": "\\ud800"}',
    b"\x80" * 100,
    b"[" * 100_000,
    b'{"v": "' + b"x" * 100_000,
]


@pytest.mark.parametrize("key", [None, b"key"])
async def test_invalid_envelopes_are_dropped_counted_and_logged_ever_more_rarely(
    key: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()
    received: list[Any] = []
    one = Rooms(broker, broker_key=key)
    one.app.on_broadcast("covered:*")(lambda topic, message: received.append(message))
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        outside = await publisher(broker)
        caplog.clear()
        for _ in range(20):
            await outside.publish([Outgoing("t", data) for data in JUNK])
        for position in (None, Position("e", 1)):
            for name in ("covered:a b", "covered:", "covered:*", "covered:" + "x" * 500):
                data = envelope("x", name, key).data
                for connection in list(broker.connections):
                    connection.deliver(name, data, position)
        await outside.publish([envelope(key=key)])
        await expect(client, "hello")
        assert one.app.topics.stats.dropped == 20 * len(JUNK) + 8
        assert len(caplog.records) == 8
        assert all(len(message) < 500 for message in caplog.messages)
        assert not received
        await outside.aclose()


async def test_other_programs_can_publish() -> None:
    broker = MemoryBroker()
    one = Rooms(broker)
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        outside = await publisher(broker)
        data = json.dumps({"v": 1, "topic": "t", "text": "from PHP", "more": []}, indent=4).encode()
        await outside.publish([Outgoing("t", data), envelope("from another program", origin="x")])
        await outside.publish([envelope("an echo", origin=one.app.topics.codec.origin), envelope("the end")])
        await expect(client, "from PHP", "from another program", "the end")
        await outside.aclose()


async def test_unsigned_messages_are_dropped() -> None:
    broker = MemoryBroker()
    one, two = Rooms(broker, broker_key="secret"), Rooms(broker, broker_key=b"secret")
    others = [Rooms(broker), Rooms(broker, broker_key="another")]
    async with running(one, two, *others) as clients:
        client, _ = await one.connect(clients)
        unsigned, _ = await others[0].connect(clients)
        for rooms in (*others, two, others[0]):
            await rooms.topic().broadcast("unsigned" if rooms is others[0] else "signed")
        await expect(client, "signed")
        await expect(unsigned, "unsigned", "unsigned")
        assert one.app.topics.stats.dropped == 3
        assert others[0].app.topics.stats.dropped == 2


@pytest.mark.parametrize("key", ["", b""], ids=["str", "bytes"])
def test_an_empty_key_is_a_mistake(key: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match="the broker's key is empty"):
        App(broker=MemoryBroker(), broker_key=key)


@pytest.mark.parametrize("keeps", [True, False])
async def test_processes_with_different_history_rules_log_it(keeps: bool, caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    one, two = Rooms(broker), Rooms(broker)
    (one if keeps else two).app.history("t")
    async with running(one, two) as clients:
        client, _ = await one.connect(clients)
        await two.topic().broadcast("lost")
        await until(lambda: one.app.topics.stats.dropped == 1)
        assert ("has a history" if keeps else "keeps no history here") in caplog.text
        await client.close()


async def test_a_broker_without_histories_is_a_mistake() -> None:
    broker = Bench()
    broker.keeps_history = False
    with pytest.raises(ConfigurationError, match="the memory broker keeps no history"):
        App(broker=broker).history("*")


async def test_a_history_must_be_set_before_its_topics_are_used() -> None:
    app = App()
    topic = app.topic("room:1")
    with pytest.raises(ConfigurationError, match="before its topics are used"):
        app.history("room:*")
    app.history("other:*")
    assert topic.history is None
    assert app.topic("other:1").history is not None


async def test_a_connection_that_cannot_subscribe_is_replaced() -> None:
    broker = Bench()
    one = Rooms(broker)
    async with running(one) as clients:
        broker.before["subscribe"] = failing(OSError("denied"), 2)
        await one.connect(clients)
        await until(lambda: broker.connections and broker.subscribed == {"t"})
