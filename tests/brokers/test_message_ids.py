"""A message that is published again under its id is delivered once, in every process."""

from __future__ import annotations

import anyio
import pytest
from support.topic_bench import Bench, until, until_unknown
from support.topic_rooms import Recovering, Rooms, expect, running, take

from pywsapp import AsyncPublisher, BrokerUnavailable, ConfigurationError
from pywsapp.brokers import message_ids
from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.envelope import Envelope, EnvelopeError, decode_envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.message_ids import RecentIds, check_message_id

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "ü", "a\n", None, 7])
def test_an_invalid_id_is_refused(bad: object) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the id of a message"):
        check_message_id(bad)  # type: ignore[arg-type]


def test_the_number_of_known_ids_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_ids, "MAX_RECENT", 3)
    ids = RecentIds()
    assert [ids.add("t", one) for one in "abcab"] == [True, True, True, False, False]
    assert ids.add("other", "b")  # the oldest one, "a", is forgotten
    assert [ids.add("t", one) for one in "bca"] == [False, False, True]


@pytest.mark.parametrize("message", ["text", b"bytes"])
@pytest.mark.parametrize("key", [None, b"secret"])
def test_an_envelope_carries_the_id(message: str | bytes, key: bytes | None) -> None:
    envelope = Envelope("t", message, "me", id="order:7", number=0 if key is None else 1)
    assert decode_envelope(encode_envelope(envelope, key), "t", () if key is None else (key,)) == envelope


@pytest.mark.parametrize("bad", ['""', "7", "null", '"a b"', f'"{"x" * 65}"'])
def test_an_envelope_with_an_invalid_id_is_refused(bad: str) -> None:
    with pytest.raises(EnvelopeError, match="`id`"):
        decode_envelope(b'{"v":1,"topic":"t","id":%s,"text":"x"}' % bad.encode(), "t")


# -- broadcasts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "broker"])
async def test_a_repeated_broadcast_is_delivered_once(alone: bool) -> None:
    shared = None if alone else MemoryBroker()
    one, two = Rooms(shared), Rooms(shared)
    heard = []
    one.app.on_broadcast("t")(lambda topic, message: heard.append(message))
    async with running(one, two) as clients:
        (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
        for rooms in (one, one, two) if shared else (one, one):
            await rooms.topic().broadcast("hello", message_id="id")
        for rooms in (one, two):
            await rooms.topic().broadcast("the end", message_id="other")
        await expect(ana, "hello", "the end")
        await expect(ben, *(["hello", "the end"] if shared else ["the end"]))
        assert heard == ["hello", "the end"]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "broker"])
async def test_a_history_keeps_a_repeated_broadcast_once(alone: bool) -> None:
    rooms = Recovering(None if alone else MemoryBroker())
    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        for message_id in ("a", "b", "a", "b", "c"):
            await rooms.topic().broadcast(message_id, message_id=message_id)
        await rooms.topic().broadcast("the end")
        assert [one["message"] for one in await take(client, 4)] == ["a", "b", "c", "the end"]


async def test_a_broadcast_that_failed_is_delivered_to_those_who_do_not_have_it() -> None:
    shared = Bench()
    one, two = Rooms(shared), Rooms(shared)
    async with running(one, two) as clients:
        (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
        shared.available = False
        shared.disconnect()
        await until(lambda: not one.app.topics.stats.broker.connected)  # type: ignore[union-attr]
        with pytest.raises(BrokerUnavailable):
            await one.topic().broadcast("only here so far", message_id="id")
        await expect(ana, "only here so far")
        shared.available = True
        await until(lambda: all(rooms.app.topics.stats.broker.connected for rooms in (one, two)))  # type: ignore[union-attr]
        await one.topic().broadcast("only here so far", message_id="id")
        await one.topic().broadcast("the end")
        await expect(ana, "the end")
        await expect(ben, "only here so far", "the end")


async def test_an_invalid_id_of_a_broadcast_is_refused() -> None:
    rooms = Rooms()
    with pytest.raises(ConfigurationError, match="cannot be the id"):
        rooms.topic().broadcast("x", message_id="no spaces")


# -- publishers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [False, True])
async def test_what_a_publisher_repeats_after_an_unknown_outcome_comes_once(history: bool) -> None:
    broker = Bench()
    rooms = Recovering(broker) if history else Rooms(broker)
    async with running(rooms) as clients, AsyncPublisher(broker) as publisher:
        if history:
            publisher.history("t")
        client, _ = await rooms.connect(clients)

        async def hang() -> None:
            if broker.batches[-1][0].data.count(b"lost answer"):
                await anyio.sleep_forever()

        broker.after["publish"] = hang
        unknown = await until_unknown(lambda: publisher._publish("t", "lost answer", None, 0.05))
        broker.after.clear()
        assert unknown.message_id is not None
        assert repr(unknown.message_id) in str(unknown)
        broker.disconnect()
        relays = [publisher._relay, rooms.app.topics.relay]
        await until(lambda: all(relay is not None and relay.stats.connects == 2 for relay in relays))
        await publisher.publish("t", "lost answer", message_id=unknown.message_id)
        await publisher.publish("t", "the end")
        found = [one["message"] for one in await take(client, 2)] if history else []
        if history:
            assert found == ["lost answer", "the end"]
        else:
            await expect(client, "lost answer", "the end")
