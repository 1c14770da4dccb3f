"""The end of a connection, plain and over TLS: close, abort, reset, and the end of the stream."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import anyio
import pytest
from support.transports import (
    MIB,
    RESET,
    TIMEOUT,
    Recorder,
    connected,
    end_of_stream,
    receive_all,
    receive_exactly,
    reset_kinds,
    same,
)
from support.waiting import until_blocked

from pywsapp._transports import socket as sockets

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("unread", [0, 65536])
async def test_close_sends_everything_first(kind: str, unread: int) -> None:
    protocol, data = Recorder(), os.urandom(8 * MIB)
    async with connected(kind, protocol) as connection:
        connection.transport.pause_reading()
        if unread:
            await connection.peer.send(bytes(unread))
        connection.transport.write(data)
        connection.transport.close()
        assert connection.transport.is_closing()
        connection.transport.write(b"too late")
        assert "lost" not in protocol.events
        assert same(await receive_all(connection.peer), data)
        await anyio.aclose_forcefully(connection.peer)
        await protocol.until_lost()
        assert protocol.exc is None
        assert not protocol.received


async def test_input_during_the_close_does_not_lose_the_last_bytes(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.write(b"bye")
        connection.transport.close()
        for _ in range(4):
            await connection.peer.send(bytes(16384))
        assert await receive_all(connection.peer) == b"bye"
        await anyio.aclose_forcefully(connection.peer)
        await protocol.until_lost()
        assert protocol.exc is None


@pytest.mark.parametrize("flood", [False, True])
async def test_a_peer_cannot_keep_a_closed_connection(kind: str, flood: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LINGER_SECONDS", TIMEOUT * 10 if flood else 0.05)
    protocol = Recorder()

    async def send_for_ever() -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await connection.peer.send(bytes(65536))

    async with connected(kind, protocol) as connection:
        if flood:
            connection.tasks.start_soon(send_for_ever)
        connection.transport.write(b"bye")
        connection.transport.close()
        await protocol.until_lost()


async def test_close_in_connection_made(kind: str) -> None:
    class Refusing(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"no")
            transport.close()

    async with connected(kind, Refusing()) as connection:
        assert await receive_all(connection.peer) == b"no"


async def test_abort_drops_what_is_queued(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.write(bytes(32 * MIB))
        connection.transport.abort()
        assert connection.transport.is_closing()
        assert "lost" not in protocol.events
        await protocol.until_lost()
        assert protocol.exc is None
        assert connection.transport.get_write_buffer_size() == 0
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await receive_exactly(connection.peer, 32 * MIB)


async def test_abort_ends_a_close_that_hangs(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.write(bytes(32 * MIB))
        connection.transport.close()
        await until_blocked()
        assert "lost" not in protocol.events
        connection.transport.abort()
        await protocol.until_lost()


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_nothing_is_delivered_after_close_or_abort(kind: str, how: str) -> None:
    protocol = Recorder()
    protocol.on_data = lambda _: getattr(protocol.transport, how)()
    async with connected(kind, protocol) as connection:
        await connection.peer.send(b"first")
        await protocol.until(lambda: protocol.received)
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await connection.peer.send(b"more")
                await connection.peer.receive()
        await anyio.aclose_forcefully(connection.peer)
        await protocol.until_lost()
        assert protocol.received == b"first"


async def test_close_just_after_resume_reading(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.pause_reading()
        await connection.peer.send(b"unread")
        await until_blocked()
        connection.transport.resume_reading()
        connection.transport.close()
        await anyio.aclose_forcefully(connection.peer)
        await protocol.until_lost()
        assert protocol.events == ["made", "lost"]


async def test_nothing_happens_after_the_end(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        transport = connection.transport
        transport.write(bytes(32 * MIB))
        transport.abort()
        await protocol.until_lost()
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
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(connection.peer)
        await protocol.until_lost()
        assert isinstance(protocol.exc, OSError)


@reset_kinds
async def test_a_write_after_a_reset(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.pause_reading()
        connection.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(connection.peer)
        while not connection.transport.is_closing():
            connection.transport.write(b"more")
            assert "lost" not in protocol.events
            await until_blocked()
        await protocol.until_lost()
        assert isinstance(protocol.exc, OSError)


@reset_kinds
@pytest.mark.parametrize("closing", [False, True])
async def test_reset_with_bytes_queued(kind: str, closing: bool) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        connection.transport.pause_reading()
        connection.transport.write(bytes(32 * MIB))
        if closing:
            connection.transport.close()
        connection.peer_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await anyio.aclose_forcefully(connection.peer)
        await protocol.until_lost()
        assert isinstance(protocol.exc, OSError)


async def test_the_peer_ends_its_stream(kind: str) -> None:
    protocol = Recorder()
    async with connected(kind, protocol) as connection:
        await connection.peer.send(b"last")
        await end_of_stream(connection.peer)
        await protocol.until_lost()
        assert protocol.received == b"last"
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert protocol.exc is None


async def test_half_close_is_answered_by_a_close(kind: str) -> None:
    protocol, data = Recorder(), os.urandom(MIB)
    async with connected(kind, protocol) as connection:
        connection.transport.write(data)
        await end_of_stream(connection.peer)
        assert same(await receive_all(connection.peer), data)
        await protocol.until_lost()
        assert "eof" in protocol.events


async def test_half_close_with_a_protocol_that_continues(kind: str) -> None:
    protocol, data = Recorder(), os.urandom(MIB)
    protocol.keep_open = True
    async with connected(kind, protocol) as connection:
        await end_of_stream(connection.peer)
        await protocol.until(lambda: "eof" in protocol.events)
        assert not connection.transport.is_closing()
        connection.transport.write(data)
        assert same(await receive_exactly(connection.peer, len(data)), data)
        connection.transport.write(b"end")
        connection.transport.close()
        assert await receive_all(connection.peer) == b"end"
        await protocol.until_lost()
