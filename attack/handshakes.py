"""Connections that come and go: resets, and handshakes as fast as they are accepted."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from attack.link import Attack, Target
from attack.wire import TEXT, frame, request

_RESET = struct.pack("ii", 1, 0)
_AT_ONCE = 5000


async def reset_at_once(target: Target) -> None:
    """Send a handshake and a message, and reset the connection before the server accepts it."""
    port = target.ports["plain"]
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        sock.sendall(request(port, "/def") + frame(TEXT, b"x"))
    sock.close()
    await asyncio.sleep(0)


async def connect_and_reset(target: Target) -> None:
    """Connect 5,000 times, and reset all of these connections together."""
    socks = []
    try:
        for _ in range(_AT_ONCE):
            sock = socket.socket()
            socks.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.connect_ex(("127.0.0.1", target.ports["plain"]))
            if len(socks) % 100 == 0:
                await asyncio.sleep(0.01)  # or the queue of the listening socket overflows
    finally:
        for sock in socks:
            sock.close()


async def shake_hands(target: Target) -> None:
    """Open a WebSocket, and reset it."""
    async with target.upgrade("/def") as link:
        link.abort(reset=True)


ATTACKS = [
    Attack("reset-at-once", 20, reset_at_once, "handshakes that are reset at once", frozenset()),
    Attack("connect-and-reset", 1, connect_and_reset, "5,000 connections that are reset together", frozenset()),
    Attack("handshakes", 50, shake_hands, "handshakes, each on a new connection", frozenset({"101"})),
    Attack(
        "handshakes-limited",
        50,
        shake_hands,
        "the same with `max_handshakes_per_second=200`",
        frozenset({"101", "HTTP 503"}),
        server=("--max-handshakes-per-second", "200"),
        refuses=True,
        ours_only=True,
    ),
]
