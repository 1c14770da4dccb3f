"""A connection of an attacker, which records how the server ends it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from attack.wire import request

#: Bytes that an attacker writes before it waits for the server to read.
BLOCK_SIZE = 256 * 1024
_LONGEST_CLOSE = 127
_RESET = struct.pack("ii", 1, 0)


class Link(asyncio.Protocol):
    """One connection of an attacker; `Target.connect` makes it.

    It counts what the server does: "101" and "HTTP 431" for the answer to a request, "close 1009" for a connection that
    ends with a close frame, "reset" and "end" for one that ends without. What the attacker ends itself does not count.

    Args:
        tally: what it counts in.

    Attributes:
        transport: its transport.
        ended: done when the connection is lost.
    """

    transport: asyncio.Transport

    def __init__(self, tally: Counter[str]) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._answered: asyncio.Future[int] = loop.create_future()
        self._tally = tally
        self._head: bytes | None = b""
        self._tail = b""
        self._is_websocket = False
        self._aborted = False
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=BLOCK_SIZE)

    def data_received(self, data: bytes) -> None:
        """Find the status of the answer, and keep the bytes that can be a close frame."""
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._head = self._head[:end], self._head[end + 4 :], None
            status = int(head[9:12]) if head.startswith(b"HTTP/1.") and head[9:12].isdigit() else 0
            self._is_websocket = status == 101
            self._tally["101" if self._is_websocket else f"HTTP {status}"] += 1
            if not self._answered.done():
                self._answered.set_result(status)
        self._tail = (self._tail + data)[-_LONGEST_CLOSE:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Record the end."""
        if not self._aborted:
            code = close_code(self._tail) if self._is_websocket else None
            if code is not None:
                self._tally[f"close {code}"] += 1
            elif self._is_websocket or self._head is not None:  # an HTTP answer is counted already
                self._tally["end" if exc is None else "reset"] += 1
        for future in (self.ended, self._answered):
            if not future.done():
                future.cancel()
        self._can_write.set()

    def pause_writing(self) -> None:
        """Let `write` wait."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Let `write` continue."""
        self._can_write.set()

    async def write(self, data: bytes) -> None:
        """Write, and wait until the server has read most of it.

        Raises:
            ConnectionError: the connection has ended.
        """
        self.transport.write(data)
        await asyncio.sleep(0)  # or a server that reads everything would stop all other attackers
        await self._can_write.wait()
        if self.ended.done():
            raise ConnectionError

    async def answer(self) -> int:
        """Wait for the answer to a request, and return its status.

        Raises:
            ConnectionError: there is none.
        """
        try:
            return await asyncio.shield(self._answered)
        except asyncio.CancelledError:
            if self._answered.cancelled():
                raise ConnectionError from None
            raise

    async def end(self, seconds: float = 60) -> None:
        """Wait until the server ends the connection, but not longer than `seconds`."""
        await asyncio.wait([self.ended], timeout=seconds)

    def abort(self, *, reset: bool = False) -> None:
        """End the connection, with a reset if wanted."""
        self._aborted = True
        if self.ended.done():
            return
        sock = self.transport.get_extra_info("socket")
        if reset and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def close_code(tail: bytes) -> int | None:
    """Return the code of the close frame at the end of what a server sent; None if there is none."""
    for size in range(2, min(126, len(tail) - 1)):
        if tail[-size - 2] == 0x88 and tail[-size - 1] == size:
            code = int.from_bytes(tail[-size : len(tail) - size + 2], "big")
            if 1000 <= code < 5000:
                return code
    return 1005 if tail.endswith(b"\x88\0") else None


@dataclass
class Target:
    """The server as an attacker sees it.

    Args:
        ports: the ports by name: "plain", "tls", "proxy".
        tally: what the server did to the connections of one attack.
    """

    ports: dict[str, int]
    tally: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def connect(self, port: str = "plain", receive_buffer: int | None = None) -> AsyncIterator[Link]:
        """Connect to a port, and abort the connection at the end.

        Args:
            port: the name of the port.
            receive_buffer: bytes that the kernel keeps of what is not read; None for its default, which is megabytes.
        """
        context = None
        if port == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await loop.sock_connect(sock, ("127.0.0.1", self.ports[port]))
            host = "127.0.0.1" if context else None
            _, link = await loop.create_connection(
                lambda: Link(self.tally), sock=sock, ssl=context, server_hostname=host
            )
        except BaseException:
            sock.close()
            raise
        try:
            yield link
        finally:
            link.abort()

    @asynccontextmanager
    async def upgrade(self, path: str, port: str = "plain", receive_buffer: int | None = None) -> AsyncIterator[Link]:
        """Open a WebSocket, and abort its connection at the end; the arguments are those of `connect`.

        Raises:
            ConnectionError: the server refused it.
        """
        async with self.connect(port, receive_buffer) as link:
            await link.write(request(self.ports[port], path))
            if await link.answer() != 101:
                raise ConnectionError
            yield link


Behaviour = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """One kind of attack.

    Args:
        name: its name on the command line.
        attackers: connections that attack at a time.
        behave: what one of them does once; it is called again when it returns.
        text: what the attackers do, for a table.
        outcomes: what the server may do to them, as `Link` counts it. A connection that the server ends can always be
            seen as "reset" too: TCP resets a connection that is closed with unread data.
        server: further arguments of the server, as an operator who knows the attack sets them.
        memory: bytes that the server may take beside those before the attack.
        latency: seconds that 99 % of the echoes of other clients may take.
        least_seconds: how long the attack must run for the limits to end it.
        refuses: whether the server may refuse other clients meanwhile, with status 503.
        ours_only: whether the other servers have nothing that it attacks.
    """

    name: str
    attackers: int
    behave: Behaviour
    text: str
    outcomes: frozenset[str]
    server: tuple[str, ...] = ()
    memory: int = 200 * 1024 * 1024
    latency: float = 0.1
    least_seconds: float = 0
    refuses: bool = False
    ours_only: bool = False
