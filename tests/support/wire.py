"""A client on a real socket that sends and receives bytes, and servers for it."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from types import TracebackType
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
from anyio.streams.tls import TLSStream
from typing_extensions import Self

from pywsapp import App, MessageComponent, Options, Response
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.server import Server
from support.serving import CLOSE, GUARD, frame
from support.transports import SERVER_TLS, connect_tls

_RESET = struct.pack("ii", 1, 0)  # an SO_LINGER that makes close send a RST


class HttpResponse(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """A client without a protocol implementation; it reads only when a test calls a method that receives.

    Args:
        sock: a connected socket; the peer closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._buffer = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disconnect()

    async def send(self, data: bytes) -> None:
        await self.send_some(memoryview(data))

    async def send_some(self, view: memoryview, within: float = GUARD) -> int:
        """Send for at most `within` seconds; return the number of bytes that the kernel accepted."""
        sent = 0
        with anyio.move_on_after(within):
            while sent < len(view):
                await anyio.lowlevel.checkpoint()
                try:
                    sent += self.sock.send(view[sent : sent + 1024 * 1024])
                except BlockingIOError:
                    await anyio.wait_writable(self.sock)
        return sent

    async def receive(self) -> bytes:
        """Return some received bytes; an empty result means the end of the stream."""
        await anyio.lowlevel.checkpoint()  # the server runs in the same loop and needs its turns
        while True:
            try:
                return self.sock.recv(1024 * 1024)
            except BlockingIOError:
                await anyio.wait_readable(self.sock)

    def end(self) -> None:
        """Shut down the sending direction."""
        self.sock.shutdown(socket.SHUT_WR)

    def disconnect(self) -> None:
        """Close the socket without a close frame."""
        self.sock.close()

    def reset(self) -> None:
        """Close the socket with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    async def _more(self) -> None:
        data = await self.receive()
        if not data:
            raise EOFError(f"the stream ended after {bytes(self._buffer)!r:.100}")
        self._buffer += data

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the fields of a response."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer[:] = rest
        first, *fields = head.decode("latin-1").split("\r\n")
        pairs = [field.partition(": ") for field in fields]
        return int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs}

    async def read_to_end(self) -> bytes:
        """Return everything up to the end of the stream; a reset is an error."""
        while data := await self.receive():
            self._buffer += data
        everything, self._buffer = bytes(self._buffer), bytearray()
        return everything

    async def response(self) -> HttpResponse:
        """Return a response, with a body of the announced Content-Length."""
        status, headers = await self.head()
        return HttpResponse(status, headers, await self.exactly(int(headers["content-length"])))

    async def open(self, path: str = "/", trailing: bytes = b"", **fields: str) -> dict[str, str]:
        """Do the opening handshake, with `trailing` in the same segment; return the response's fields."""
        await self.send(handshake(path, **fields) + trailing)
        status, headers = await self.head()
        assert status == 101
        return headers

    async def frame(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of an unmasked, unfragmented frame."""
        first, size = await self.exactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.exactly(8))
        return first & 15, await self.exactly(size)

    async def receive_close(self) -> tuple[int, str]:
        """Receive frames up to the close frame, answer it and wait for the end; return the code and the reason."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                await self.send(frame(CLOSE, payload))
                assert await self.read_to_end() == b""
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def handshake(path: str = "/", **fields: str) -> bytes:
    """Return the request of an opening handshake; `sec_websocket_protocol="chat"` adds or replaces a field."""
    given = {
        "host": "localhost",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        "sec-websocket-version": "13",
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


def get(path: str = "/", method: str = "GET", host: str = "localhost") -> bytes:
    """Return a plain request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


class Site(MessageComponent):
    """A component that echoes messages.

    Args:
        respond: the `on_request` of the component.
        decide: the `on_handshake` of the component.
    """

    def __init__(
        self,
        respond: Callable[[Any], Any] = lambda request: Response("page"),
        decide: Callable[[Any], Any] = lambda request: None,
    ) -> None:
        self.respond = respond
        self.decide = decide

    def on_handshake(self, request: Any) -> Any:
        return self.decide(request)

    def on_message(self, conn: Any, message: Any) -> None:
        conn.send(message)

    def on_request(self, request: Any) -> Any:
        return self.respond(request)


def peer_of(server: Server | App) -> Peer:
    """Connect to a server that listens on TCP."""
    port = server.port if isinstance(server, App) else int(server.addresses[0][1].rpartition(":")[2])
    return Peer(socket.create_connection(("127.0.0.1", port)))


@asynccontextmanager
async def serving(
    component: MessageComponent,
    options: Options | None = None,
    *,
    listeners: Iterable[ListeningSocket] = (ListeningSocket(port=0),),
    **server_options: Any,
) -> AsyncIterator[Server]:
    """Run a component on a server; the test fails if the server does not drain at the end.

    Args:
        component: the component.
        options: its options.
        listeners: where to listen.
        server_options: arguments of `Server` and of `ConnectionLimits`.
    """
    names = {field.name for field in fields(ConnectionLimits)} & server_options.keys()
    limits = ConnectionLimits(**{name: server_options.pop(name) for name in names})
    server = Server(component, options or Options(), limits, **server_options)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            listening = anyio.Event()

            async def started(_: Any) -> None:
                listening.set()

            tasks.start_soon(server.run, list(listeners), started)
            await listening.wait()
            yield server
            server.stop()


@asynccontextmanager
async def secured(site: MessageComponent) -> AsyncIterator[tuple[Server, TLSStream]]:
    """Run a server with TLS, and connect a TLS stream to it."""
    async with serving_tls(site) as server, await connect_tls(server.sockets[0].getsockname()[1]) as secure:
        yield server, secure


def serving_tls(site: MessageComponent) -> AbstractAsyncContextManager[Server]:
    """Run a server with TLS; `support.transports.connect_tls` connects to it."""
    return serving(site, listeners=[ListeningSocket(port=0, tls=SERVER_TLS)])


@asynccontextmanager
async def running(app: App) -> AsyncIterator[App]:
    """Serve an app; the test fails if it does not drain at the end."""
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            yield app
            app.stop()


def same(left: bytes, right: bytes) -> bool:
    """Return whether two long byte strings are equal; pytest would spend minutes on their difference."""
    return len(left) == len(right) and hashlib.sha256(left).digest() == hashlib.sha256(right).digest()
