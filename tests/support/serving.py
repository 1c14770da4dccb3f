"""Run a component in a test: on a real server with raw clients, or in memory, one step at a time."""

from __future__ import annotations

import base64
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute, SocketStream, TaskGroup
from anyio.streams.tls import TLSStream

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.server import Server
from pywsapp._transports.memory import MemoryTransport, memory_pipe
from pywsapp.app import App
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.http import Request
from pywsapp.options import Options
from support.waiting import until_blocked

#: Seconds after which a test that hangs fails.
GUARD = 20
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

_MASK = b"\x01\x9a\x00\xff"
_RESET = struct.pack("ii", 1, 0)  # an SO_LINGER that makes close send a RST

Frame = tuple[int, bytes]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return one masked frame, as a client sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((opcode | fin << 7, 0x80 | size))
    elif size < 65536:
        head = bytes((opcode | fin << 7, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode | fin << 7, 0xFF)) + size.to_bytes(8, "big")
    mask = (_MASK * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
    return head + _MASK + masked


def message_frame(message: str | bytes) -> bytes:
    """Return the frame of a message, as a client sends it."""
    return frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message)


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    """Return a close frame, as a client sends it."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


def take_frame(data: bytearray) -> Frame | None:
    """Remove one complete frame of a server from the front of a buffer; return its opcode and payload, or None."""
    if len(data) < 2:
        return None
    assert not data[1] & 0x80, "a server must not mask its frames"
    assert data[0] & 0xF0 == 0x80, "the server sends no fragments, and no extension is negotiated"
    size, start = data[1] & 0x7F, 2
    if size >= 126:
        start = 4 if size == 126 else 10
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        return None
    taken = data[0] & 0x0F, bytes(data[start : start + size])
    del data[: start + size]
    return taken


def take_frames(data: bytearray) -> Iterator[Frame]:
    """Remove all complete frames from the front of a buffer, and yield them."""
    while (taken := take_frame(data)) is not None:
        yield taken


def close_code(payload: bytes) -> int:
    """Return the code in the payload of a close frame; 1005 if there is none."""
    return int.from_bytes(payload[:2], "big") if payload else 1005


# -- real sockets ------------------------------------------------------------------------------------------------------


class Serving:
    """A server that runs for a test.

    Attributes:
        port: the port that it listens on.
        stop: begins to drain the server.
        cancel: cancels the server.
        ended: is set when the server has ended.
    """

    def __init__(self, port: int, stop: Callable[[], None], cancel: Callable[[], None], ended: anyio.Event) -> None:
        self.port = port
        self.stop = stop
        self.cancel = cancel
        self.ended = ended

    @asynccontextmanager
    async def client(self, path: str = "/", **options: Any) -> AsyncIterator[Client]:
        """Connect a client and do its handshake; the options are those of `Client.handshake`."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            client = Client(stream)
            await client.handshake(path, **options)
            yield client


@asynccontextmanager
async def serving(component: MessageComponent | App, *, options: Options | None = None) -> AsyncIterator[Serving]:
    """Run a component on a new server, or run an App, on a free port; the server is cancelled at the end."""
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        listening, ended = anyio.Event(), anyio.Event()

        async def run() -> None:
            async def started(_: TaskGroup) -> None:
                listening.set()

            with scope:
                if server is None:
                    assert isinstance(component, App)
                    await component.serve(task_status=_Started(listening))
                else:
                    await server.run([ListeningSocket(port=0)], started)
            ended.set()

        server = None if isinstance(component, App) else Server(component, options or Options())
        tasks.start_soon(run)
        with anyio.fail_after(GUARD):
            await listening.wait()
        if server is None:
            assert isinstance(component, App)
            yield Serving(component.port, component.stop, scope.cancel, ended)
        else:
            yield Serving(server.sockets[0].getsockname()[1], server.stop, scope.cancel, ended)
        scope.cancel()


class _Started:
    def __init__(self, event: anyio.Event) -> None:
        self._event = event

    def started(self, value: object = None) -> None:
        self._event.set()


