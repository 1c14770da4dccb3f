"""The transports over real sockets: both kinds, plain and TLS, on every event loop, held to the same behaviour."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

import anyio
import pytest
import trustme
from anyio.abc import ByteStream, SocketStream, TaskGroup
from anyio.streams.tls import TLSStream
from packaging.version import Version

from pywsapp._transports import socket as sockets
from pywsapp._transports import stream as streams
from pywsapp._transports.socket import SocketTransport
from pywsapp._transports.stream import StreamTransport

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
GUARD = 20
RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes close send a RST

AnyTransport = SocketTransport | StreamTransport


class Recorder:
    """A link that writes down what it is told, and checks that it is told in a possible order."""

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
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


@dataclass
class Connection:
    """A transport with its link, and the other end of the wire."""

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
_SERVER_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
_CA.issue_cert("localhost").configure_cert(_SERVER_TLS)
_CLIENT_TLS = ssl.create_default_context()
_CA.configure_trust(_CLIENT_TLS)

Test = TypeVar("Test", bound=Callable[..., object])
KINDS = ("tcp", "unix", "stream", "tls")


@asynccontextmanager
async def connected(kind: str, link: Recorder) -> AsyncIterator[Connection]:
    """Connect a transport with a link; check when all is over that the link was told what it is promised."""
    ours, theirs = socket.socketpair() if kind == "unix" else tcp_pair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    peer: ByteStream = await SocketStream.from_socket(theirs)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            transport: AnyTransport
            if kind in ("tcp", "unix"):
                transport = SocketTransport(ours, link, tasks)
            else:
                stream: ByteStream = await SocketStream.from_socket(ours)
                if kind == "tls":
                    stream, peer = await secured(stream, peer)
                transport = StreamTransport(stream, link)
            await tasks.start(transport.run)
            try:
                yield Connection(transport, peer, theirs, tasks)
                transport.abort()
                await link.until_lost()
            finally:
                await anyio.aclose_forcefully(peer)
                # asyncio takes another turn or two to close the socket of an aborted stream.
                while ours.fileno() != -1:
                    await anyio.wait_all_tasks_blocked()
    assert ours.fileno() == -1
    link.check()


async def secured(server: ByteStream, client: ByteStream) -> tuple[TLSStream, TLSStream]:
    ends: dict[str, TLSStream] = {}

    async def accept() -> None:
        ends["server"] = await TLSStream.wrap(
            server, server_side=True, ssl_context=_SERVER_TLS, standard_compatible=False
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        ends["client"] = await TLSStream.wrap(
            client, hostname="localhost", ssl_context=_CLIENT_TLS, standard_compatible=False
        )
    return ends["server"], ends["client"]


async def end_of_stream(peer: ByteStream) -> None:
    """Send what TCP has for it; of TLS this is the ragged end that most clients leave."""
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
    # pytest would spend minutes on the difference of two long byte strings.
    return len(left) == len(right) and hashlib.sha256(left).digest() == hashlib.sha256(right).digest()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


plain_kinds = pytest.mark.parametrize("kind", ["tcp", "unix", "stream"])


def reset_kinds(test: Test) -> Test:
    """Run a test whose peer resets the connection, by closing forcefully; before 4.16, anyio let a FIN go first."""
    old = Version(version("anyio")) < Version("4.16")
    skipped = pytest.mark.skipif(old, reason="the peer of this test resets a connection only with anyio 4.16 and newer")
    marked: Test = skipped(pytest.mark.parametrize("kind", ["tcp", "stream", "tls"])(test))
    return marked


async def test_echo_in_pieces(kind: str) -> None:
    sizes = random.Random(kind).choices([1, 2, 17, 1000, 70000], k=40)
    async with connected(kind, Echo()) as connection:
        for size in sizes:
            data = os.urandom(size)
            await connection.peer.send(data)
            assert same(await receive_exactly(connection.peer, size), data)


async def test_8_mib_both_ways_at_once(kind: str) -> None:
    link, down, up = Recorder(), os.urandom(8 * MIB), os.urandom(8 * MIB)
    async with connected(kind, link) as connection:
        connection.transport.write(down)
        connection.tasks.start_soon(connection.peer.send, up)
        assert same(await receive_exactly(connection.peer, len(down)), down)
        await link.until(lambda: len(link.received) >= len(up))
        assert same(bytes(link.received), up)
        assert connection.transport.get_write_buffer_size() == 0


async def test_writes_keep_their_order_under_pressure(kind: str) -> None:
    link, numbers = Recorder(), b"".join(b"%07d" % number for number in range(100_000))
    async with connected(kind, link) as connection:
        for start in range(0, len(numbers), 7):
            connection.transport.write(numbers[start : start + 7])
        assert same(await receive_exactly(connection.peer, len(numbers)), numbers)


async def test_pause_reading_stops_delivery_and_the_sender_feels_it(kind: str) -> None:
    link, data, sent = Recorder(), os.urandom(32 * MIB), anyio.Event()

    async def send() -> None:
        await connection.peer.send(data)
        sent.set()

    async with connected(kind, link) as connection:
        link.on_data = lambda _: connection.transport.pause_reading()
        connection.tasks.start_soon(send)
        await link.until(lambda: link.received)
        size = len(link.received)
        await anyio.wait_all_tasks_blocked()
        assert len(link.received) == size
        assert not sent.is_set()
        link.on_data = None
        connection.transport.resume_reading()
        await sent.wait()
        await link.until(lambda: len(link.received) == len(data))
        assert same(bytes(link.received), data)


async def test_pause_before_anything_came(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.pause_reading()
        await connection.peer.send(b"early")
        await anyio.wait_all_tasks_blocked()
        assert link.events == ["made"]
        connection.transport.resume_reading()
        await link.until(lambda: link.received == b"early")


async def test_writing_is_paused_and_resumed_in_pairs(kind: str) -> None:
    link, block = Recorder(), bytes(16 * MIB)  # more than the kernel's buffers grow to
    async with connected(kind, link) as connection:
        for round_ in range(1, 4):
            connection.transport.write(block)
            connection.transport.write(block)
            assert link.events.count("pause") == round_
            assert link.events.count("resume") == round_ - 1
            assert 65536 < connection.transport.get_write_buffer_size() <= 2 * len(block)
            await receive_exactly(connection.peer, 2 * len(block))
            while link.events.count("resume") < round_:
                await link.until(lambda: link.events[-1] == "resume")
            assert connection.transport.get_write_buffer_size() <= 16384


async def test_write_buffer_limits(kind: str) -> None:
    link, sizes = Recorder(), []
    link.resume_writing = lambda: sizes.append(link.transport.get_write_buffer_size())  # type: ignore[method-assign]
    async with connected(kind, link) as connection:
        with pytest.raises(ValueError, match="high"):
            connection.transport.set_write_buffer_limits(high=1, low=2)
        with pytest.raises(ValueError, match="low"):
            connection.transport.set_write_buffer_limits(high=1, low=-1)
        connection.transport.set_write_buffer_limits(high=16 * MIB)
        connection.transport.write(bytes(15 * MIB))
        assert "pause" not in link.events
        connection.transport.set_write_buffer_limits(high=10, low=0)
        assert link.events.count("pause") == 1
        await receive_exactly(connection.peer, 15 * MIB)
        while not sizes:
            await anyio.wait_all_tasks_blocked()
        assert sizes == [0]


async def test_writing_inside_resume_writing(kind: str) -> None:
    link, more = Recorder(), [b"b" * MIB, b"c" * MIB]
    note = link.resume_writing

    def resume_writing() -> None:
        note()
        while more and link.events[-1] != "pause":
            link.transport.write(more.pop(0))

    link.resume_writing = resume_writing  # type: ignore[method-assign]
    async with connected(kind, link) as connection:
        connection.transport.write(b"a" * 8 * MIB)
        assert same(await receive_exactly(connection.peer, 10 * MIB), b"a" * 8 * MIB + b"b" * MIB + b"c" * MIB)


@pytest.mark.parametrize("unread", [0, 65536])
async def test_close_sends_everything_first(kind: str, unread: int) -> None:
    link, data = Recorder(), os.urandom(8 * MIB)
    async with connected(kind, link) as connection:
        connection.transport.pause_reading()
        if unread:
            await connection.peer.send(bytes(unread))
        connection.transport.write(data)
        connection.transport.close()
        assert connection.transport.is_closing()
        connection.transport.write(b"too late")
        assert "lost" not in link.events
        assert same(await receive_all(connection.peer), data)
        await anyio.aclose_forcefully(connection.peer)
        await link.until_lost()
        assert link.exc is None
        assert not link.received


async def test_input_during_the_close_does_not_cost_the_last_bytes(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.write(b"bye")
        connection.transport.close()
        for _ in range(4):
            await connection.peer.send(bytes(16384))
        assert await receive_all(connection.peer) == b"bye"
        await anyio.aclose_forcefully(connection.peer)
        await link.until_lost()
        assert link.exc is None


@pytest.mark.parametrize("flood", [False, True])
async def test_a_peer_cannot_hold_a_closed_connection(kind: str, flood: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sockets, streams):
        monkeypatch.setattr(module, "LINGER_SECONDS", GUARD * 10 if flood else 0.05)
    link = Recorder()

    async def send_for_ever() -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await connection.peer.send(bytes(65536))

    async with connected(kind, link) as connection:
        if flood:
            connection.tasks.start_soon(send_for_ever)
        connection.transport.write(b"bye")
        connection.transport.close()
        await link.until_lost()


async def test_close_in_connection_made(kind: str) -> None:
    class Refusing(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"no")
            transport.close()

    async with connected(kind, Refusing()) as connection:
        assert await receive_all(connection.peer) == b"no"


async def test_abort_drops_what_is_queued(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.write(bytes(32 * MIB))
        connection.transport.abort()
        assert connection.transport.is_closing()
        assert "lost" not in link.events
        await link.until_lost()
        assert link.exc is None
        assert connection.transport.get_write_buffer_size() == 0
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await receive_exactly(connection.peer, 32 * MIB)


async def test_abort_ends_a_close_that_hangs(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.write(bytes(32 * MIB))
        connection.transport.close()
        await anyio.wait_all_tasks_blocked()
        assert "lost" not in link.events
        connection.transport.abort()
        await link.until_lost()


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_nothing_is_delivered_after_the_end_was_asked_for(kind: str, how: str) -> None:
    link = Recorder()
    link.on_data = lambda _: getattr(link.transport, how)()
    async with connected(kind, link) as connection:
        await connection.peer.send(b"first")
        await link.until(lambda: link.received)
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await connection.peer.send(b"more")
                await connection.peer.receive()
        await anyio.aclose_forcefully(connection.peer)
        await link.until_lost()
        assert link.received == b"first"


async def test_close_just_after_resume_reading(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.pause_reading()
        await connection.peer.send(b"nobody reads this any more")
        await anyio.wait_all_tasks_blocked()
        connection.transport.resume_reading()
        connection.transport.close()
        await anyio.aclose_forcefully(connection.peer)
        await link.until_lost()
        assert link.events == ["made", "lost"]


async def test_the_transport_is_quiet_after_its_end(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        transport = connection.transport
        transport.write(bytes(32 * MIB))
        transport.abort()
        await link.until_lost()
        transport.write(b"x")
        transport.set_write_buffer_limits(0)
        transport.pause_reading()
        transport.resume_reading()
        transport.close()
        transport.abort()
        assert transport.is_closing()
        assert transport.get_extra_info("peername") == connection.peer_socket.getsockname()
        assert transport.get_extra_info("no such thing", 7) == 7


@reset_kinds
async def test_reset_by_the_peer(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(connection.peer)
        await link.until_lost()
        assert isinstance(link.exc, OSError)


@reset_kinds
async def test_a_write_finds_the_peer_gone(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.pause_reading()
        connection.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(connection.peer)
        while not connection.transport.is_closing():
            connection.transport.write(b"anybody?")
            assert "lost" not in link.events
            await anyio.wait_all_tasks_blocked()
        await link.until_lost()
        assert isinstance(link.exc, OSError)


@reset_kinds
@pytest.mark.parametrize("closing", [False, True])
async def test_reset_with_bytes_queued(kind: str, closing: bool) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        connection.transport.pause_reading()
        connection.transport.write(bytes(32 * MIB))
        if closing:
            connection.transport.close()
        connection.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(connection.peer)
        await link.until_lost()
        assert isinstance(link.exc, OSError)


async def test_the_peer_ends_its_stream(kind: str) -> None:
    link = Recorder()
    async with connected(kind, link) as connection:
        await connection.peer.send(b"last")
        await end_of_stream(connection.peer)
        await link.until_lost()
        assert link.received == b"last"
        assert link.events == ["made", "data", "eof", "lost"]
        assert link.exc is None


@plain_kinds
async def test_half_close_is_answered_by_a_close(kind: str) -> None:
    link, data = Recorder(), os.urandom(MIB)
    async with connected(kind, link) as connection:
        connection.transport.write(data)
        await end_of_stream(connection.peer)
        assert same(await receive_all(connection.peer), data)
        await link.until_lost()
        assert "eof" in link.events


@plain_kinds
async def test_half_close_with_a_link_that_goes_on(kind: str) -> None:
    link, data = Recorder(), os.urandom(MIB)
    link.keep_open = True
    async with connected(kind, link) as connection:
        await end_of_stream(connection.peer)
        await link.until(lambda: "eof" in link.events)
        assert not connection.transport.is_closing()
        connection.transport.write(data)
        assert same(await receive_exactly(connection.peer, len(data)), data)
        connection.transport.write(b"end")
        connection.transport.close()
        assert await receive_all(connection.peer) == b"end"
        await link.until_lost()


async def test_a_tls_peer_leaves_without_close_notify(caplog: pytest.LogCaptureFixture) -> None:
    link = Recorder()
    async with connected("tls", link) as connection:
        connection.transport.write(bytes(32 * MIB))
        await end_of_stream(connection.peer)
        await link.until_lost()
        # OpenSSL sends nothing more after such an end.
        assert isinstance(link.exc, OSError)
    assert not caplog.records


async def test_set_protocol_in_the_middle(kind: str) -> None:
    first, second = Recorder(), Recorder()
    first.on_data = lambda _: first.transport.set_protocol(second)
    second.events.append("made")
    async with connected(kind, second) as connection:
        # The recorder that the connection checks in the end is the one that takes over.
        connection.transport.set_protocol(first)
        first.transport = connection.transport
        await connection.peer.send(b"one")
        await first.until(lambda: first.received)
        await connection.peer.send(b"two")
        await second.until(lambda: second.received)
        connection.transport.write(bytes(32 * MIB))
        second.events.remove("made")
    assert first.events == ["data"]
    assert second.events == ["made", "data", "pause", "lost"]


@pytest.mark.parametrize("state", ["idle", "paused", "queued", "closing", "lingering", "after eof", "aborting"])
async def test_cancellation_in_every_state(kind: str, state: str) -> None:
    link = Recorder()
    link.keep_open = True
    async with connected(kind, link) as connection:
        transport = connection.transport
        if state == "paused":
            transport.pause_reading()
            await connection.peer.send(b"x")
        if state in ("queued", "closing"):
            transport.write(bytes(32 * MIB))
        if state in ("closing", "lingering"):
            transport.close()
        if state == "after eof":
            await end_of_stream(connection.peer)
            await link.until(lambda: "eof" in link.events)
        await anyio.wait_all_tasks_blocked()
        if state == "aborting":
            transport.abort()
        connection.tasks.cancel_scope.cancel()
        assert "lost" not in link.events
    assert link.exc is None


async def test_cancelling_only_the_connection(kind: str) -> None:
    """The task of a connection may be cancelled without its task group; a writer at work then ends as well."""
    link = Recorder()
    ours, theirs = socket.socketpair() if kind == "unix" else tcp_pair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    with anyio.fail_after(GUARD), theirs:
        async with anyio.create_task_group() as tasks:
            transport: AnyTransport
            if kind in ("tcp", "unix"):
                transport = SocketTransport(ours, link, tasks)
            else:
                transport = StreamTransport(await SocketStream.from_socket(ours), link)
            with anyio.CancelScope() as scope:
                link.on_made = lambda: transport.write(bytes(32 * MIB))
                link.on_data = lambda _: scope.cancel()
                theirs.send(b"x")
                await transport.run()
            assert link.events[-1] == "lost"
        assert transport.get_write_buffer_size() == 0
    link.check()


@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_a_link_that_fails_ends_only_its_own_connection(
    kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Recorder):
        pass

    def fail(self: Faulty, *args: Any) -> None:
        getattr(Recorder, method)(self, *args)
        raise LookupError("a fault in a link")

    setattr(Faulty, method, fail)
    link = Faulty()
    if method == "connection_made":
        # Nobody says "started" then, so the connection is run without waiting for that.
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(SocketTransport(ours, link, tasks).run)
    else:
        async with connected(kind, link) as connection:
            await connection.peer.send(b"x")
            await link.until(lambda: link.received)
            await end_of_stream(connection.peer)
            await link.until_lost()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a fault in a link" in caplog.text
    assert link.events.count("lost") == 1


async def test_extra_info(kind: str) -> None:
    async with connected(kind, Recorder()) as connection:
        transport = connection.transport
        assert transport.get_extra_info("sockname") == connection.peer_socket.getpeername()
        assert transport.get_extra_info("peername") == connection.peer_socket.getsockname()
        assert transport.get_extra_info("socket").fileno() > 0
        assert (transport.get_extra_info("ssl_object") is not None) == (kind == "tls")
        assert transport.get_extra_info("no such thing", 7) == 7


async def test_extra_info_that_was_given() -> None:
    ours, theirs = tcp_pair()
    async with await SocketStream.from_socket(ours) as stream, await SocketStream.from_socket(theirs):
        transport = StreamTransport(stream, Recorder(), extra={"peername": ("192.0.2.1", 1)})
        assert transport.get_extra_info("peername") == ("192.0.2.1", 1)
        assert transport.get_extra_info("sockname") == ours.getsockname()


async def test_bytes_that_are_just_being_sent_count_as_queued() -> None:
    class Slow(ByteStream):
        def __init__(self) -> None:
            self.may_send = anyio.Event()

        async def send(self, item: bytes) -> None:
            await self.may_send.wait()

        async def receive(self, max_bytes: int = 65536) -> bytes:
            await anyio.sleep_forever()
            raise AssertionError

        async def send_eof(self) -> None:
            pass

        async def aclose(self) -> None:
            pass

    stream, link = Slow(), Recorder()
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            transport = StreamTransport(stream, link)
            await tasks.start(transport.run)
            transport.write(b"0123456789")
            await anyio.wait_all_tasks_blocked()
            assert transport.get_write_buffer_size() == 10
            transport.set_write_buffer_limits(high=5)
            assert link.events == ["made", "pause"]
            stream.may_send.set()
            await link.until(lambda: link.events == ["made", "pause", "resume"])
            assert transport.get_write_buffer_size() == 0
            transport.abort()


async def test_an_idle_connection_has_no_writer_task() -> None:
    async with connected("tcp", Recorder()) as connection:
        before = len(anyio.get_running_tasks())
        connection.transport.write(b"short")
        assert len(anyio.get_running_tasks()) == before
        connection.transport.write(bytes(32 * MIB))
        assert len(anyio.get_running_tasks()) == before + 1
        await receive_exactly(connection.peer, 32 * MIB + 5)
        await anyio.wait_all_tasks_blocked()
        assert len(anyio.get_running_tasks()) == before
        assert connection.transport.get_write_buffer_size() == 0
