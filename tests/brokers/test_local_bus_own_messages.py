"""What a worker gets of its own messages on the local bus: nothing of plain ones, the positions of kept ones."""

from __future__ import annotations

import socket
import struct
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest
from support.local_bus import KIB, NAME, TOPIC, Received, frames, read, running, send, without_router

from pywsapp.brokers.base import Keep, Outgoing, Position
from pywsapp.brokers.local.frames import (
    CONFIRM,
    CONFIRMED,
    KEEP,
    LONG_COUNT,
    MESSAGES,
    PLACED,
    SUBSCRIBE,
    encode,
    encode_lists,
    encode_messages,
)
from pywsapp.exceptions import BrokerUnavailable

pytestmark = pytest.mark.anyio

ONE_CONFIRMED = encode(CONFIRMED, b"", [struct.pack("<I", 1)])


def kept(number: int, data: bytes) -> Outgoing:
    return Outgoing(TOPIC, data, Keep(("me", number), 100, 60))


def placed(position: str, number: int) -> bytes:
    return encode(PLACED, NAME, [position.encode(), b"me", LONG_COUNT.pack(number)])


async def read_until_confirmed(end: socket.socket, number: int) -> list[tuple[int, bytes, list[bytes]]]:
    """Return the frames up to the confirmation of so many requests, without the confirmations."""
    found = []
    async with aclosing(frames(end)) as reading:
        while number:
            frame = await reading.__anext__()
            if frame[0] == CONFIRMED:
                number -= struct.unpack("<I", frame[2][0])[0]
            else:
                found.append(frame)
    return found


@pytest.mark.parametrize("by", ["topic", "pattern"])
async def test_a_worker_gets_no_plain_message_back(by: str) -> None:
    async with running() as bus:
        other, raw = await bus.peer(TOPIC), bus.raw()
        if by == "topic":
            await send(raw, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        else:
            await send(raw, encode(1 | CONFIRM, b"x", [b"room:*"]))
        messages = [b"%d" % number for number in range(100)]
        await send(raw, b"".join(encode_messages([Outgoing(TOPIC, message) for message in messages])))
        await other.expect([(TOPIC, message) for message in messages])
        own = await read_until_confirmed(raw, 2)
        assert [kind for kind, _, _ in own if kind & ~CONFIRM == MESSAGES] == []
        await other.publish(TOPIC, b"from another")
        async with aclosing(frames(raw)) as reading:
            assert (await reading.__anext__())[2] == [b"from another"]


async def test_messages_around_those_of_others_stay_in_order() -> None:
    async with running() as bus:
        one, two, three = [await bus.peer(TOPIC) for _ in range(3)]
        for number in range(10):
            await one.publish(TOPIC, b"one %d" % number)
            await two.publish(TOPIC, b"two %d" % number)
        await three.expect([(TOPIC, b"%s %d" % (name, number)) for number in range(10) for name in (b"one", b"two")])
        await one.expect([(TOPIC, b"two %d" % number) for number in range(10)])
        await two.expect([(TOPIC, b"one %d" % number) for number in range(10)])


async def test_of_its_kept_messages_a_worker_gets_a_few_bytes() -> None:
    async with running() as bus:
        other, raw = await bus.peer(TOPIC), bus.raw()
        await send(raw, b"".join(encode_lists(SUBSCRIBE, [NAME])))
        outgoing = [kept(number, bytes(100 * KIB)) for number in range(1, 11)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, raw, b"".join(encode_messages(outgoing)))
            found = await read_until_confirmed(raw, 2)
        await other.expect([(TOPIC, bytes(100 * KIB))] * 10)
        epoch = (await other.connection.read_history(TOPIC, None)).position.epoch
        assert [frame for frame in found if frame[0] == PLACED] == [
            (PLACED, NAME, [f"{number}-{epoch}".encode(), b"me", LONG_COUNT.pack(number)]) for number in range(1, 11)
        ]
        assert sum(len(encode(*frame)) for frame in found) < 1000


async def test_a_connection_hands_over_its_own_copy_in_the_order_of_the_history() -> None:
    async with running() as bus:
        one, two = await bus.peer(TOPIC), await bus.peer(TOPIC)
        first, second = kept(1, b"first"), kept(2, b"second")
        await one.connection.publish([first])
        await two.connection.publish([Outgoing(TOPIC, b"between", Keep(("other", 1), 100, 60))])
        await one.connection.publish([second, second])
        for peer in (one, two):
            await peer.wait_for(3)
            assert [data for _, data, _ in peer.received] == [b"first", b"between", b"second"]
            assert [position.offset for _, _, position in peer.received if position is not None] == [1, 2, 3]
        assert one.received == two.received
        assert one.received[0][1] is first.data
        assert not one.connection._unplaced  # type: ignore[attr-defined]


async def test_a_worker_without_a_subscription_gets_no_position() -> None:
    async with running() as bus:
        peer, raw = await bus.peer(), bus.raw()
        await peer.connection.publish([kept(1, b"x")])
        assert not peer.connection._unplaced  # type: ignore[attr-defined]
        await send(raw, encode(KEEP | CONFIRM, NAME, [b"me", struct.pack("<QIxxxxd", 2, 1, 1.0), b"x"]))
        assert await read_until_confirmed(raw, 1) == []
        assert not peer.received


async def test_a_cancelled_publish_still_gets_its_positions() -> None:
    received: list[Received] = []
    async with without_router(received) as (connection, router):
        with anyio.move_on_after(0.05) as scope:
            await connection.publish([kept(1, b"1"), kept(2, b"2")])
        assert scope.cancelled_caught
        await read(router)

        async def answer() -> None:
            await anyio.wait_readable(router)
            await send(router, placed("7-abc", 1) + placed("8-abc", 2) + ONE_CONFIRMED + placed("9-abc", 3))
            await send(router, ONE_CONFIRMED)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            await connection.publish([kept(3, b"3")])
        assert received == [(TOPIC, b"%d" % number, Position("abc", 6 + number)) for number in (1, 2, 3)]
        assert not connection._unplaced


async def test_a_message_without_a_position_is_released_when_the_request_is_confirmed() -> None:
    received: list[Received] = []
    async with without_router(received) as (connection, router):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.publish, [kept(1, b"1")])
            await anyio.wait_readable(router)
            assert list(connection._unplaced.values()) == [b"1"]
            await send(router, ONE_CONFIRMED)
        assert not connection._unplaced
        await send(router, placed("7-abc", 1))  # too late: the connection is lost, and the history is read
        with pytest.raises(BrokerUnavailable, match="the position 7-abc is that of an unknown message"):
            await connection.wait_lost()
        assert not received
