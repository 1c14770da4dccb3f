"""An App on a real socket, a component that records its calls, and a client that sends any bytes."""

from __future__ import annotations

import base64
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
from anyio.abc import SocketAttribute, SocketStream
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from pywsapp import App, Connection, MessageComponent

KEY = base64.b64encode(b"the sample nonce").decode()


def handshake(path: str = "/", *fields: str, host: str = "localhost", method: str = "GET") -> bytes:
    """Return the head of a handshake; the fields are lines such as "Origin: http://localhost"."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *fields,
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


class HttpResponse(NamedTuple):
    """An HTTP response."""

    status: int
    fields: dict[str, str]
    body: str


class Closed(NamedTuple):
    """A close frame."""

    code: int
    reason: str


class Recorder(MessageComponent):
    """Records every call with its arguments; a test waits for calls with `until_called`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._changed = anyio.Event()

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def arguments_of(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of every call of one method."""
        return [call[1:] for call in self.calls if call[0] == name]

    async def until_called(self, name: str, times: int = 1) -> None:
        """Wait until a method has been called a number of times."""
        while self.names.count(name) < times:
            await self._changed.wait()

    def record(self, *call: Any) -> None:
        self.calls.append(call)
        self._changed.set()
        self._changed = anyio.Event()

    def on_open(self, conn: Connection) -> None:
        self.record("on_open", conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        self.record("on_message", conn, message)

    def on_close(self, conn: Connection) -> None:
        self.record("on_close", conn)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        self.record("on_error", conn, exc)


class Peer:
    """A client on a socket; it sends any bytes in the handshake, and wsproto makes its frames."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._bytes = b""
        self._frames = WsprotoConnection(ConnectionType.CLIENT)
        self._received: deque[str | bytes | Closed | Ping | Pong] = deque()
        self._parts: list[Any] = []

    async def write(self, data: bytes) -> None:
        await self._stream.send(data)

    async def response(self) -> HttpResponse:
        """Return a response, with a body of the announced Content-Length."""
        while b"\r\n\r\n" not in self._bytes:
            self._bytes += await self._stream.receive()
        head, _, self._bytes = self._bytes.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(fields.get("content-length", "0"))
        while len(self._bytes) < size:
            self._bytes += await self._stream.receive()
        body, self._bytes = self._bytes[:size], self._bytes[size:]
        return HttpResponse(int(status.split()[1]), fields, body.decode())

    async def handshake(
        self, path: str = "/", *fields: str, host: str = "localhost", method: str = "GET"
    ) -> HttpResponse:
        """Send a handshake; return the response, whatever its status."""
        await self.write(handshake(path, *fields, host=host, method=method))
        return await self.response()

    async def send(self, *messages: str | bytes) -> None:
        """Send messages in one write."""
        events = [
            TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
            for message in messages
        ]
        await self.write(b"".join(self._frames.send(event) for event in events))

    async def ping(self, payload: bytes) -> None:
        await self.write(self._frames.send(Ping(payload=payload)))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame."""
        await self.write(self._frames.send(CloseConnection(code=code, reason=reason)))

    async def receive(self) -> str | bytes | Closed | Ping | Pong:
        """Return the next message, pong, ping or close frame; a ping is not answered."""
        while not self._received:
            data = self._bytes or await self._stream.receive()
            self._bytes = b""
            self._frames.receive_data(data)
            self._take()
        return self._received.popleft()

    def _take(self) -> None:
        for event in self._frames.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                if event.message_finished:
                    self._received.append(type(self._parts[0])().join(self._parts))
                    self._parts.clear()
            elif isinstance(event, CloseConnection):
                self._received.append(Closed(int(event.code), event.reason or ""))
            elif isinstance(event, (Ping, Pong)):
                self._received.append(event)

    async def read_to_end(self) -> bytes:
        """Return everything up to the end of the stream or a reset."""
        rest = self._bytes
        try:
            while True:
                rest += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return rest

    async def shut_down_sending(self) -> None:
        """Send the end of the stream; the server need not wait for more bytes of a request that it has answered."""
        await self._stream.send_eof()

    async def reset(self) -> None:
        """Close the socket with a RST."""
        raw = self._stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._stream.aclose()


@asynccontextmanager
async def serving(*apps: App) -> AsyncIterator[None]:
    """Run apps whose port is 0 on free ports."""
    async with anyio.create_task_group() as tasks:
        for app in apps:
            await tasks.start(app.serve)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Peer]:
    """Connect to a running app, and send nothing."""
    async with await anyio.connect_tcp("127.0.0.1", app.port) as stream:
        yield Peer(stream)


@asynccontextmanager
async def opened(app: App, path: str = "/", *fields: str) -> AsyncIterator[Peer]:
    """Open a WebSocket to a running app."""
    async with connected(app) as peer:
        answer = await peer.handshake(path, *fields)
        assert answer.status == 101, answer
        yield peer
