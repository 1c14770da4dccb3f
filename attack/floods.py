"""Floods: valid frames, as fast as the server reads them."""

from __future__ import annotations

import os

from attack.link import BLOCK_SIZE, Attack, Behaviour, Target
from attack.wire import BINARY, COMPRESSED, PING, PONG, TEXT, compressed, fragments, frame

_SERVED = frozenset({"101"})


def flood(path: str, unit: bytes) -> Behaviour:
    """Return a behaviour that repeats frames as fast as the server reads, and reads all answers."""
    block = unit * max(1, BLOCK_SIZE // len(unit))

    async def behave(target: Target) -> None:
        async with target.upgrade(path) as link:
            while True:
                await link.write(block)

    return behave


def one_byte_writes(path: str, unit: bytes) -> Behaviour:
    """Return a behaviour that repeats frames in writes of one byte."""

    async def behave(target: Target) -> None:
        async with target.upgrade(path) as link:
            while True:
                for byte in unit:
                    await link.write(bytes((byte,)))

    return behave


_TINY = frame(TEXT, b"x")
_EMPTY_COMPRESSED = frame(TEXT, compressed(b""), rsv=COMPRESSED)

ATTACKS = [
    Attack("tiny-messages", 50, flood("/def", _TINY), "texts of 1 byte, `def` handler", _SERVED),
    Attack("tiny-messages-async", 50, flood("/async", _TINY), "texts of 1 byte, `async def` handler", _SERVED),
    Attack("tiny-messages-slow", 50, flood("/slow", _TINY), "texts of 1 byte, handler of 10 ms", _SERVED),
    Attack(
        "large-messages-slow",
        50,
        flood("/slow", frame(BINARY, os.urandom(250_000))),
        "messages of 250 kB, handler of 10 ms",
        _SERVED,
    ),
    Attack("empty-messages", 50, flood("/def", frame(TEXT)), "empty texts", _SERVED),
    Attack("compressed-empty", 50, flood("/def", _EMPTY_COMPRESSED), "empty texts, compressed", _SERVED),
    Attack("one-byte-writes", 50, one_byte_writes("/def", frame(TEXT, b"hello")), "texts in writes of 1 byte", _SERVED),
    Attack("fragments", 50, flood("/def", fragments(4000)), "messages in 4,000 empty fragments", _SERVED),
    Attack(
        "compressed-fragments",
        50,
        flood("/def", fragments(4000, rsv=COMPRESSED, first=compressed(b"x"))),
        "the same, compressed",
        _SERVED,
    ),
    Attack(
        "too-many-fragments",
        50,
        flood("/def", fragments(100_000)),
        "messages in 100,000 empty fragments",
        frozenset({"101", "close 1009"}),
    ),
    Attack("pings", 50, flood("/def", frame(PING, b"x" * 125)), "pings of 125 bytes", frozenset({"101", "close 1008"})),
    Attack("pongs", 50, flood("/def", frame(PONG)), "unsolicited empty pongs", frozenset({"101", "close 1008"})),
]
