"""Bytes over real sockets, plain and TLS, on every event loop; backpressure too."""

from __future__ import annotations

import os
import random

import anyio
import pytest
from support.transports import MIB, Echo, Recorder, connected, receive_exactly, same
from support.waiting import until_blocked

pytestmark = pytest.mark.anyio


async def test_echo_in_pieces(kind: str) -> None:
    sizes = random.Random(kind).choices([1, 2, 17, 1000, 70000], k=40)
    async with connected(kind, Echo()) as connection:
        for size in sizes:
            data = os.urandom(size)
            await connection.peer.send(data)
            assert same(await receive_exactly(connection.peer, size), data)


async def test_8_mib_both_ways_at_once(kind: str) -> None:
    protocol, down, up = Recorder(), os.urandom(8 * MIB), os.urandom(8 * MIB)
    async with connected(kind, protocol) as connection:
        connection.transport.write(down)
        connection.tasks.start_soon(connection.peer.send, up)
        assert same(await receive_exactly(connection.peer, len(down)), down)
        await protocol.until(lambda: len(protocol.received) >= len(up))
        assert same(bytes(protocol.received), up)
        assert connection.transport.get_write_buffer_size() == 0


async def test_writes_keep_their_order_under_pressure(kind: str) -> None:
    protocol, numbers = Recorder(), b"".join(b"%07d" % number for number in range(100_000))
    async with connected(kind, protocol) as connection:
        for start in range(0, len(numbers), 7):
            connection.transport.write(numbers[start : start + 7])
        assert same(await receive_exactly(connection.peer, len(numbers)), numbers)


async def test_pause_reading_stops_delivery_and_the_sender(kind: str) -> None:
    protocol, data, sent = Recorder(), os.urandom(32 * MIB), anyio.Event()

    async def send() -> None:
        await connection.peer.send(data)
        sent.set()

    async with connected(kind, protocol) as connection:
        protocol.on_data = lambda _: connection.transport.pause_reading()
        connection.tasks.start_soon(send)
        await protocol.until(lambda: protocol.received)
        size = len(protocol.received)
        await until_blocked()
        assert len(protocol.received) == size
        assert not sent.is_set()
        protocol.on_data = None
        connection.transport.resume_reading()
        await sent.wait()
        await protocol.until(lambda: len(protocol.received) == len(data))
        assert same(bytes(protocol.received), data)


async def test_pause_before_the_first_bytes(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.pause_reading()
        await connection.peer.send(b"early")
        await until_blocked()
        assert protocol.events == ["made"]
        connection.transport.resume_reading()
        await protocol.until(lambda: protocol.received == b"early")


async def test_writing_is_paused_and_resumed_in_pairs(kind: str) -> None:
    protocol, block = Recorder(), bytes(16 * MIB)  # more than the kernel's buffers grow to
    async with connected(kind, protocol) as connection:
        for round_ in range(1, 4):
            connection.transport.write(block)
            connection.transport.write(block)
            assert protocol.events.count("pause") == round_
            assert protocol.events.count("resume") == round_ - 1
            assert 65536 < connection.transport.get_write_buffer_size() <= 2 * len(block)
            await receive_exactly(connection.peer, 2 * len(block))
            while protocol.events.count("resume") < round_:
                await protocol.until(lambda: protocol.events[-1] == "resume")
            assert connection.transport.get_write_buffer_size() <= 16384


async def test_write_buffer_limits(kind: str) -> None:
    protocol, sizes = Recorder(), []
    protocol.resume_writing = lambda: sizes.append(protocol.transport.get_write_buffer_size())  # type: ignore[method-assign]
    async with connected(kind, protocol) as connection:
        with pytest.raises(ValueError, match="high"):
            connection.transport.set_write_buffer_limits(high=1, low=2)
        with pytest.raises(ValueError, match="low"):
            connection.transport.set_write_buffer_limits(high=1, low=-1)
        connection.transport.set_write_buffer_limits(high=16 * MIB)
        connection.transport.write(bytes(15 * MIB))
        assert "pause" not in protocol.events
        connection.transport.set_write_buffer_limits(high=10, low=0)
        assert protocol.events.count("pause") == 1
        await receive_exactly(connection.peer, 15 * MIB)
        while not sizes:
            await until_blocked()
        assert sizes == [0]


async def test_writing_inside_resume_writing(kind: str) -> None:
    protocol, more = Recorder(), [b"b" * MIB, b"c" * MIB]
    note = protocol.resume_writing

    def resume_writing() -> None:
        note()
        while more and protocol.events[-1] != "pause":
            protocol.transport.write(more.pop(0))

    protocol.resume_writing = resume_writing  # type: ignore[method-assign]
    async with connected(kind, protocol) as connection:
        connection.transport.write(b"a" * 8 * MIB)
        assert same(await receive_exactly(connection.peer, 10 * MIB), b"a" * 8 * MIB + b"b" * MIB + b"c" * MIB)