class Client:
    """A client that sends exactly the bytes that a test asks for, and answers nothing by itself."""

    def __init__(self, stream: SocketStream | TLSStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    @property
    def socket(self) -> socket.socket:
        return self.stream.extra(SocketAttribute.raw_socket)

    async def handshake(
        self, path: str = "/", *, trailing: bytes = b"", headers: str = "", expected: int = 101, host: str | None = None
    ) -> None:
        """Send a handshake, and check the status of the response.

        Args:
            path: the target of the request.
            trailing: bytes that follow the request in the same segment.
            headers: more lines of the request.
            expected: the status of the response.
            host: the value of the Host field; by default it is the address of the server.
        """
        key = base64.b64encode(b"0123456789abcdef").decode()
        host = host or f"localhost:{self.stream.extra(SocketAttribute.remote_port)}"
        await self.stream.send(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
            + trailing
        )
        with anyio.fail_after(GUARD):
            while b"\r\n\r\n" not in self._buffer:
                self._buffer += await self.stream.receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == expected, head

    async def send(self, *messages: str | bytes) -> None:
        """Send messages in one write."""
        await self.stream.send(b"".join(map(message_frame, messages)))

    async def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        await self.stream.send(frame(opcode, payload))

    async def receive(self) -> Frame:
        """Return the opcode and the payload of the next frame."""
        with anyio.fail_after(GUARD):
            while (taken := take_frame(self._buffer)) is None:
                self._buffer += await self.stream.receive()
        return taken

    async def message(self) -> str | bytes:
        """Return the next frame, which must be a message."""
        opcode, payload = await self.receive()
        assert opcode in (TEXT, BINARY), (opcode, payload)
        return payload.decode() if opcode == TEXT else payload

    async def close(self, code: int | None = 1000, reason: str = "") -> int:
        """Do the closing handshake (RFC 6455, section 7.1.2); return the code in the server's close frame."""
        await self.stream.send(close_frame(code, reason))
        return await self.receive_close()

    async def receive_close(self) -> int:
        """Read up to the close frame and the end of the stream; return the code."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                await self.read_to_end()
                return close_code(payload)

    async def read_to_end(self) -> list[Frame]:
        """Read to the end of the stream or to a reset, close the socket, and return the frames before the end."""
        with anyio.fail_after(GUARD), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                self._buffer += await self.stream.receive()
        await self.stream.aclose()
        return list(take_frames(self._buffer))

    async def reset(self) -> None:
        """Close the socket with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        await self.stream.aclose()


class Recorder(MessageComponent):
    """A component that records its calls; a test waits for them with `until` and `until_called`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.conns: list[Connection] = []
        self._changed = anyio.Event()

    def record(self, *call: Any) -> None:
        self.calls.append(call)
        self._changed.set()

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; it is checked after each recorded call."""
        with anyio.fail_after(GUARD):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()

    async def until_called(self, name: str, times: int = 1) -> None:
        await self.until(lambda: self.names().count(name) >= times)

    def on_open(self, conn: Connection) -> Any:
        self.conns.append(conn)
        self.record("open")

    def on_message(self, conn: Connection, message: Any) -> Any:
        self.record("message", message)

    def on_close(self, conn: Connection) -> Any:
        self.record("close", conn.close_code, conn.close_reason, conn.was_clean)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.record("error", type(exc).__name__)
        super().on_error(conn, exc)


# -- memory ------------------------------------------------------------------------------------------------------------


class MemoryHost(Flusher):
    """A host of lifecycles without an event loop: the test flushes the outboxes.

    Args:
        tasks: runs the handler tasks; None if the test needs none.

    Attributes:
        discarded: the number of connections that have ended.
    """

    def __init__(self, tasks: TaskGroup | None = None) -> None:
        super().__init__()
        self.flusher: Flusher = self
        self.discarded = 0
        self._tasks = tasks

    def schedule(self) -> None: ...

    def flush(self) -> None:
        while self.filled:
            self.filled.pop(0).flush()

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._tasks is not None, "the test needs a task group"
        coroutine = work()
        assert inspect.iscoroutine(coroutine), "older versions of anyio accept no coroutine of a compiled function"
        self._tasks.start_soon(lambda: coroutine)

    def disconnected(self, connection: Any) -> None: ...

    def discard(self, connection: Any) -> None:
        self.discarded += 1

    def exceeded(self, limit: str, conn: Connection) -> None: ...

    def user_changed(self, conn: Connection) -> None: ...


class MemoryClient:
    """The client's end of a memory pipe; it collects the frames that it receives."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.lost = False
        self.eof = False
        self.transport: MemoryTransport
        self._buffer = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self.frames += take_frames(self._buffer)

    def eof_received(self) -> bool:
        self.eof = True
        return False

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class RecordingTransport:
    """A transport around another one that records every write."""

    def __init__(self) -> None:
        self.inner: MemoryTransport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.inner.write(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def lifecycle_of(conn: Connection) -> Lifecycle:
    """Return the lifecycle of a connection that has not ended."""
    assert isinstance(conn._driver, Lifecycle)
    return conn._driver


class Pipe:
    """One connection in memory: a lifecycle at one end, a raw client at the other; data moves only in `turn`.

    Args:
        component: the component of the connection.
        options: the options of both the lifecycle and its WebSocket.
        tasks: runs the handler task; None if no handler is an async def.
        host: a host that several connections share; by default the connection has its own.
        trailing: bytes that follow the handshake in the same segment.
        deflate: the negotiated parameters of compression.
        recorder: records the writes of the lifecycle.
    """

    def __init__(
        self,
        component: MessageComponent,
        options: Options | None = None,
        tasks: TaskGroup | None = None,
        *,
        host: MemoryHost | None = None,
        trailing: bytes = b"",
        deflate: DeflateParameters | None = None,
        recorder: RecordingTransport | None = None,
    ) -> None:
        options = options or Options()
        self.host = host or MemoryHost(tasks)
        self.client = MemoryClient()
        self._recorder = recorder or RecordingTransport()
        self.writes = self._recorder.writes
        ws = WebSocket(client=False, options=options, deflate=deflate)
        self.lifecycle = Lifecycle(component, Request(path="/"), ws, self._recorder, options, self.host)
        self.conn = self.lifecycle.conn
        self.transport, _ = memory_pipe(self.lifecycle, self.client)
        self._recorder.inner = self.transport
        self.transport.set_write_buffer_limits(high=options.high_water)
        self.lifecycle.open(trailing)

    def turn(self) -> None:
        """Flush the outboxes and deliver all bytes, in both directions."""
        self.host.flush()
        self.transport.pump()
        self.host.flush()
        self.transport.pump()

    def end(self, how: str) -> None:
        """End the connection: "peer" closes it, it is "lost", or a method of it is called: "close" or "abort"."""
        if how == "peer":
            self.write(close_frame())
        elif how == "lost":
            self.client.transport.abort()
            self.turn()
        else:
            getattr(self.conn, how)()

    async def run_until_blocked(self) -> None:
        """Run turns until no task waits for the pipe."""
        for _ in range(3):
            self.turn()
            await until_blocked()
        self.turn()

    def send(self, *messages: str | bytes) -> None:
        """Send messages from the client in one write, and take a turn."""
        self.write(b"".join(map(message_frame, messages)))

    def write(self, data: bytes) -> None:
        """Send bytes from the client and take a turn."""
        self.client.transport.write(data)
        self.turn()

    def messages(self) -> list[str | bytes]:
        """Return the messages that the client has received."""
        return [
            payload.decode() if opcode == TEXT else payload
            for opcode, payload in self.client.frames
            if opcode in (TEXT, BINARY)
        ]

    def codes(self) -> list[int]:
        """Return the codes of the close frames that the client has received."""
        return [close_code(payload) for opcode, payload in self.client.frames if opcode == CLOSE]
