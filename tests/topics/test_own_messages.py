"""A process does not decode its own messages when a broker sends them back; with signatures this is safe."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.local_bus import running as bus_running
from support.topic_bench import Bench, failing, until
from support.topic_rooms import Recovering, Rooms, expect, recover, running, take
from support.waiting import until_blocked

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Broker, Position
from pywsapp.brokers.envelope import Envelope, decode_envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.topics import codec as codec_module
from pywsapp.topics.codec import EnvelopeCodec

pytestmark = pytest.mark.anyio

KEYS = pytest.mark.parametrize("key", [None, b"key"], ids=["unsigned", "signed"])
CARRIERS = pytest.mark.parametrize("carrier", ["memory", "bus"])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The envelopes that were decoded."""
    found: list[bytes] = []

    def decode(data: bytes, *arguments: Any) -> Envelope:
        found.append(data)
        return decode_envelope(data, *arguments)

    monkeypatch.setattr(codec_module, "decode_envelope", decode)
    return found


@asynccontextmanager
async def brokers(carrier: str) -> AsyncIterator[Callable[[], Broker]]:
    """Yield a function that returns the broker of a new process."""
    if carrier == "memory":
        broker = MemoryBroker()
        yield lambda: broker
    else:
        async with bus_running() as bus:
            yield bus.broker


@CARRIERS
@KEYS
async def test_own_plain_messages_are_not_decoded(carrier: str, key: bytes | None, decoded: list[bytes]) -> None:
    async with brokers(carrier) as make:
        one, two = Rooms(make(), broker_key=key), Rooms(make(), broker_key=key)
        async with running(one, two) as clients:
            (ana, _), (ben, _) = await one.connect(clients, 'a:"quoted\\ü'), await two.connect(clients, 'a:"quoted\\ü')
            for number in range(10):
                await one.topic('a:"quoted\\ü').broadcast(str(number))
            await two.topic('a:"quoted\\ü').broadcast(b"\x00")
            messages: list[str | bytes] = [*map(str, range(10)), b"\x00"]
            await expect(ana, *messages)
            await expect(ben, *messages)
            await until_blocked()
            assert len(decoded) == 11


@CARRIERS
@KEYS
@pytest.mark.parametrize("listener", [False, True], ids=["subscribers", "listener"])
async def test_own_kept_messages_are_not_decoded(
    carrier: str, key: bytes | None, listener: bool, decoded: list[bytes]
) -> None:
    async with brokers(carrier) as make:
        one, two = Rooms(make(), broker_key=key), Rooms(make(), broker_key=key)
        received: list[Any] = []
        for rooms in (one, two):
            rooms.app.history("t")
        if listener:
            one.app.on_broadcast("t")(lambda topic, message: received.append(message))
        async with running(one, two) as clients:
            (ana, _), (ben, _) = await one.connect(clients), await two.connect(clients)
            for message in ("same", "same", b"\x00", "other"):
                one.topic().broadcast(message)
            await one.topic().broadcast("last")
            for client in (ana, ben):
                got = await take(client, 5)
                assert [one.get("message", one.get("base64")) for one in got] == [
                    "same", "same", "AA==", "other", "last",
                ]  # fmt: skip
                assert [int(one["position"].partition("-")[0]) for one in got] == [1, 2, 3, 4, 5]
            # The other process decodes them. It reads the first signed one from the history, since it does not know
            # its publisher.
            assert len(decoded) == 5 if key is None else 5 <= len(decoded) <= 10
            assert received == (["same", "same", b"\x00", "other", "last"] if listener else [])
            assert not one.app.topics.codec._remembered


async def test_without_a_subscription_nothing_is_remembered() -> None:
    one = Recovering(Bench())
    async with running(one):
        await one.topic().broadcast("x")
        assert not one.app.topics.codec._remembered


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kept_message_whose_connection_broke_comes_once_and_is_not_decoded(
    when: str, decoded: list[bytes]
) -> None:
    broker = Bench()
    one = Recovering(broker)
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        getattr(broker, when)["publish"] = failing(OSError("broken"), 1)
        for number in range(5):
            one.topic().broadcast(str(number))
        await one.topic().broadcast("last")
        got = await take(client, 6)
        assert [message["message"] for message in got] == ["0", "1", "2", "3", "4", "last"]
        assert [int(message["position"].partition("-")[0]) for message in got] == [1, 2, 3, 4, 5, 6]
        assert not decoded


