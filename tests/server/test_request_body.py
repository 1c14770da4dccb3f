"""Bodies of plain requests: their length, and the work for a large one."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.waiting import GUARD, until_blocked
from support.wire import Site, peer_of, serving

from pywsapp import Options, Response
from pywsapp._server.http_connection import HttpConnection
from pywsapp._transports.memory import memory_pipe

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


class Answer:
    """The client's end of a memory pipe."""

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: Any) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


async def test_the_work_for_a_body_grows_with_its_size_only() -> None:
    """Copying what has arrived for each part of 4 KiB would take 16 GiB of copies for 16 MiB, seconds of work."""
    size, read = 16 * MIB, anyio.Event()

    async def respond(request: Any) -> Response:
        body = await request.read(size)
        read.set()
        return Response(str(len(body)))

    async with serving(Site(respond)) as server:
        connection, answer = HttpConnection(server), Answer()
        ours, _ = memory_pipe(connection, answer, extra={"peername": ("192.0.2.1", 1)})
        connection.data_received(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        await until_blocked()
        part = bytes(4096)
        began = time.process_time()
        for _ in range(size // len(part)):
            connection.data_received(part)
        used = time.process_time() - began
        await read.wait()
        await until_blocked()
        ours.pump()
    assert answer.received.endswith(b"\r\n\r\n16777216")
    assert used < 1


async def test_slow_bodies_do_not_count_against_max_connections() -> None:
    asked = 0

    async def respond(request: Any) -> Response:
        nonlocal asked
        asked += 1
        return Response(await request.read(10))

    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab"
    async with serving(Site(respond), max_connections=2, max_pending=30) as server:
        slow = []
        for number in range(40):
            slow.append(peer_of(server))
            await slow[-1].send(head)
            with anyio.fail_after(GUARD):
                while asked <= number:  # trio starts tasks in any order, and the last ones must be the newest
                    await anyio.lowlevel.checkpoint()
        for _ in range(2):
            slow.append(peer_of(server))
            await slow[-1].open()
        await slow[39].send(b"cd")
        assert (await slow[39].head())[0] == 503, "its body is complete, but there is no room"
        slow.pop().disconnect()
        with anyio.fail_after(GUARD):
            while server.pending.admitted == 2:
                await anyio.lowlevel.checkpoint()
        await slow[38].send(b"cd")
        assert (await slow[38].response()).body == b"abcd"
        for peer in slow:
            peer.disconnect()
        await server.runtime.wait_empty()
        assert (len(server.pending), server.pending.admitted) == (0, 0)


async def test_a_body_must_arrive_at_the_least_rate() -> None:
    async def respond(request: Any) -> Response:
        return Response(await request.read(1000))

    async with serving(Site(respond), Options(handshake_timeout=1000)) as server, peer_of(server) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nab")
        with anyio.fail_after(GUARD):
            while not (server.pending and server.runtime.connections):
                await anyio.lowlevel.checkpoint()
            await until_blocked()
        began = anyio.current_time()
        for later in 0, 6, 12:
            server.pending.tick(began + later)
        assert (await peer.head())[0] == 503


@pytest.mark.parametrize("is_early", [True, False])
async def test_the_end_of_the_stream_ends_the_wait_for_a_body(is_early: bool) -> None:
    asked, ended, go_on = anyio.Event(), anyio.Event(), anyio.Event()

    async def respond(request: Any) -> Response:
        try:
            asked.set()
            if is_early:
                await go_on.wait()
            return Response(await request.read(1000))
        finally:
            ended.set()

    async with serving(Site(respond), Options(handshake_timeout=1000)) as server, peer_of(server) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nab")
        await asked.wait()
        peer.end()
        async with peer_of(server) as other:  # what comes later is refused, so the end has come
            await other.send(b"\0")
            await other.head()
        go_on.set()
        with anyio.fail_after(GUARD):
            await ended.wait()
            if is_early:
                assert (await peer.head())[0] == 400
            await server.runtime.wait_empty()


@pytest.mark.parametrize("digits", ["0" * 19, "9" * 19, "9" * 5000, "0" * 5000 + "1"])
async def test_a_length_of_too_many_digits_is_refused(digits: str, caplog: pytest.LogCaptureFixture) -> None:
    async def respond(request: Any) -> Response:
        return Response(await request.read(10))

    async with serving(Site(respond)) as server:
        connection, answer = HttpConnection(server), Answer()
        ours, _ = memory_pipe(connection, answer, extra={"peername": ("192.0.2.1", 1)})
        connection.data_received(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {digits}\r\n\r\n".encode())
        ours.pump()
        ours.abort()
        ours.pump()
    assert answer.received.startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []
