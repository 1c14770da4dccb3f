"""The minimum of work on frames: the cost of the event loop and the kernel. It is not a WebSocket server.

It answers the handshake without a check, unmasks and returns frames of less than 126 bytes that arrive whole, and
closes the connection at the first close frame. A server that follows RFC 6455 on the same transports cannot be this
fast.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

from _common import BACKLOG, HOST, arguments, run

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE = 0x88


def answer(head: bytes) -> bytes:
    key = head.partition(b"\r\nSec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def reply(frame: bytes, at: int, end: int) -> bytes:
    length = end - at - 6
    mask = int.from_bytes(frame[at + 2 : at + 6] * (length // 4 + 1), "little") & ((1 << 8 * length) - 1)
    payload = int.from_bytes(frame[at + 6 : end], "little") ^ mask
    return bytes((frame[at], length)) + payload.to_bytes(length, "little")


class Minimal(asyncio.Protocol):
    is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            self.is_open = True
            self.transport.write(answer(data))
            return
        at, replies = 0, []
        while at < len(data):
            end = at + 6 + (data[at + 1] & 127)
            replies.append(reply(data, at, end))
            if data[at] == CLOSE:
                self.transport.write(b"".join(replies))
                self.transport.close()
                return
            at = end
        self.transport.write(replies[0] if len(replies) == 1 else b"".join(replies))


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Minimal, HOST, args.port, backlog=BACKLOG)
    await server.serve_forever()


args = arguments(("--loop", ["uvloop", "asyncio"]))
run(main, args.loop == "uvloop")
