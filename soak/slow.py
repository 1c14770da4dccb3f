"""Visits that read slowly, and visits that send more than a rate limit allows."""

from __future__ import annotations

import time

import anyio

from pywsapp import ClientConnection, CloseCode, ConnectionClosed
from soak.server import BURST, FLOOD_MESSAGES, RATE
from soak.world import Kind, Violation, Visitor, check, check_left, token_for

_MESSAGES = 3 * BURST
#: Messages that a process takes from Redis in advance: those of 0.1 s.
_LEASE = 5
_END = "the end"


async def _read_all(conn: ClientConnection, pause: float, every: int) -> list[int]:
    """Return the numbers of a flood until its end; pause after some of them."""
    numbers: list[int] = []
    while isinstance(message := await conn.receive(), bytes):
        numbers.append(int.from_bytes(message[:4], "big"))
        if len(numbers) % every == 0:
            await anyio.sleep(pause)
    check(message == _END, "a flood has a wrong end")
    return numbers


async def read_too_slowly(visitor: Visitor) -> None:
    """Read nothing for a while: the server closes with 1013, and what arrived before has no gap."""
    numbers: list[int] = []
    async with visitor.open("feed", max_queue=1) as conn:
        conn.send("go")
        await anyio.sleep(visitor.rng.uniform(0.5, 1.5))
        try:
            while isinstance(message := await conn.receive(), bytes):
                numbers.append(int.from_bytes(message[:4], "big"))
            check(len(numbers) == FLOOD_MESSAGES, f"{len(numbers)} messages of a flood came, and its end")
        except ConnectionClosed as exc:
            # 1006: the close frame waited behind the messages for longer than `close_timeout`
            if exc.code not in (CloseCode.TRY_AGAIN_LATER, CloseCode.ABNORMAL_CLOSURE):
                raise
    check(numbers == list(range(len(numbers))), "a flood that was closed has a gap")


async def miss_some(visitor: Visitor) -> None:
    """Read slowly where old messages are dropped: the others are in order, and the last one comes."""
    async with visitor.open("scores", max_queue=1) as conn:
        conn.send("go")
        await anyio.sleep(visitor.rng.uniform(0, 0.5))
        numbers = await _read_all(conn, 0.05, 40)
    check(numbers == sorted(set(numbers)), "messages are not in order where old ones are dropped")
    check(numbers[-1:] == [FLOOD_MESSAGES - 1], "the last message is missing where old ones are dropped")
    check_left(conn.close_code)


async def be_waited_for(visitor: Visitor) -> None:
    """Read slowly where the server waits: everything comes."""
    async with visitor.open("download", max_queue=1) as conn:
        conn.send("go")
        numbers = await _read_all(conn, 0.05, 40)
    check(numbers == list(range(FLOOD_MESSAGES)), "messages are missing where the server waits for the client")
    check_left(conn.close_code)


async def be_delayed(visitor: Visitor) -> None:
    """Send more than the rate: everything comes back, later."""
    async with visitor.open("delayed") as conn:
        _check_time(await _receive_all(conn), (_MESSAGES - BURST) / RATE)
    check_left(conn.close_code)


async def share_a_limit(visitor: Visitor) -> None:
    """Send more than the rate on two connections of a user, which share the limit."""
    token, began = token_for(visitor.new_name(), 600), time.monotonic()
    failures: list[Exception] = []

    async def receive(conn: ClientConnection) -> None:
        try:
            await _receive_all(conn)
        except (ConnectionClosed, Violation) as exc:
            failures.append(exc)

    async with visitor.open("shared", token=token) as one, visitor.open("shared", token=token) as other:
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive, one)
            tasks.start_soon(receive, other)
        seconds = time.monotonic() - began
    if failures:
        raise failures[0]
    check_left(one.close_code)
    if visitor.world.had_outage():  # both processes can count for themselves, after Redis has given a burst
        _check_time(seconds, (2 * _MESSAGES - 3 * BURST - 2 * _LEASE) / (2 * RATE))
    else:
        _check_time(seconds, (2 * _MESSAGES - BURST - 2 * _LEASE) / RATE)


async def _receive_all(conn: ClientConnection) -> float:
    """Send messages and receive their echoes; return the seconds that this took."""
    began = time.monotonic()
    for number in range(_MESSAGES):
        conn.send(str(number))
    for number in range(_MESSAGES):
        check(await conn.receive() == str(number), "a delayed message is not in order")
    return time.monotonic() - began


def _check_time(seconds: float, least: float) -> None:
    check(seconds > 0.9 * least, f"the limit was passed after {seconds:.2f} s instead of {least:.2f} s")


async def be_dropped(visitor: Visitor) -> None:
    """Send more than the rate: the burst comes back, the rest is dropped, and later messages come back."""
    async with visitor.open("dropping") as conn:
        began = time.monotonic()
        for number in range(_MESSAGES):
            conn.send(str(number))
        await anyio.sleep(1.0)
        conn.send(_END)
        received: list[str] = []
        while (message := await conn.receive()) != _END:
            received.append(str(message))
        most = BURST + RATE * (time.monotonic() - began) + 1
    check(received[:BURST] == [str(number) for number in range(BURST)], "a message of the burst was dropped")
    check([int(text) for text in received] == sorted({int(text) for text in received}), "messages are not in order")
    check(len(received) <= most, f"{len(received)} messages passed a limit of {most:.0f}")
    check_left(conn.close_code)


async def be_closed(visitor: Visitor) -> None:
    """Send more than the rate where that closes the connection."""
    async with visitor.open("closing") as conn:
        for number in range(10 * _MESSAGES):
            conn.send(str(number))
        try:
            while await conn.receive() != str(10 * _MESSAGES - 1):
                pass
        except ConnectionClosed as exc:
            if exc.code != CloseCode.POLICY_VIOLATION:
                raise
        else:
            check(condition=False, text="all messages passed a limit")


KINDS = (
    Kind("read too slowly", 1, 3.0, read_too_slowly),
    Kind("miss messages", 1, 3.0, miss_some),
    Kind("download slowly", 1, 3.0, be_waited_for),
    Kind("delayed", 2, 1.0, be_delayed),
    Kind("shared limit", 2, 1.0, share_a_limit, uses_store=True),
    Kind("dropped", 2, 1.0, be_dropped),
    Kind("closed by a limit", 1, 1.0, be_closed),
)
