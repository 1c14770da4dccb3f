"""What happens on a connection before it is a WebSocket, seen from the other end of a real socket."""

from __future__ import annotations

import logging
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio.streams.tls import TLSStream
from support.serving import BINARY, CLOSE, TEXT, frame
from support.wire import Site, get, handshake, peer_of, same, serving

from pywsapp import Accept, App, EchoServer, MessageComponent, Options, Refuse, Response, Router
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.http_connection import HttpConnection
from pywsapp._server.server import Server
from pywsapp._transports.memory import memory_pipe

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pywsapp")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "pywsapp"]


# -- the head and what is glued to it ----------------------------------------------------------------------------------


async def test_frames_glued_to_the_handshake_are_kept() -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.open(glued=frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"one"), (TEXT, b"two")]


async def test_frames_that_come_during_a_slow_decision_are_kept() -> None:
    asked, sent = anyio.Event(), anyio.Event()

    async def decide(request: Any) -> None:
        asked.set()
        await sent.wait()

    async with serving(Site(decide=decide)) as server, peer_of(server) as peer:
        await peer.send(handshake() + frame(TEXT, b"glued"))
        await asked.wait()
        await peer.send(frame(TEXT, b"early"))
        sent.set()
        assert (await peer.head())[0] == 101
        await peer.send(frame(TEXT, b"late"))
        assert [(await peer.frame())[1] for _ in range(3)] == [b"glued", b"early", b"late"]


async def test_head_may_come_byte_by_byte() -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        for byte in handshake() + frame(TEXT, b"slow"):
            await peer.send(bytes([byte]))
        assert (await peer.head())[0] == 101
        assert await peer.frame() == (TEXT, b"slow")


