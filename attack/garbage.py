"""Bytes that no client sends: random ones, random frames, and text that is not UTF-8."""

from __future__ import annotations

import os
import random
from itertools import count

from attack.link import BLOCK_SIZE, Attack, Target
from attack.wire import CONTINUATION, TEXT, frame

_TEXT = "κόσμε, zażółć, \N{PARTY POPPER}".encode()
_WRONG = [
    b"\xc0\xaf",  # overlong
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # above U+10FFFF
    b"\x80",
    b"\xff",
]
_NOISE = os.urandom(70_000)
_numbers = count()

#: Random bytes can be a valid close frame too, with or without a code, which is answered with the same.
_CODES = (1000, 1001, 1003, 1005, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000))
_CLOSED = frozenset(
    {"101", "close 1002", "close 1007", "close 1008", "close 1009", *(f"close {code}" for code in _CODES)}
)


async def random_bytes(target: Target) -> None:
    """Send random bytes instead of a request."""
    async with target.connect() as link:
        while True:
            await link.write(os.urandom(BLOCK_SIZE))


async def random_bytes_after_handshake(target: Target) -> None:
    """Send random bytes instead of frames."""
    async with target.upgrade("/def") as link:
        while True:
            await link.write(os.urandom(BLOCK_SIZE))


async def random_frames(target: Target) -> None:
    """Send whole frames with random heads, which get further than random bytes."""
    choose = random.Random(next(_numbers))
    async with target.upgrade("/def") as link:
        while True:
            parts = []
            for _ in range(10):
                opcode = choose.choice((0, 1, 1, 2, 2, 8, 9, 10, choose.randrange(16)))
                rsv = choose.choice((0, 0, 0, 0, 4, choose.randrange(8)))
                payload = _NOISE[: choose.choice((0, 1, 2, 125, 126, 1000, 70_000))]
                parts.append(frame(opcode, payload, fin=choose.random() < 0.7, rsv=rsv))
            await link.write(b"".join(parts))


async def wrong_text(target: Target) -> None:
    """Send a text with wrong bytes or a missing end, cut into two fragments and two writes at the next position."""
    number = next(_numbers)
    wrong = _WRONG[number % len(_WRONG)]
    cut_at = number // len(_WRONG) % (len(_TEXT) + len(wrong) + 1)
    text = _TEXT[:20] + wrong + _TEXT[20:]
    async with target.upgrade("/def") as link:
        data = frame(TEXT, text[:cut_at], fin=False) + frame(CONTINUATION, text[cut_at:])
        await link.write(data[: cut_at + 3])
        await link.write(data[cut_at + 3 :])
        await link.end()


ATTACKS = [
    Attack(
        "random-bytes",
        50,
        random_bytes,
        "random bytes instead of a request",
        frozenset({"HTTP 400", "HTTP 414", "HTTP 431"}),
    ),
    Attack(
        "garbage",
        50,
        random_bytes_after_handshake,
        "random bytes instead of frames",
        _CLOSED,
    ),
    Attack(
        "random-frames",
        50,
        random_frames,
        "frames with random heads",
        _CLOSED,
    ),
    Attack(
        "wrong-text", 50, wrong_text, "texts that are no UTF-8, cut at every position", frozenset({"101", "close 1007"})
    ),
]
