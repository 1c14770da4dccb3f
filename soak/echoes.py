"""Visits that exchange messages, and connections that end in every way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import anyio
from attack.wire import TEXT, frame, request

from pywsapp import ConnectionClosed
from soak.world import Kind, Visitor, check, check_left

_SIZES = (0, 16, 125, 126, 1000, 65_535, 65_536, 100_000)
#: Seconds in which the server must end a connection that its peer has half closed.
_END_SECONDS = 30.0
_RESET = struct.pack("ii", 1, 0)  # an SO_LINGER that makes close send a RST


async def chat(visitor: Visitor) -> None:
    """Exchange messages of all sizes; each comes back unchanged and in order."""
    rng = visitor.rng
    async with visitor.open_compressed(rng.choice(("echo", "echo-async"))) as conn:
        for _ in range(rng.randint(1, 12)):
            messages = [_message(rng) for _ in range(rng.randint(1, 6))]
            for message in messages:
                conn.send(message)
            for message in messages:
                check(await conn.receive() == message, f"the echo of a message of {len(message)} is another one")
            await anyio.sleep(rng.uniform(0, 0.3))
    check_left(conn.close_code)


def _message(rng: Random) -> str | bytes:
    size = rng.choice(_SIZES)
    return rng.randbytes(size) if rng.random() < 0.5 else rng.randbytes(size // 2).hex()


async def leave_at_once(visitor: Visitor) -> None:
    """Connect, and leave in some way while messages are on their way."""
    way = visitor.rng.choice(("close", "abort", "send and close", "send and abort"))
    async with visitor.open_compressed("echo") as conn:
        if "send" in way:
            conn.send(bytes(50_000))
        if "abort" in way:
            conn.abort()


async def reset(visitor: Visitor) -> None:
    """Reset a connection (RST) in the middle of a handshake, of a frame, or of an answer."""
    host, port = visitor.address()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head, part = request(port, "/echo"), visitor.rng.choice(("head", "frame", "answer"))
        writer.write(head[:40] if part == "head" else head)
        if part != "head":
            await reader.readuntil(b"\r\n\r\n")
            message = frame(TEXT, b"x" * 60_000)
            writer.write(message[:100] if part == "frame" else message * 3)
            await writer.drain()
    finally:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
        await asyncio.sleep(0)  # the transport closes its socket in the next turn


async def half_close(visitor: Visitor) -> None:
    """End the direction to the server; the echo of the last message still comes, and the server ends the rest."""
    async with _raw(visitor) as (reader, writer):
        writer.write(frame(TEXT, b"last"))
        writer.write_eof()
        with anyio.fail_after(_END_SECONDS):
            rest = await reader.read()
        if rest[:1] == b"\x88":
            raise ConnectionClosed(f"the server closed: {rest!r}", code=int.from_bytes(rest[2:4], "big"))
        check(rest.startswith(b"\x81\x04last"), f"half-closed connection: the server sent {rest[:20]!r}")


@asynccontextmanager
async def _raw(visitor: Visitor) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = visitor.address()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request(port, "/echo"))
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()


KINDS = (
    Kind("echo", 12, 0.5, chat),
    Kind("leave at once", 4, 0.2, leave_at_once),
    Kind("reset", 3, 0.3, reset),
    Kind("half close", 2, 0.5, half_close),
)
