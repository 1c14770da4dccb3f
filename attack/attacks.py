"""The attacks: what each attacker does with its connections."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
BLOCK_SIZE = 256 * 1024
TEXT, BINARY, CONTINUATION, PING = 1, 2, 0, 9
_COMPRESSED = 4
_RESET = struct.pack("ii", 1, 0)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a masked frame with a key of zeros, as a client may send it."""
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    size = len(payload)
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def compressed(payload: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def handshake(port: int, path: str) -> bytes:
    """Return the request of a WebSocket handshake that offers permessage-deflate."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    ).encode()


Behaviour = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """One kind of attack.

    Args:
        name: its name on the command line.
        attackers: connections that attack at a time.
        behave: what one of them does once, with the port of the server; it is called again when it returns.
    """

    name: str
    attackers: int
    behave: Behaviour


def flood(path: str, unit: bytes) -> Behaviour:
    """Return a behaviour that repeats frames as fast as the server reads, and reads all answers."""
    block = unit * max(1, BLOCK_SIZE // len(unit))

    async def behave(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(handshake(port, path))
            await reader.readuntil(b"\r\n\r\n")
            reading = asyncio.create_task(_discard(reader))
            while not reading.done():
                writer.write(block)
                await writer.drain()
        finally:
            writer.transport.abort()

    return behave


async def _discard(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(BLOCK_SIZE):
            pass


async def send_nothing(port: int) -> None:
    """Connect, and wait for the server to close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.read()
    finally:
        writer.transport.abort()


async def drip_head(port: int) -> None:
    """Send a handshake byte by byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(_discard(reader))
    try:
        for byte in handshake(port, "/def"):
            if reading.done():
                break
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.2)
    finally:
        writer.transport.abort()


async def reset_at_once(port: int) -> None:
    """Send a handshake and a message, and reset the connection before the server accepts it."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        sock.sendall(handshake(port, "/def") + frame(TEXT, b"x"))
    sock.close()
    await asyncio.sleep(0)


async def read_nothing(port: int) -> None:
    """Ask for echoes of large messages, and never read them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.transport.set_write_buffer_limits(high=BLOCK_SIZE)
    try:
        writer.write(handshake(port, "/def"))
        await reader.readuntil(b"\r\n\r\n")
        message = frame(BINARY, bytes(60_000))
        while not writer.is_closing():
            writer.write(message)
            await asyncio.wait_for(writer.drain(), 5)
    except (TimeoutError, asyncio.TimeoutError):
        pass
    finally:
        writer.transport.abort()


def fragments(count: int, *, rsv: int = 0, first: bytes = b"") -> bytes:
    """Return one message in fragments without payload, apart from the first one."""
    return frame(BINARY, first, fin=False, rsv=rsv) + frame(CONTINUATION, fin=False) * count + frame(CONTINUATION)


_BOMB = frame(BINARY, compressed(bytes(1_000_000)), rsv=_COMPRESSED)
_ATTACKS = [
    Attack("tiny-messages", 50, flood("/def", frame(TEXT, b"x"))),
    Attack("tiny-messages-async", 50, flood("/async", frame(TEXT, b"x"))),
    Attack("tiny-messages-slow", 50, flood("/slow", frame(TEXT, b"x"))),
    Attack("large-messages-slow", 50, flood("/slow", frame(BINARY, os.urandom(250_000)))),
    Attack("fragments", 50, flood("/def", fragments(4000))),
    Attack("compressed-fragments", 50, flood("/def", fragments(4000, rsv=_COMPRESSED, first=compressed(b"x")))),
    Attack("bombs", 10, flood("/slow", _BOMB)),
    Attack("pings", 50, flood("/def", frame(PING, b"x" * 125))),
    Attack("garbage", 50, flood("/def", os.urandom(1000))),
    Attack("read-nothing", 50, read_nothing),
    Attack("send-nothing", 2000, send_nothing),
    Attack("drip-heads", 500, drip_head),
    Attack("reset-at-once", 20, reset_at_once),
]
#: All attacks by name.
ATTACKS = {attack.name: attack for attack in _ATTACKS}


async def keep_attacking(attack: Attack, port: int) -> None:
    """Run an attack until cancelled."""

    async def attacker() -> None:
        while True:
            with suppress(OSError, EOFError, asyncio.LimitOverrunError):
                await attack.behave(port)
            await asyncio.sleep(0.01)

    await asyncio.gather(*[attacker() for _ in range(attack.attackers)])
