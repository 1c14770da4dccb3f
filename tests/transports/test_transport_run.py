"""The task of a transport: cancellation, failing protocols, and what the transport reports about itself."""

from __future__ import annotations

import logging
import socket
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from support.transports import MIB, TIMEOUT, Recorder, connected, end_of_stream, receive_exactly, tcp_pair
from support.waiting import until_blocked

from pywsapp._transports.socket import SocketTransport

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("state", ["idle", "paused", "queued", "closing", "lingering", "after eof", "aborting"])
async def test_cancellation_in_every_state(kind: str, state: str) -> None:
    protocol = Recorder()
    protocol.keep_open = True
    async with connected(kind, protocol) as connection:
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
            await protocol.until(lambda: "eof" in protocol.events)
        await until_blocked()
        if state == "aborting":
            transport.abort()
        connection.tasks.cancel_scope.cancel()
        assert "lost" not in protocol.events
    assert protocol.exc is None


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_cancelling_only_the_connection(kind: str) -> None:
    """The task of a connection can be cancelled without its task group; a running writer then ends too."""
    protocol = Recorder()
    ours, theirs = socket.socketpair() if kind == "unix" else tcp_pair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    with anyio.fail_after(TIMEOUT), theirs:
        async with anyio.create_task_group() as tasks:
            transport = SocketTransport(ours, protocol, tasks)
            with anyio.CancelScope() as scope:
                protocol.on_made = lambda: transport.write(bytes(32 * MIB))
                protocol.on_data = lambda _: scope.cancel()
                theirs.send(b"x")
                await transport.run()
            assert protocol.events[-1] == "lost"
        assert transport.get_write_buffer_size() == 0
    protocol.check()


@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_a_failing_protocol_ends_only_its_own_connection(
    kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Recorder):
        pass

    def fail(self: Faulty, *args: Any) -> None:
        getattr(Recorder, method)(self, *args)
        raise LookupError("a fault in a protocol")

    setattr(Faulty, method, fail)
    protocol = Faulty()
    if method == "connection_made":
        # `run` never reports its start then, so nothing waits for that.
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(SocketTransport(ours, protocol, tasks).run)
    else:
        async with connected(kind, protocol) as connection:
            await connection.peer.send(b"x")
            await protocol.until(lambda: protocol.received)
            await end_of_stream(connection.peer)
            await protocol.until_lost()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a fault in a protocol" in caplog.text
    assert protocol.events.count("lost") == 1


async def test_set_protocol_in_the_middle(kind: str) -> None:
    first, second = Recorder(), Recorder()
    first.on_data = lambda _: first.transport.set_protocol(second)
    second.events.append("made")
    async with connected(kind, second) as connection:
        # `connected` checks the second recorder, which gets the later events.
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


async def test_extra_info(kind: str) -> None:
    async with connected(kind, Recorder()) as connection:
        transport = connection.transport
        assert transport.get_extra_info("sockname") == connection.peer_socket.getpeername()
        assert transport.get_extra_info("peername") == connection.peer_socket.getsockname()
        assert transport.get_extra_info("socket").fileno() > 0
        assert (transport.get_extra_info("ssl_object") is not None) == (kind == "tls")
        assert transport.get_extra_info("no such thing", 7) == 7


async def test_bytes_that_were_read_before_come_first() -> None:
    protocol = Recorder()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    theirs.send(b" late")
    with anyio.fail_after(TIMEOUT), theirs:
        async with anyio.create_task_group() as tasks:
            transport = SocketTransport(ours, protocol, tasks, b"early")
            protocol.on_made = transport.pause_reading
            await tasks.start(transport.run)
            await until_blocked()
            assert protocol.events == ["made"]
            transport.resume_reading()
            await protocol.until(lambda: protocol.received == b"early late")
            assert protocol.events == ["made", "data", "data"]
            transport.abort()
    protocol.check()


async def test_bytes_that_were_read_before_are_dropped_by_close() -> None:
    protocol = Recorder()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with anyio.fail_after(TIMEOUT), theirs:
        async with anyio.create_task_group() as tasks:
            protocol.on_made = lambda: protocol.transport.close()
            theirs.shutdown(socket.SHUT_WR)
            await SocketTransport(ours, protocol, tasks, b"early").run()
    assert protocol.events == ["made", "lost"]


async def test_an_idle_connection_has_no_writer_task() -> None:
    async with connected("tcp", Recorder()) as connection:
        before = len(anyio.get_running_tasks())
        connection.transport.write(b"short")
        assert len(anyio.get_running_tasks()) == before
        connection.transport.write(bytes(32 * MIB))
        assert len(anyio.get_running_tasks()) == before + 1
        await receive_exactly(connection.peer, 32 * MIB + 5)
        await until_blocked()
        assert len(anyio.get_running_tasks()) == before
        assert connection.transport.get_write_buffer_size() == 0


async def test_a_socket_that_is_writable_and_takes_nothing_is_tried_again() -> None:
    """The kernel can lack memory again by the time of the call (man 2 send)."""

    class Busy(socket.socket):
        calls = 0

        def send(self, *args: Any) -> int:
            Busy.calls += 1
            if Busy.calls % 2:
                raise BlockingIOError
            return super().send(*args)

    protocol = Recorder()
    ours, theirs = socket.socketpair()
    busy = Busy(fileno=ours.detach())
    for sock in (busy, theirs):
        sock.setblocking(False)
    with anyio.fail_after(TIMEOUT):
        async with await SocketStream.from_socket(theirs) as peer, anyio.create_task_group() as tasks:
            transport = SocketTransport(busy, protocol, tasks)
            await tasks.start(transport.run)
            transport.write(bytes(MIB))
            assert await receive_exactly(peer, MIB) == bytes(MIB)
            assert "lost" not in protocol.events
            transport.abort()
    assert Busy.calls > 2