@pytest.mark.parametrize("slow", ["on_handshake", "on_open"])
async def test_flood_before_acceptance_is_left_to_tcp(slow: str) -> None:
    go_on = anyio.Event()

    class Slow(MessageComponent):
        received = 0

        async def on_handshake(self, request: Any) -> None:
            if slow == "on_handshake":
                await go_on.wait()

        async def on_open(self, conn: Any) -> None:
            await go_on.wait()

        def on_message(self, conn: Any, message: bytes) -> None:
            self.received += len(message)

    component, message = Slow(), frame(BINARY, bytes(MIB // 2))
    async with serving(component) as server, peer_of(server) as peer:
        await peer.send(handshake() + frame(BINARY) * 40)
        data = memoryview(message * 200)
        tracemalloc.start()
        try:
            sent = await peer.send_some(data, within=1)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sent < 100 * len(message), "the kernel's buffers are all that is filled"
        # a queue of 16 messages and a read; the bytes of a message exist once more in parts
        assert held < 20 * MIB
        go_on.set()
        assert (await peer.head())[0] == 101
        left = -sent % len(message)
        await peer.send(message[len(message) - left :] + frame(CLOSE, b"\x03\xe8"))
        assert await peer.rest() == b"\x88\x02\x03\xe8"
    assert component.received == (sent + left) // len(message) * (MIB // 2), "nothing was lost"


# -- refusals ----------------------------------------------------------------------------------------------------------


def routed() -> Router:
    router = Router()
    router.route("/ws", EchoServer())
    router.http("/page", lambda request: "page")

    def forbid(request: Any) -> None:
        raise Refuse(403, {"X-Why": "no"}, "not you")

    router.route("/forbidden", Site(decide=forbid))
    return router


@pytest.mark.parametrize(
    ("request_", "status", "fields"),
    [
        pytest.param(b"GET /ws HTTP/1.1\nHost: a\r\n\r\n", 400, {}, id="malformed"),
        pytest.param(CLIENT_HELLO, 400, {}, id="TLS"),
        pytest.param(handshake("/ws", sec_websocket_key="short"), 400, {}, id="key"),
        pytest.param(handshake("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, {}, id="HTTP/1.0 handshake"),
        pytest.param(handshake("/forbidden"), 403, {"x-why": "no"}, id="forbidden"),
        pytest.param(handshake("/nothing"), 404, {}, id="nothing there"),
        pytest.param(handshake("/page"), 404, {}, id="no WebSocket there"),
        pytest.param(handshake("/ws").replace(b"GET", b"POST"), 405, {"allow": "GET"}, id="POST handshake"),
        pytest.param(get("/page", "DELETE"), 405, {"allow": "GET, HEAD"}, id="DELETE"),
        pytest.param(get("/" + "x" * 20_000), 414, {}, id="long target"),
        pytest.param(get("/ws"), 426, {"upgrade": "websocket", "sec-websocket-version": "13"}, id="no upgrade"),
        pytest.param(handshake("/ws", sec_websocket_version="8"), 426, {"sec-websocket-version": "13"}, id="version"),
        pytest.param(handshake("/ws", cookie="x" * 20_000), 431, {}, id="long head"),
        pytest.param(handshake("/ws", **{f"x{n}": "" for n in range(100)}), 431, {}, id="many fields"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", 505, {}, id="HTTP/2"),
    ],
)
async def test_refusal(request_: bytes, status: int, fields: dict[str, str], log: pytest.LogCaptureFixture) -> None:
    async with serving(routed()) as server, peer_of(server) as peer:
        await peer.send(request_)
        answer = await peer.answer()
        assert answer.status == status
        assert answer.headers.items() >= fields.items()
        assert "close" in answer.headers["connection"]
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
        (line,) = lines(log)
        assert line.startswith("127.0.0.1: ")
        assert str(status) in line
        assert log.records[-1].exc_info is None


async def test_incomplete_head_is_answered_with_408() -> None:
    async with serving(Site(), Options(handshake_timeout=0.1)) as server, peer_of(server) as peer:
        await peer.send(handshake()[:-2])
        assert (await peer.answer()).status == 408


async def test_silent_connection_ends() -> None:
    async with serving(Site(), Options(handshake_timeout=0.1)) as server, peer_of(server) as peer:
        await peer.rest()


async def test_full_server_answers_503() -> None:
    async with serving(Site(), max_connections=1) as server, peer_of(server) as peer:
        await peer.open()
        async with peer_of(server) as second:
            await second.send(handshake())
            answer = await second.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        await peer.send(frame(CLOSE))
        await peer.rest()
        await server.runtime.wait_empty()
        async with peer_of(server) as third:
            await third.open()


@pytest.mark.parametrize("request_", [handshake(), get()])
async def test_decision_that_never_comes_is_answered_with_503(request_: bytes) -> None:
    async def never(request: Any) -> None:
        await anyio.sleep_forever()

    options = Options(handshake_timeout=0.1)
    async with serving(Site(never, never), options) as server, peer_of(server) as peer:
        await peer.send(request_)
        answer = await peer.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("request_", "status", "fields"), [(handshake(), 503, {"retry-after": "1"}), (get(), 200, {})], ids=["ws", "http"]
)
async def test_decision_that_comes_during_a_drain(request_: bytes, status: int, fields: dict[str, str]) -> None:
    asked, decided = anyio.Event(), anyio.Event()

    async def decide(request: Any) -> Any:
        asked.set()
        await decided.wait()
        return None if request.headers.get("upgrade") else Response("page")

    async with serving(Site(decide, decide)) as server, peer_of(server) as peer:
        await peer.send(request_)
        await asked.wait()
        server.stop()
        while not server.draining:
            await anyio.lowlevel.checkpoint()
        decided.set()
        answer = await peer.answer()
        assert answer.status == status
        assert answer.headers.items() >= fields.items()


# -- faults of the program ---------------------------------------------------------------------------------------------


def fails(request: Any) -> Any:
    raise RuntimeError("secret")


async def fails_later(request: Any) -> Any:
    raise RuntimeError("secret")


@pytest.mark.parametrize("fault", [fails, fails_later])
@pytest.mark.parametrize("request_", [handshake(), get()])
async def test_failing_component_is_logged_and_answered_with_500(
    fault: Callable[[Any], Any], request_: bytes, log: pytest.LogCaptureFixture
) -> None:
    async with serving(Site(fault, fault)) as server, peer_of(server) as peer:
        await peer.send(request_)
        answer = await peer.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
        (record,) = [record for record in log.records if record.exc_info]
        assert record.levelno == logging.ERROR
        assert "secret" in str(record.exc_info[1] if record.exc_info else None)


@pytest.mark.parametrize(
    ("site", "request_", "mistake"),
    [
        pytest.param(Site(lambda request: "text"), get(), "must return a Response", id="on_request"),
        pytest.param(Site(lambda request: None), get(), "must return a Response", id="on_request None"),
        pytest.param(Site(lambda request: Accept()), get(), "must return a Response", id="on_request Accept"),
        pytest.param(Site(decide=lambda request: 7), handshake(), "must return None, a subprotocol", id="on_handshake"),
        pytest.param(Site(decide=lambda request: "chat"), handshake(), "did not offer", id="subprotocol"),
        pytest.param(
            Site(decide=lambda request: Accept(headers=(("a", "b\r\nc"),))), handshake(), "one line", id="Accept field"
        ),
        pytest.param(Site(lambda request: Response("", headers={"a": "b\nc"})), get(), "one line", id="Response field"),
    ],
)
async def test_wrong_answer_of_a_component_is_explained(
    site: Site, request_: bytes, mistake: str, log: pytest.LogCaptureFixture
) -> None:
    async with serving(site) as server, peer_of(server) as peer:
        await peer.send(request_)
        assert (await peer.answer()).status == 500
        (record,) = [record for record in log.records if record.exc_info]
        assert mistake in str(record.exc_info[1] if record.exc_info else None)


async def test_refusal_that_cannot_be_sent_becomes_a_500(log: pytest.LogCaptureFixture) -> None:
    def decide(request: Any) -> None:
        raise Refuse(403, {"X-Why": "two\nlines"})

    async with serving(Site(decide=decide)) as server, peer_of(server) as peer:
        await peer.send(handshake())
        answer = await peer.answer()
        assert (answer.status, "x-why" in answer.headers) == (500, False)
        assert any(record.exc_info for record in log.records)


HOSTILE = "/%0d%0aFAKE%1b[31m%e2%80%ae" + "x" * 9000


@pytest.mark.parametrize("request_", [handshake(HOSTILE), get(HOSTILE), get(HOSTILE, "X" * 3000)])
async def test_path_cannot_forge_the_log(request_: bytes, log: pytest.LogCaptureFixture) -> None:
    def refuse(request: Any) -> Any:
        raise Refuse(404, body=f"no {request.path}")

    async with serving(Site(refuse, refuse)) as server, peer_of(server) as peer:
        await peer.send(request_)
        assert (await peer.answer()).status == 404
        (line,) = lines(log)
        assert line.isprintable()
        assert len(line) < 1000


async def test_path_cannot_forge_the_traceback(log: pytest.LogCaptureFixture) -> None:
    async with serving(Site(fails)) as server, peer_of(server) as peer:
        await peer.send(get(HOSTILE))
        assert (await peer.answer()).status == 500
        assert all(line.isprintable() and len(line) < 1000 for line in lines(log))


# -- plain HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 200_000, 2 * MIB])
async def test_refused_upload_still_gets_its_answer(size: int) -> None:
    head = f"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    async with serving(routed()) as server, peer_of(server) as peer:
        # First everything is sent and then everything read, as simple clients do.
        await peer.send(head + bytes(size))
        answer = await peer.answer()
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_upload_is_not_read_without_end() -> None:
    async with serving(routed()) as server, peer_of(server) as peer:
        await peer.send(b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await peer.send(bytes(200 * MIB))


async def test_head_has_the_length_and_no_body() -> None:
    async with serving(Site()) as server:
        answers = []
        for method in ("GET", "HEAD"):
            async with peer_of(server) as peer:
                await peer.send(get(method=method))
                answers.append((*await peer.head(), await peer.rest()))
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
        assert (await peer.answer()).body == b"bytes"


async def test_health_check_of_http_1_0() -> None:
    app = App("*", 0)
    app.http("/health", lambda request: "ok")
    async with serving(app.router) as server, peer_of(server) as peer:
        await peer.send(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await peer.answer()
        assert (answer.status, answer.body) == (200, b"ok")
        assert await peer.rest() == b"", "a plain GET is closed behind its answer"


async def test_health_check_that_ends_its_half_of_the_stream() -> None:
    async def respond(request: Any) -> Response:
        await anyio.wait_all_tasks_blocked()  # the end of the stream has been seen
        return Response("ok")

    async with serving(Site(respond)) as server, peer_of(server) as peer:
        await peer.send(get())
        peer.end()
        assert (await peer.answer()).body == b"ok"


# -- streamed bodies ---------------------------------------------------------------------------------------------------


class Stream:
    """A body of pieces that remembers how far it came and whether it was ended."""

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
        body = await peer.rest()
        assert (status, headers["content-length"]) == (200, str(len(piece) * times))
        assert same(body, piece * times)


@pytest.mark.parametrize("streamed", [True, False])
async def test_reader_that_stands_still_is_dropped(streamed: bool) -> None:
    size = 64 * MIB
    stream = Stream(*[bytes(MIB)] * 64)
    site = Site(stream.respond(size) if streamed else lambda request: Response(bytes(size)))
    options = Options(ping_timeout=0.2)
    async with serving(site, options) as server, peer_of(server) as peer:
        await peer.send(get())
        await peer.head()
        await server.runtime.wait_empty()
        assert len(await peer.rest()) < 40 * MIB


class SlowReader:
    """The other end of a memory pipe; it takes one piece and then waits to be told to go on."""

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


async def test_reader_that_is_only_slow_is_not_dropped() -> None:
    reader = SlowReader()
    server = Server(Site(lambda request: Response(bytes(1000))), Options(ping_timeout=20))
    link = HttpConnection(server)
    ours, _ = memory_pipe(link, reader, cut=lambda data: [data[at : at + 100] for at in range(0, len(data), 100)])
    now = 1000.0
    link.tick(now)
    reader.transport.write(get())
    ours.pump()
    for _ in range(5):
        now += 19
        link.tick(now)
        reader.transport.resume_reading()
        ours.pump()
    now += 19
    link.tick(now)
    assert ours.get_write_buffer_size() > 0, "a hundred seconds later not everything has been read"
    link.tick(now + 19)
    ours.pump()
    assert server.runtime.connections == {link}
    link.tick(now + 20)
    ours.pump()
    assert server.runtime.connections == set()


async def test_slow_iterator_is_waited_for() -> None:
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
        assert await peer.rest() == b"two"


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
async def test_body_of_a_wrong_length_is_cut_off(
    pieces: list[Any], mistake: str, log: pytest.LogCaptureFixture
) -> None:
    stream = Stream(*pieces)
    async with serving(Site(stream.respond(10))) as server, peer_of(server) as peer:
        await peer.send(get())
        right = mistake == "10 bytes"
        try:
            await peer.head()
            body = await peer.rest()
        except ConnectionResetError:
            assert not right
        else:
            assert len(body) <= 10
            assert not right or body == b"1234567890"
        await stream.ended.wait()
        await server.runtime.wait_empty()
        errors = [record.getMessage() for record in log.records if record.levelno >= logging.ERROR]
        assert len(errors) == (0 if right else 1)
        assert right or mistake in errors[0]


async def test_streamed_body_ends_when_the_reader_leaves() -> None:
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
        assert (await peer.rest(), stream.made) == (b"", 0)


# -- peers that leave --------------------------------------------------------------------------------------------------


# Of a plain request whose stream ends one cannot tell whether only half of it has ended.
@pytest.mark.parametrize(("request_", "how"), [(handshake(), "end"), (handshake(), "reset"), (get(), "reset")])
async def test_decision_is_cancelled_when_the_peer_leaves(request_: bytes, how: str) -> None:
    asked, ended = anyio.Event(), anyio.Event()

    async def decide(request: Any) -> None:
        try:
            asked.set()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with serving(Site(decide, decide)) as server, peer_of(server) as peer:
        await peer.send(request_)
        await asked.wait()
        if how == "reset":
            peer.reset()
        else:
            peer.leave()
        with anyio.fail_after(5):
            await ended.wait()
            await server.runtime.wait_empty()


async def test_peer_that_leaves_before_its_head_is_forgotten(log: pytest.LogCaptureFixture) -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.send(b"GET / HT")
        peer.leave()
        async with peer_of(server) as second:
            await second.open()
            with anyio.fail_after(5):
                while len(server.runtime.connections) != 1:
                    await anyio.lowlevel.checkpoint()
        assert lines(log) == []


# -- TLS ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def secured(site: Site) -> AsyncIterator[tuple[Server, TLSStream]]:
    """A server with TLS, and a stream to it behind the TLS handshake."""
    authority = trustme.CA()
    tls, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(tls)
    authority.configure_trust(trusting)
    async with serving(site, listeners=[ListeningSocket(port=0, tls=tls)]) as server:
        port = server.sockets[0].getsockname()[1]
        stream = await anyio.connect_tcp("127.0.0.1", port)
        async with await TLSStream.wrap(
            stream, hostname="localhost", ssl_context=trusting, standard_compatible=False
        ) as secure:
            yield server, secure


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


@pytest.mark.parametrize("request_", [handshake(), get()])
async def test_decision_is_cancelled_when_a_tls_peer_leaves(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    asked, ended = anyio.Event(), anyio.Event()

    async def decide(request: Any) -> None:
        assert request.scheme == "https"
        try:
            asked.set()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with secured(Site(decide, decide)) as (server, peer):
        await peer.send(request_)
        await asked.wait()
        await peer.aclose()
        with anyio.fail_after(5):
            await ended.wait()
            await server.runtime.wait_empty()
    assert caplog.messages == []