async def test_own_positions_that_a_worker_missed_are_read_from_the_history(decoded: list[bytes]) -> None:
    async with bus_running(256 * 1024) as bus:
        one, other = Recovering(bus.broker(), size=1000), await bus.peer()
        async with running(one) as clients:
            client, _ = await one.connect(clients)
            (relay, worker) = one.app.topics.relay, next(iter(bus.router._workers))
            assert relay is not None
            async with anyio.create_task_group() as tasks:
                connection: Any = relay.connection
                connection._wire.transport.pause_reading()
                acknowledgements = [one.topic().broadcast(str(number)) for number in range(10)]
                while not worker.is_full:
                    data = encode_envelope(Envelope("t", "x" * 10_000))
                    await other.publish("t", data)
                acknowledgements += [one.topic().broadcast(str(number)) for number in range(10, 20)]
                connection._wire.transport.resume_reading()
                for acknowledgement in acknowledgements:
                    tasks.start_soon(wait_for, acknowledgement)
            got: list[Any] = []
            while len(got) < 20:
                got += await take(client)
            assert [message["message"] for message in got] == [str(number) for number in range(20)]
            assert [int(message["position"].partition("-")[0]) for message in got] == list(range(1, 21))


async def wait_for(acknowledgement: Awaitable[None]) -> None:
    await acknowledgement


# -- forged envelopes --------------------------------------------------------------------------------------------------


@KEYS
async def test_a_plain_envelope_that_names_this_process_is_dropped(key: bytes | None) -> None:
    broker = MemoryBroker()
    one = Rooms(broker, broker_key=key)
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        origin = one.app.topics.codec.origin
        forged = encode_envelope(Envelope("t", "forged", origin), None if key is None else b"another key")
        spaced = json.dumps({"v": 1, "topic": "t", "from": origin, "text": "forged"}).encode()
        for connection in broker.connections:
            connection.deliver("t", forged, None)
            connection.deliver("t", spaced, None)
        await one.topic().broadcast("x")
        await expect(client, "x")


async def test_a_forged_kept_envelope_is_not_taken_for_an_own_one() -> None:
    broker = Bench()
    one = Recovering(broker)
    one.app.topics.codec = one.app.topics.history._codec = EnvelopeCodec(b"key")
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        await until(lambda: one.app.topics.history._followers["t"].position)
        gate = anyio.Event()
        broker.before["publish"] = gate.wait
        one.topic().broadcast("true")
        await until(lambda: "publish" in broker.calls)
        (data,) = one.app.topics.codec._remembered
        forged = data[:65] + data[65:].replace(b"true", b"fake")
        position = one.app.topics.history._followers["t"].position
        assert position is not None
        for connection in broker.connections:
            connection.deliver("t", forged, Position(position.epoch, 1))
        await until(lambda: one.app.topics.stats.dropped == 1)
        gate.set()
        broker.before.clear()
        await one.topic().broadcast("next")
        assert [message["message"] for message in await take(client, 2)] == ["true", "next"]
        missed, _ = await recover((await one.connect(clients, None))[0], f"0-{position.epoch}")
        assert [message["message"] for message in missed] == ["true", "next"]


# -- bounds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(3, 10**9), (10**9, 400)])
async def test_the_memory_of_own_messages_is_bounded(
    count: int, size: int, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_module, "MAX_REMEMBERED", count)
    monkeypatch.setattr(codec_module, "MAX_REMEMBERED_BYTES", size)
    one = Recovering(Bench())
    async with running(one) as clients:
        client, _ = await one.connect(clients)
        for number in range(10):
            one.topic().broadcast(str(number))
        assert 2 <= len(one.app.topics.codec._remembered) <= 7
        assert [message["message"] for message in await take(client, 10)] == [str(number) for number in range(10)]
        assert 3 <= len(decoded) <= 8, "the oldest ones are decoded like those of others"
        assert not one.app.topics.codec._remembered
        assert not one.app.topics.codec._remembered_bytes


def test_equal_messages_are_remembered_as_often_as_they_are_published() -> None:
    codec = EnvelopeCodec()
    data = codec.encode("t", "x")
    codec.forget(data)
    codec.remember(data, "x")
    codec.remember(data, "x")
    codec.forget(data)
    assert codec.decode("t", data) == Envelope("t", "x", codec.origin)
    assert codec._remembered
    codec.forget(data)
    assert not codec._remembered
    assert not codec._remembered_bytes
    codec.remember(data, "x")
    codec.forget_all()
    assert not codec._remembered_bytes


def test_two_processes_have_different_names() -> None:
    one, two = EnvelopeCodec(), EnvelopeCodec()
    assert one.is_own("t", one.encode("t", "x"))
    assert not two.is_own("t", one.encode("t", "x"))
    assert not one.is_own("u", one.encode("t", "x"))
    assert one.is_own("t", one.encode_event("t", {"presence": "ask"}))
    for longest in ("x" * 200, '"' * 200, "\\" * 200, "ü" * 100):
        assert one.is_own(longest, one.encode(longest, "x"))
    signed = EnvelopeCodec(b"key")
    assert signed.is_own("t", signed.encode("t", "x"))
    assert not signed.is_own("t", signed.encode("t", "x")[1:])
