"""Workers that do not read from the local bus: what they miss is bounded, counted and reported, and others go on."""

from __future__ import annotations

import json
import struct
from contextlib import aclosing

import pytest
from support.local_bus import KIB, NAME, TOPIC, frames, running, send, until
from support.serving import serving

from pywsapp import App, Connection, MessageComponent
from pywsapp.brokers.base import Keep, Outgoing, Position
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.local.broker import LocalConnection
from pywsapp.brokers.local.frames import (
    CONFIRM,
    CONFIRMED,
    HISTORY_END,
    LONG_COUNT,
    MESSAGES,
    MISSED,
    READ,
    SUBSCRIBE,
    encode,
    encode_lists,
)
from pywsapp.exceptions import BrokerUnavailable

pytestmark = pytest.mark.anyio


async def test_a_worker_that_does_not_read_learns_how_many_messages_it_missed() -> None:
    async with running(256 * KIB) as bus:
        stuck, other, publisher = bus.raw(), await bus.peer(TOPIC), await bus.peer()
        await send(stuck, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        await until(lambda: bus.router.route(NAME) != () and len(bus.router.route(NAME)) == 2)
        published = 0
        while bus.router.dropped < 20:
            batch = [b"%d:" % number + bytes(10 * KIB) for number in range(published, published + 7)]
            await publisher.publish(TOPIC, *batch)
            published += len(batch)
            await other.expect([(TOPIC, message) for message in batch])
        assert bus.router.stats.dropped < published

        found: list[int] = []
        missing = 0
        async with aclosing(frames(stuck)) as reading:
            while not missing or len(found) + missing < published:
                kind, _, items = await reading.__anext__()
                if kind & ~CONFIRM == MESSAGES:
                    numbers = [int(item.partition(b":")[0]) for item in items]
                    assert numbers == list(range(len(found) + missing, len(found) + missing + len(numbers)))
                    found += numbers
                elif kind == MISSED:
                    missing += LONG_COUNT.unpack(items[0])[0]
                    await publisher.publish(TOPIC, b"%d:" % published)
                    published += 1
        assert missing == bus.router.dropped
        assert found[-1] == published - 1


async def test_a_connection_with_missed_messages_is_lost_and_the_next_one_works() -> None:
    async with running(256 * KIB) as bus:
        broker, publisher = bus.broker(), await bus.peer()
        received: list[bytes] = []
        published = 0
        for _ in range(2):
            connection = await broker.connect(lambda topic, data, position: received.append(data), [])
            await connection.subscribe([TOPIC])
            before = bus.router.dropped
            connection._wire.transport.pause_reading()
            while bus.router.dropped < before + 20:
                await publisher.publish(TOPIC, *[bytes(10 * KIB)] * 7)
                published += 7
            connection._wire.transport.resume_reading()
            with pytest.raises(BrokerUnavailable, match=r"^\d+ messages of other workers are missing") as raised:
                await connection.wait_lost()
            assert broker.missed == bus.router.dropped == published - len(received)
            assert str(raised.value).startswith(f"{broker.missed - before} messages")
            await connection.aclose()
        connection = await broker.connect(lambda topic, data, position: received.append(data), [])
        await connection.subscribe([TOPIC])
        await publisher.publish(TOPIC, b"again")
        await until(lambda: received[-1] == b"again")
        await connection.aclose()


async def test_missed_messages_are_read_from_the_history() -> None:
    # Nothing is published afterwards that would show the gap.
    async with running(256 * KIB) as bus:
        app = App(port=0, broker=bus.broker())
        app.history(TOPIC)
        publisher = await bus.peer()

        class Room(MessageComponent):
            async def on_open(self, conn: Connection) -> None:
                conn.send((await app.topic(TOPIC).recover(conn, None)).position)

        app.route("/", Room())
        async with serving(app) as server, server.client() as client:
            await client.message()
            connection = app.topics.relay.connection if app.topics.relay is not None else None
            assert isinstance(connection, LocalConnection)
            connection._wire.transport.pause_reading()
            text = "x" * 10 * KIB
            published = 0
            while bus.router.dropped < 20:
                published += 1
                data = encode_envelope(Envelope(TOPIC, text))
                keep = Keep(("another", published), 100, 60)
                await publisher.connection.publish([Outgoing(TOPIC, data, keep)])
            connection._wire.transport.resume_reading()
            for number in range(1, published + 1):
                message = json.loads(await client.message())
                assert (message["position"].partition("-")[0], message["message"]) == (str(number), text)


async def test_a_worker_that_does_not_read_is_not_read_from_and_gets_its_confirmations_later() -> None:
    async with running(64 * KIB) as bus:
        stuck, publisher = bus.raw(), await bus.peer()
        await send(stuck, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        await until(lambda: bus.router.stats.topics == 1)
        (worker,) = bus.router.route(NAME)
        published = 0
        while not worker.is_full:
            await publisher.publish(TOPIC, bytes(10 * KIB))
            published += 1
        for _ in range(5):
            await send(stuck, encode(MESSAGES | CONFIRM, b"other", [b"x"]))
            await publisher.publish("other", b"x")  # the router has had a turn
        assert bus.router.accepted == published + 5, "the router has read from the worker"
        confirmed = found = 0
        async with aclosing(frames(stuck)) as reading:
            while confirmed < 6 or found < published:
                kind, _, items = await reading.__anext__()
                confirmed += struct.unpack("<I", items[0])[0] if kind == CONFIRMED else 0
                found += kind & ~CONFIRM == MESSAGES
        assert (confirmed, found) == (6, published)
        assert bus.router.accepted == published + 10


async def test_a_full_worker_that_dies_is_removed() -> None:
    async with running(64 * KIB) as bus:
        stuck, publisher = bus.raw(), await bus.peer()
        await send(stuck, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        await until(lambda: bus.router.stats.topics == 1)
        while not bus.router.dropped:
            await publisher.publish(TOPIC, bytes(100 * KIB))
        stuck.close()
        await until(lambda: bus.router.stats.topics == 0)
        assert bus.router.stats.workers == 1
        await publisher.publish(TOPIC, b"x")


async def test_a_history_beyond_the_limit_counts_as_expired() -> None:
    async with running(256 * KIB) as bus:
        peer = await bus.peer()
        await peer.connection.publish([Outgoing(TOPIC, bytes(100 * KIB), Keep(("me", n), 9, 60)) for n in (1, 2, 3)])
        epoch = (await peer.connection.read_history(TOPIC, None)).position.epoch
        assert len((await peer.connection.read_history(TOPIC, Position(epoch, 1))).messages) == 2
        whole = await peer.connection.read_history(TOPIC, Position(epoch, 0))
        assert whole == (Position(epoch, 3), [], False)


async def test_histories_that_are_read_at_once_share_the_limit() -> None:
    async with running(256 * KIB) as bus:
        peer, raw = await bus.peer(), bus.raw()
        await peer.connection.publish([Outgoing(TOPIC, bytes(100 * KIB), Keep(("me", n), 9, 60)) for n in (1, 2)])
        start = Position((await peer.connection.read_history(TOPIC, None)).position.epoch, 1)
        await send(raw, encode(READ, NAME, [LONG_COUNT.pack(1000 * KIB), str(start).encode()]) * 5)
        complete: list[bool] = []
        async with aclosing(frames(raw)) as reading:
            while len(complete) < 5:
                kind, _, items = await reading.__anext__()
                if kind == HISTORY_END:
                    complete.append(bool(items[1]))
        assert complete == [True, True, False, False, False]
