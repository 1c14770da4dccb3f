"""Responses to plain HTTP requests, seen from the client's end of a real socket."""

from __future__ import annotations

import logging
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.waiting import until_blocked
from support.wire import Site, get, peer_of, same, secured, serving

from pywsapp import App, Options, Response, Router
from pywsapp._server import http_connection
from pywsapp._server.http_connection import HttpConnection
from pywsapp._server.server import Server
from pywsapp._transports.large_write import PIECE
from pywsapp._transports.memory import memory_pipe

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


# -- plain HTTP --------------------------------------------------------------------------------------------------------


def page() -> Router:
    router = Router()
    router.http("/page", lambda request: "page")
    return router


@pytest.mark.parametrize("size", [10, 200_000, 2 * MIB])
async def test_refused_upload_still_gets_its_answer(size: int) -> None:
    head = f"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    async with serving(page()) as server, peer_of(server) as peer:
        # Simple clients send everything before they read.
        await peer.send(head + bytes(size))
        answer = await peer.response()
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("POST", "\r\n"),
        ("DELETE", "Content-Length: 0\r\n\r\n"),
        ("POST", "Content-Length: 5\r\n\r\nhello"),  # the handler does not read it
    ],
    ids=["no length", "no body", "body"],
)
@pytest.mark.parametrize("status", [200, 404])
async def test_complete_request_does_not_delay_the_end(
    method: str, rest: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "_LINGER_SECONDS", 600)
    router = Router()
    router.http("/page", lambda request: "page", methods=["POST", "DELETE"])
    async with serving(router) as server, peer_of(server) as peer:
        path = "/page" if status == 200 else "/other"
        await peer.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{rest}".encode())
        assert (await peer.response()).status == status
        await peer.read_to_end()


