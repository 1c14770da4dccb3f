"""A process on the local bus that sends anything, or too much of it: the other workers keep delivering.

The tests of slow workers have those that never read. Only a worker has a socket of the bus; nothing listens.
"""

from __future__ import annotations

import random
import struct
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.local_bus import NAME, TOPIC, running, send, until
from support.topic_rooms import Rooms, expect
from support.topic_rooms import running as running_rooms

from pywsapp.brokers.base import MIB
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.local.frames import (
    BEGIN,
    CONFIRM,
    HEAD,
    KEEP,
    LONG_COUNT,
    MAX_FRAME,
    MESSAGES,
    READ,
    SUBSCRIBE,
    UNSUBSCRIBE,
    encode,
)
from pywsapp.brokers.local.router import BusRouter
from pywsapp.testing.broker_peers import Peer

pytestmark = pytest.mark.anyio

HOW = struct.pack("<QIId", 1, 10, 1000, 60.0)
KINDS = (BEGIN, SUBSCRIBE, UNSUBSCRIBE, MESSAGES, KEEP, READ)


async def check_delivery(one: Peer, two: Peer) -> None:
    """Check that two workers reach each other, in both directions."""
    for sender, receiver in ((one, two), (two, one)):
        receiver.received.clear()
        await sender.publish(TOPIC, b"hello")
        await receiver.expect([(TOPIC, b"hello")])


class Transport:
    """A transport that discards what is written."""

    def __init__(self) -> None:
        self.aborted = False

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None: ...
    def writelines(self, pieces: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


ITEMS = st.sampled_from(
    [b"", NAME, b"*", b"a:*", b"\xff", HOW, bytes(24), b"\xff" * 24, LONG_COUNT.pack(2**64 - 1), b"1-a"]
)
FRAMES = st.builds(
    encode,
    st.sampled_from(KINDS) | st.sampled_from([kind | CONFIRM for kind in KINDS]) | st.integers(0, 255),
    ITEMS,
    st.lists(ITEMS | st.binary(max_size=30), max_size=4),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), FRAMES | st.binary(max_size=40)), max_size=12))
def test_no_frame_raises_in_the_supervisor(frames: list[tuple[int, bytes]]) -> None:
    router = BusRouter()
    workers = [router.connection(number) for number in range(3)]
    transports = [Transport() for _ in workers]
    for worker, transport in zip(workers, transports, strict=True):
        worker.connection_made(transport)
    for number, data in frames:
        if not transports[number].aborted:
            workers[number].data_received(data)
    assert router.stats.workers == [transport.aborted for transport in transports].count(False)
    router.close()
    assert router.stats[:2] == (0, 0)


async def test_many_sockets_with_anything() -> None:
    """They are 1,050 on the three event loops."""
    source = random.Random(1)
    begun = encode(BEGIN, b"1", [b"*"]) + encode(SUBSCRIBE | CONFIRM, b"", [NAME])
    async with running() as bus:
        one, two = await bus.peer(TOPIC), await bus.peer(TOPIC)
        for number in range(7):
            for _ in range(50):
                end = bus.pair()
                with end, suppress(OSError):
                    end.setblocking(False)
                    valid = begun + encode(MESSAGES, NAME, [b"x" * source.randrange(100)])
                    rubbish = source.randbytes(source.randrange(200))
                    end.send(source.choice([b"", rubbish, valid[: source.randrange(len(valid))], valid + rubbish]))
            if number == 3:
                await check_quiet(bus, one, two)
        await check_quiet(bus, one, two)
        assert bus.router.stats[:2] == (2, 1)


async def check_quiet(bus: Any, one: Peer, two: Peer) -> None:
    """Check that two workers reach each other when all others are gone."""
    await until(lambda: bus.router.stats.workers == 2)
    await one.connection.subscribe([])  # what others have sent before has arrived
    await two.publish("nothing", b"x")
    await check_delivery(one, two)


async def test_frames_that_are_announced_and_never_come() -> None:
    async with running() as bus:
        one, two = await bus.peer(TOPIC), await bus.peer(TOPIC)
        tracemalloc.start()
        try:
            for _ in range(30):
                await send(bus.raw(), HEAD.pack(MAX_FRAME, MESSAGES, len(NAME), 1) + NAME + bytes(50_000))
            await check_delivery(one, two)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 12 * MIB, "30 times 50 kB have come, and 480 MiB were announced"


async def test_a_worker_that_speaks_for_another() -> None:
    async with running() as bus:
        one, two = Rooms(bus.broker()), Rooms(bus.broker())
        async with running_rooms(one, two) as clients:
            (first, _), (second, _) = await one.connect(clients), await two.connect(clients)
            victim, data = one.app.topics.codec.origin, b""
            for envelope in (
                Envelope("t", "as the victim", victim),
                Envelope("t", None, victim, {"presence": "bye"}),
                Envelope(
                    "$pywsapp:users", None, victim, {"users": "answer", "to": victim, "number": 1, "connections": 9}
                ),
            ):
                data += encode(MESSAGES, envelope.topic.encode(), [encode_envelope(envelope)])
            data += encode(KEEP, b"t", [victim.encode(), HOW, b"{}"])
            await send(bus.raw(), data)
            await expect(second, "as the victim")
            await one.topic().broadcast("from one")
            await two.topic().broadcast("from two")
            await expect(first, "from one", "from two")
            await expect(second, "from one", "from two")
            assert one.app.topics.relay is not None
            assert one.app.topics.relay.stats.connects == 1
