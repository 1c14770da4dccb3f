"""Slow peers of an open WebSocket: they read nothing, or never finish a message."""

from __future__ import annotations

import asyncio
import os
from itertools import count

from attack.link import Attack, Behaviour, Target
from attack.wire import BINARY, TEXT, frame, head

_MIB = 1 << 20
_HOLD_SECONDS = 60
_STUCK_SECONDS = 5
_PAUSE_SECONDS = 3
_RECEIVE_BUFFER = 4096


def read_nothing(port: str) -> Behaviour:
    """Return a behaviour that asks for echoes of large messages, and never reads them."""

    async def behave(target: Target) -> None:
        async with target.upgrade("/def", port, _RECEIVE_BUFFER) as link:
            link.transport.pause_reading()
            message = frame(BINARY, os.urandom(60_000))  # or the echo would be compressed
            while True:
                try:
                    await asyncio.wait_for(link.write(message), _STUCK_SECONDS)
                except (TimeoutError, asyncio.TimeoutError):
                    return

    return behave


async def read_no_broadcasts(target: Target) -> None:
    """Subscribe to a feed, and begin to read it a few seconds later."""
    async with target.upgrade("/feed", receive_buffer=_RECEIVE_BUFFER) as link:
        link.transport.pause_reading()
        await asyncio.sleep(_PAUSE_SECONDS)
        link.transport.resume_reading()
        await link.end(5)


_numbers = count()


async def never_finish(target: Target) -> None:
    """Send a message of 1 MiB except for its last byte, in one frame or in two, and wait for the server to end it."""
    async with target.upgrade("/def") as link:
        if next(_numbers) % 2:
            await link.write(head(BINARY, _MIB) + bytes(_MIB - 1))
        else:
            half = bytes(_MIB // 2)
            await link.write(frame(TEXT, half, fin=False) + head(0, _MIB // 2) + half[:-1])
        await link.end(_HOLD_SECONDS)


ATTACKS = [
    Attack("read-nothing", 50, read_nothing("plain"), "large echoes that are not read", frozenset({"101"})),
    Attack(
        "read-nothing-tls",
        50,
        read_nothing("tls"),
        "the same over TLS",
        frozenset({"101"}),
        server=("--tls",),
    ),
    Attack(
        "read-no-broadcasts",
        50,
        read_no_broadcasts,
        "subscribers of 3.2 MB/s that read nothing for 3 s",
        frozenset({"101", "close 1013"}),
        least_seconds=10,
    ),
    Attack(
        "unfinished-messages",
        100,
        never_finish,
        "messages of 1 MiB without the last byte, held",
        frozenset({"101", "close 1008"}),
        memory=250 * _MIB,
        least_seconds=35,  # Options.message_timeout, and 5 seconds more
    ),
]
