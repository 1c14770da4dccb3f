"""Connected transports for tests, plain and TLS, over real sockets, with a protocol that records its calls."""

from __future__ import annotations

import functools
import hashlib
import itertools
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.abc import ByteStream, SocketStream, TaskGroup
from anyio.streams.tls import TLSStream
from packaging.version import Version

from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.tls import TlsTransport, secure

MIB = 1024 * 1024
TIMEOUT = 20  # seconds
RESET = struct.pack("ii", 1, 0)  # the value of SO_LINGER with which close sends a RST

AnyTransport = SocketTransport | TlsTransport


class Recorder:
    """A protocol that records its calls, and checks that their order is valid."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.exc: Exception | None = None
        self.transport: Any = None
        self.keep_open = False
        self.on_made: Callable[[], None] | None = None
        self.on_data: Callable[[bytes], None] | None = None
        self._changed = anyio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._note("made")
        if self.on_made is not None:
            self.on_made()

    def data_received(self, data: bytes) -> None:
        assert data
        self.received += data
        self._note("data")
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.exc = exc
        self._note("lost")

    def _note(self, event: str) -> None:
        self.events.append(event)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self._changed.wait()

    async def until_lost(self) -> None:
        await self.until(lambda: "lost" in self.events)

    def check(self) -> None:
        assert self.events.count("made") == 1
        assert self.events[0] == "made"
        assert self.events.count("lost") == 1
        assert self.events[-1] == "lost"
        assert self.events.count("eof") <= 1
        pressure = [event for event in self.events if event in ("pause", "resume")]
        assert pressure == list(itertools.islice(itertools.cycle(["pause", "resume"]), len(pressure)))


class Echo(Recorder):
    """A protocol that sends back what it receives."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


@dataclass
class Connection:
    """A transport, and the other end of its connection."""

    transport: AnyTransport
    peer: ByteStream
    peer_socket: socket.socket
    tasks: TaskGroup


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    return ours, theirs


_CA = trustme.CA()
SERVER_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
_CA.issue_cert("localhost").configure_cert(SERVER_TLS)
CLIENT_TLS = ssl.create_default_context()
_CA.configure_trust(CLIENT_TLS)


async def connect_tls(port: int) -> TLSStream:
    """Connect to a server that has `SERVER_TLS`, on 127.0.0.1."""
    return await anyio.connect_tcp(
        "127.0.0.1", port, ssl_context=CLIENT_TLS, tls_hostname="localhost", tls_standard_compatible=False
    )


@functools.cache
def client_tls(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return the context of a client that speaks one version of TLS only."""
    context = ssl.create_default_context()
    _CA.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    return context


Test = TypeVar("Test", bound=Callable[..., object])
KINDS = ("tcp", "unix", "tls")


@asynccontextmanager
async def connected(kind: str, protocol: Recorder) -> AsyncIterator[Connection]:
    """Connect a transport to a protocol; check at the end that the transport has kept the order of calls."""
    ours, theirs = socket.socketpair() if kind == "unix" else tcp_pair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    peer: ByteStream = await SocketStream.from_socket(theirs)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            transport: AnyTransport
            if kind == "tls":
                (transport, received), peer = await secured(ours, peer)
                transport.set_protocol(protocol)
                await tasks.start(SocketTransport(ours, transport, tasks, received).run)
            else:
                transport = SocketTransport(ours, protocol, tasks)
                await tasks.start(transport.run)
            try:
                yield Connection(transport, peer, theirs, tasks)
                transport.abort()
                await protocol.until_lost()
            finally:
                await anyio.aclose_forcefully(peer)
                # asyncio needs another turn or two of the event loop to close the socket of an aborted stream.
                while ours.fileno() != -1:
                    await anyio.lowlevel.checkpoint()
    assert ours.fileno() == -1
    protocol.check()


async def secured(
    server: socket.socket,
    client: ByteStream,
    context: ssl.SSLContext = CLIENT_TLS,
    server_context: ssl.SSLContext = SERVER_TLS,
) -> tuple[tuple[TlsTransport, bytes], TLSStream]:
    """Do a TLS handshake; return what `secure` returns for the server, and the stream of the client."""
    ends: list[tuple[TlsTransport, bytes]] = []

    async def accept() -> None:
        ends.append(await secure(server, server_context))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        stream = await TLSStream.wrap(client, hostname="localhost", ssl_context=context, standard_compatible=False)
    return ends[0], stream


async def end_of_stream(peer: ByteStream) -> None:
    """Send the end of the TCP stream; with TLS there is no close_notify before it, as with most clients."""
    await (peer.transport_stream if isinstance(peer, TLSStream) else peer).send_eof()


async def receive_exactly(stream: ByteStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.receive(min(size - len(data), 262144))
    return bytes(data)


async def receive_all(stream: ByteStream) -> bytes:
    data = bytearray()
    try:
        while True:
            data += await stream.receive(262144)
    except anyio.EndOfStream:
        return bytes(data)


def same(left: bytes, right: bytes) -> bool:
    """Return whether two long byte strings are equal; pytest would spend minutes on their difference."""
    return len(left) == len(right) and hashlib.sha256(left).digest() == hashlib.sha256(right).digest()


def reset_kinds(test: Test) -> Test:
    """Mark a test whose peer closes forcefully to reset the connection; before 4.16, anyio sent a FIN first."""
    old = Version(version("anyio")) < Version("4.16")
    skipped = pytest.mark.skipif(old, reason="the peer of this test resets a connection only with anyio 4.16 and newer")
    marked: Test = skipped(pytest.mark.parametrize("kind", ["tcp", "tls"])(test))
    return marked
