"""What a program that can write to the broker, and does not have the key, can do to topics: nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import Client
from support.topic_bench import Bench, until
from support.topic_rooms import Recovering, Rooms, expect, recover, running, take
from support.waiting import until_blocked

from pywsapp import AsyncPublisher
from pywsapp.brokers.base import Keep, Position
from pywsapp.brokers.envelope import Envelope, EnvelopeError, EnvelopeNumbers, encode_envelope
from pywsapp.brokers.memory import MemoryConnection
from pywsapp.topics import replays
from pywsapp.topics.replays import TOLERANCE_SECONDS, GrowingNumbers, Novelty, ReplayGuard

pytestmark = pytest.mark.anyio

KEY = b"a key that all processes share"
NUMBERS = EnvelopeNumbers()


def signed(text: str, publisher: str = "another", number: int | None = None, topic: str = "t") -> bytes:
    number = next(NUMBERS) if number is None else number
    return encode_envelope(Envelope(topic, text, publisher, number=number), KEY)


def send(broker: Bench, data: bytes, position: Position | None = None, topic: str = "t") -> None:
    """Send an envelope to all processes, past the history."""
    for connection in list(broker.connections):
        connection.deliver(topic, data, position)


@asynccontextmanager
async def recovering(
    **settings: Any,
) -> AsyncIterator[tuple[Bench, Recovering, Recovering, Client, Position, AsyncExitStack]]:
    """Run two processes; yield one with a subscriber that has received a first message of the other."""
    broker = Bench()
    one, two = Recovering(broker, broker_key=KEY, **settings), Recovering(broker, broker_key=KEY, **settings)
    async with running(one, two) as clients:
        client, _ = await one.connect(clients)
        for number in (1, 2):
            await two.topic().broadcast(f"{number}")
        assert [message["message"] for message in await take(client, 2)] == ["1", "2"]
        here = one.app.topics.history._followers["t"].position
        assert here is not None
        yield broker, one, two, client, here, clients


def published(broker: Bench) -> list[bytes]:
    return [message.data for batch in broker.batches for message in batch if message.topic == "t"]


# -- positions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["unsigned", "signed with another key", "signed for another topic", "rubbish", "event"]
)
async def test_what_is_not_verified_moves_no_position(kind: str) -> None:
    async with recovering() as (broker, one, two, client, here, _):
        forged = {
            "unsigned": encode_envelope(Envelope("t", "forged", "x")),
            "signed with another key": encode_envelope(Envelope("t", "forged", "x", number=1), b"another"),
            "signed for another topic": signed("forged", topic="u"),
            "rubbish": b"\xff" * 100,
            "event": encode_envelope(Envelope("t", None, "x", {"presence": "ask"}, number=next(NUMBERS)), KEY),
        }[kind]
        for offset in (here.offset, here.offset + 1, here.offset + 2, 10**14):
            send(broker, forged, here._replace(offset=offset))
            send(broker, forged, Position("another", offset))
        await two.topic().broadcast("3")
        (message,) = await take(client)
        assert (message["message"], message["position"]) == ("3", str(here._replace(offset=3)))
        assert one.app.topics.stats.lost == 0


async def test_a_repeated_kept_message_is_not_delivered_and_swallows_nothing() -> None:
    async with recovering() as (broker, one, two, client, here, _):
        first, second = published(broker)
        for data in (first, second):
            for offset in (here.offset + 1, here.offset + 2, 10**14):
                send(broker, data, here._replace(offset=offset))
        await two.topic().broadcast("3")
        assert [message["message"] for message in await take(client)] == ["3"]
        assert one.app.topics.stats.dropped == 6
        assert one.app.topics.stats.lost == 0


async def test_the_position_of_an_unknown_publisher_is_read_from_the_history() -> None:
    async with recovering() as (broker, _, two, client, here, _):
        old = signed("old", "of an earlier day", 1)
        recent = signed("recent", "of a minute ago")
        for data in (old, recent):
            send(broker, data, here._replace(offset=here.offset + 1))
        await until_blocked()
        async with AsyncPublisher(broker, key=KEY) as publisher:
            publisher.history("t")
            await publisher.publish("t", "3")
        await two.topic().broadcast("4")
        got = await take(client, 2)
        assert [message["message"] for message in got] == ["3", "4"]
        assert [message["position"] for message in got] == [str(here._replace(offset=offset)) for offset in (3, 4)]


async def test_only_verified_messages_of_the_history_are_delivered() -> None:
    async with recovering() as (broker, _, two, client, here, clients):
        _, second = published(broker)
        for number, data in enumerate((encode_envelope(Envelope("t", "forged", "x")), second, b"rubbish")):
            broker.history.append("t", data, Keep(("attacker", number), 100, 300))
        await two.topic().broadcast("6")
        expected = [str(here._replace(offset=offset)) for offset in (3, 4, 5)]
        got = await take(client, 4)
        assert [message["position"] for message in got if message.get("lost")] == expected
        assert got[-1]["message"] == "6"
        other, _ = await two.connect(clients, None)
        missed, answer = await recover(other, str(here._replace(offset=1)))
        assert [message.get("message", "lost") for message in missed] == ["2", "lost", "lost", "lost", "6"]
        assert answer["recovered"] is False


async def test_an_own_message_that_is_on_its_way_is_bound_to_its_topic() -> None:
    broker = Bench()
    one = Recovering(broker, broker_key=KEY)
    one.app.history("u")
    async with running(one) as clients:
        (client, _), (other, _) = await one.connect(clients), await one.connect(clients, "u")
        followers = one.app.topics.history._followers
        await until(lambda: followers["t"].position and followers["u"].position)
        gate = anyio.Event()
        broker.before["publish"] = gate.wait
        one.topic().broadcast("for t")
        await until(lambda: "publish" in broker.calls)
        (data,) = one.app.topics.codec._remembered
        here = followers["u"].position
        assert here is not None
        with pytest.raises(EnvelopeError, match="another topic"):
            one.app.topics.codec.decode("u", data)
        send(broker, data, here._replace(offset=1), "u")
        gate.set()
        broker.before.clear()
        await one.topic("u").broadcast("for u")
        assert [message["message"] for message in await take(other)] == ["for u"]
        assert [message["message"] for message in await take(client)] == ["for t"]


# -- plain messages and events -----------------------------------------------------------------------------------------


async def test_repeated_plain_messages_and_events_are_dropped() -> None:
    broker = Bench()
    one, two = Rooms(broker, broker_key=KEY), Rooms(broker, broker_key=KEY)
    heard: list[str] = []
    one.app.on_broadcast("t")(lambda topic, message: heard.append(message))
    for rooms in (one, two):
        rooms.app.on_presence("t")(lambda topic, diff: None)
    async with running(one, two) as clients:
        client, _ = await one.connect(clients)
        _, conn = await two.connect(clients)
        two.topic().track(conn, "ana")
        await until(lambda: "ana" in one.topic().present())
        two.topic().untrack(conn)
        await until(lambda: "ana" not in one.topic().present())
        for text in ("a", "b"):
            await two.topic().broadcast(text)
        await expect(client, "a", "b")
        dropped = one.app.topics.stats.dropped
        repeated = published(broker)
        for data in reversed(repeated):  # so that the state in which ana was there comes last
            send(broker, data)
        assert one.app.topics.stats.dropped > dropped
        await two.topic().broadcast("c")
        await expect(client, "c")
        assert heard == ["a", "b", "c"]
        assert "ana" not in one.topic().present()


async def test_a_message_of_an_unknown_publisher_must_be_new() -> None:
    broker = Bench()
    one = Rooms(broker, broker_key=KEY)
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        now = time.time_ns() // 1000
        send(broker, signed("too old", "a", now - (TOLERANCE_SECONDS + 10) * 10**6))
        send(broker, signed("late", "b", now - (TOLERANCE_SECONDS - 60) * 10**6))
        send(broker, signed("early", "c", now + 3600 * 10**6))
        send(broker, signed("again", "b", now - (TOLERANCE_SECONDS - 60) * 10**6))
        await expect(client, "late", "early")
        assert one.app.topics.stats.dropped == 2


def test_the_number_of_remembered_publishers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MAX_REMEMBERED", 100)
    guard, now = ReplayGuard(), time.time_ns() // 1000
    for number in range(1000):
        envelope = Envelope("t", "x", f"p{number}", number=now)
        assert guard.novelty_of(envelope) is Novelty.FIRST
        assert guard.novelty_of(envelope) is Novelty.REPEATED
        assert guard.novelty_of(Envelope("t", "x", f"p{number}", number=now + 1)) is Novelty.NEXT
    assert len(guard._numbers._last) == 100
    assert guard.novelty_of(Envelope("u", "x", "p999", number=now)) is Novelty.FIRST
    assert guard.novelty_of(Envelope("v", "x", "p999", number=1)) is Novelty.OLD


def test_numbers_only_grow() -> None:
    numbers = GrowingNumbers()
    assert [numbers.add("p", number) for number in (5, 3, 4, 6)] == [None, 5, 5, 5]


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "kept"])
async def test_a_key_is_replaced_without_an_interruption(kept: bool) -> None:
    broker = Bench()
    stages: list[Sequence[str] | str] = ["old", ["old", "new"], ["new", "old"], "new"]
    for before, after in pairwise(stages):
        one, two = Rooms(broker, broker_key=before), Rooms(broker, broker_key=after)
        for rooms in (one, two):
            if kept:
                rooms.app.history("t", wrap=lambda publication: publication.message or "lost")
        async with running(one, two) as clients:
            (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
            for rooms, text in ((one, "from one"), (two, "from two")):
                await rooms.topic().broadcast(text)
                for client in (ana, ben):
                    await expect(client, text)


async def test_a_key_that_is_no_longer_accepted_is_of_no_use() -> None:
    broker = Bench()
    one, two = Rooms(broker, broker_key="old"), Rooms(broker, broker_key=["new", "newer"])
    async with running(one, two) as clients:
        client, _ = await two.connect(clients)
        await one.topic().broadcast("with the old key")
        async with AsyncPublisher(broker, key=["newer", "old"]) as publisher:
            await publisher.publish("t", "with the newest key")
        await expect(client, "with the newest key")


# -- whatever arrives --------------------------------------------------------------------------------------------------


async def test_nothing_that_arrives_breaks_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Bench()
    one = Rooms(broker)
    one.app.on_presence("t")(lambda topic, diff: None)
    async with running(one) as clients:
        client, _ = await one.connect(clients)

        def fail(*arguments: Any) -> bool:
            raise LookupError("a mistake of ours")

        monkeypatch.setattr(one.app.topics.presence._view, "receive", fail)
        (connection,) = broker.connections
        assert isinstance(connection, MemoryConnection)
        send(broker, encode_envelope(Envelope("t", None, "x", {"presence": "ask"})))
        send(broker, encode_envelope(Envelope("t", "hello", "x")))
        await expect(client, "hello")
        assert broker.connections == [connection]
        assert "LookupError('a mistake of ours')" in caplog.text
        assert "in fail" in caplog.text, "with a traceback, since it is a mistake of ours"