async def test_upload_is_not_read_without_end() -> None:
    async with serving(page()) as server, peer_of(server) as peer:
        await peer.send(b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await peer.send(bytes(200 * MIB))


async def test_head_has_the_length_and_no_body() -> None:
    async with serving(Site()) as server:
        answers = []
        for method in ("GET", "HEAD"):
            async with peer_of(server) as peer:
                await peer.send(get(method=method))
                answers.append((*await peer.head(), await peer.read_to_end()))
    (status, headers, body), (head_status, head_headers, head_body) = answers
    assert (status, body) == (200, b"page")
    assert (head_status, head_body) == (200, b"")
    assert headers | {"date": ""} == head_headers | {"date": ""}


@pytest.mark.parametrize("body", [b"bytes", bytearray(b"bytes")])
async def test_async_handler(body: bytes) -> None:
    async def respond(request: Any) -> Response:
        await anyio.lowlevel.checkpoint()
        return Response(body)

    async with serving(Site(respond)) as server, peer_of(server) as peer:
        await peer.send(get())
        assert (await peer.response()).body == b"bytes"


async def test_health_check_of_http_1_0() -> None:
    app = App("*", 0)
    app.http("/health", lambda request: "ok")
    async with serving(app.router) as server, peer_of(server) as peer:
        await peer.send(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await peer.response()
        assert (answer.status, answer.body) == (200, b"ok")
        assert await peer.read_to_end() == b"", "the connection of a GET is closed after the response"


async def test_health_check_that_shuts_down_its_sending_direction() -> None:
    async def respond(request: Any) -> Response:
        await until_blocked()  # the server has seen the end of the stream
        return Response("ok")

    async with serving(Site(respond)) as server, peer_of(server) as peer:
        await peer.send(get())
        peer.end()
        assert (await peer.response()).body == b"ok"


# -- streamed bodies ---------------------------------------------------------------------------------------------------


class Stream:
    """A body of pieces that stores how many bytes it has yielded and whether it was closed."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces
        self.made = 0
        self.ended = anyio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, anyio.Event):
                    await piece.wait()
                    continue
                self.made += len(piece)
                yield piece
        finally:
            self.ended.set()

    def respond(self, size: int) -> Callable[[Any], Response]:
        return lambda request: Response(self.body(), content_length=size)


async def test_streamed_body_waits_for_a_slow_reader() -> None:
    piece, times = bytes(range(256)) * 256, 1000
    stream = Stream(*[piece] * times)
    async with serving(Site(stream.respond(len(piece) * times))) as server, peer_of(server) as peer:
        await peer.send(get())
        status, headers = await peer.head()
        made = -1
        while made != stream.made:  # until the kernel's buffers are full
            made = stream.made
            await anyio.sleep(0.1)
        assert made < 50 * MIB
        body = await peer.read_to_end()
        assert (status, headers["content-length"]) == (200, str(len(piece) * times))
        assert same(body, piece * times)


@pytest.mark.parametrize("streamed", [True, False])
async def test_reader_that_reads_nothing_is_dropped(streamed: bool) -> None:
    size = 64 * MIB
    stream = Stream(*[bytes(MIB)] * 64)
    site = Site(stream.respond(size) if streamed else lambda request: Response(bytes(size)))
    options = Options(ping_timeout=0.2)
    async with serving(site, options) as server, peer_of(server) as peer:
        await peer.send(get())
        await peer.head()
        await server.runtime.wait_empty()
        assert len(await peer.read_to_end()) < 40 * MIB


@pytest.mark.parametrize("over_tls", [False, True], ids=["TCP", "TLS"])
@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_a_large_body_is_not_held_for_a_peer_that_does_not_read(kind: Any, over_tls: bool) -> None:
    body = kind(bytes(range(256)) * 4 * 32 * 1024)  # 32 MiB
    site = Site(lambda request: Response(body))
    async with AsyncExitStack() as stack:
        if over_tls:
            server, secure = await stack.enter_async_context(secured(site))
            await secure.send(get())
        else:
            server = await stack.enter_async_context(serving(site))
            peer = await stack.enter_async_context(peer_of(server))
            await peer.send(get())
        while not server.runtime.connections:
            await anyio.lowlevel.checkpoint()
        (connection,) = server.runtime.connections
        while connection._progress is None:
            await anyio.lowlevel.checkpoint()
        await until_blocked()
        assert connection._transport.get_write_buffer_size() < MIB
        assert connection._progress.written < len(body), "the kernel cannot take all of it"
        if over_tls:
            data = bytearray()
            with suppress(anyio.EndOfStream):
                while True:
                    data += await secure.receive()
        else:
            data = bytearray(await peer.read_to_end())
        head, _, received = bytes(data).partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}" in head.decode().lower()
        assert same(received, bytes(body))


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1])
async def test_bodies_of_about_a_piece_are_complete(size: int) -> None:
    body = random.Random(size).randbytes(size)
    async with serving(Site(lambda request: Response(body))) as server:
        for method in ("GET", "HEAD"):
            async with peer_of(server) as peer:
                await peer.send(get(method=method))
                status, headers = await peer.head()
                assert (status, headers["content-length"]) == (200, str(size))
                assert same(await peer.read_to_end(), body if method == "GET" else b"")


class SlowReader:
    """The client's end of a memory pipe, which pauses after each piece."""

    def __init__(self) -> None:
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


@pytest.mark.parametrize(
    ("piece", "rate", "is_dropped"),
    [(5000, 240, False), (4000, 240, True), (100, None, False), (0, None, True)],
    ids=["263 B/s", "211 B/s", "no rate", "nothing"],
)
@pytest.mark.parametrize(
    "request_",
    [get(), get(method="POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n")],
    ids=["closing", "lingering"],
)
async def test_reader_must_take_the_response_at_the_least_rate(
    piece: int, rate: float | None, is_dropped: bool, request_: bytes
) -> None:
    reader, size = SlowReader(), max(1, piece)
    server = Server(Site(lambda request: Response(bytes(30 * size))), Options(ping_timeout=20, min_http_rate=rate))
    connection = HttpConnection(server)
    ours, _ = memory_pipe(
        connection,
        reader,
        cut=lambda data: [data[at : at + size] for at in range(0, len(data), size)],
        extra={"peername": ("192.0.2.1", 1)},
    )
    reader.transport.write(request_)
    ours.pump()
    now = 1000.0
    for _ in range(15):
        now += 19
        connection.tick(now)
        if piece:
            reader.transport.resume_reading()
        ours.pump()
    assert (server.runtime.connections == set()) is is_dropped


async def test_slow_iterator_has_no_time_limit() -> None:
    go_on = anyio.Event()
    stream = Stream(b"one", go_on, b"two")
    async with (
        serving(Site(stream.respond(6)), Options(handshake_timeout=0.1)) as server,
        peer_of(server) as peer,
    ):
        await peer.send(get())
        await peer.head()
        assert await peer.exactly(3) == b"one"
        await anyio.sleep(0.3)
        go_on.set()
        assert await peer.read_to_end() == b"two"


@pytest.mark.parametrize(
    ("pieces", "mistake"),
    [
        ([b"12345", b"67890"], "10 bytes"),
        ([b"123"], "3 bytes"),
        ([b"12345678901234567890"], "20 bytes"),
        ([b"123", RuntimeError("broken pipe dream")], "failed"),
        ([b"123", "text"], "failed"),
    ],
    ids=["right", "too short", "too long", "failing", "text"],
)
async def test_body_of_a_wrong_length_is_aborted(
    pieces: list[Any], mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(*pieces)
    async with serving(Site(stream.respond(10))) as server, peer_of(server) as peer:
        await peer.send(get())
        right = mistake == "10 bytes"
        try:
            await peer.head()
            body = await peer.read_to_end()
        except ConnectionResetError:
            assert not right
        else:
            assert len(body) <= 10
            assert not right or body == b"1234567890"
        await stream.ended.wait()
        await server.runtime.wait_empty()
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == (0 if right else 1)
        assert right or mistake in errors[0]


async def test_streamed_body_is_closed_when_the_reader_is_lost() -> None:
    stream = Stream(b"one", anyio.Event(), b"two")
    async with serving(Site(stream.respond(6))) as server, peer_of(server) as peer:
        await peer.send(get())
        await peer.head()
        await peer.exactly(3)
        peer.reset()
        await stream.ended.wait()


async def test_flood_during_a_streamed_body_is_not_kept() -> None:
    go_on = anyio.Event()
    stream = Stream(b"one", go_on, b"two")
    async with serving(Site(stream.respond(6))) as server, peer_of(server) as peer:
        await peer.send(get())
        await peer.head()
        data = memoryview(bytes(100 * MIB))
        tracemalloc.start()
        try:
            await peer.send_some(data, within=1)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 8 * MIB
        go_on.set()
        assert await peer.exactly(6) == b"onetwo"


async def test_head_request_does_not_start_the_stream() -> None:
    stream = Stream(b"one")
    async with serving(Site(stream.respond(3))) as server, peer_of(server) as peer:
        await peer.send(get(method="HEAD"))
        assert (await peer.head())[1]["content-length"] == "3"
        assert (await peer.read_to_end(), stream.made) == (b"", 0)


async def test_streamed_body_over_tls() -> None:
    stream = Stream(*[bytes(MIB)] * 4)
    site = Site(stream.respond(4 * MIB))
    async with secured(site) as (_, peer):
        await peer.send(get())
        data = bytearray()
        while True:
            try:
                data += await peer.receive()
            except anyio.EndOfStream:
                break
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert same(body, bytes(4 * MIB))
