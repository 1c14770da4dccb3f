"""HTTP connections before their upgrade, seen from the client's end of a real socket."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import BINARY, CLOSE, GUARD, TEXT, frame
from support.wire import Site, get, handshake, peer_of, secured, serving

from pywsapp import Accept, EchoServer, MessageComponent, Options, Refuse, Response, Router
from pywsapp._server import http_connection

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pywsapp")
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "pywsapp"]


# -- the head and trailing data ----------------------------------------------------------------------------------------


async def test_frames_right_after_the_handshake_are_kept() -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.open(trailing=frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert [await peer.frame(), await peer.frame()] == [(TEXT, b"one"), (TEXT, b"two")]


async def test_frames_that_come_during_a_slow_decision_are_kept() -> None:
    asked, sent = anyio.Event(), anyio.Event()

    async def decide(request: Any) -> None:
        asked.set()
        await sent.wait()

    async with serving(Site(decide=decide)) as server, peer_of(server) as peer:
        await peer.send(handshake() + frame(TEXT, b"trailing"))
        await asked.wait()
        await peer.send(frame(TEXT, b"early"))
        sent.set()
        assert (await peer.head())[0] == 101
        await peer.send(frame(TEXT, b"late"))
        assert [(await peer.frame())[1] for _ in range(3)] == [b"trailing", b"early", b"late"]


async def test_head_can_come_byte_by_byte() -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        for byte in handshake() + frame(TEXT, b"slow"):
            await peer.send(bytes([byte]))
        assert (await peer.head())[0] == 101
        assert await peer.frame() == (TEXT, b"slow")


@pytest.mark.parametrize("slow", ["on_handshake", "on_open"])
async def test_flood_before_acceptance_is_held_by_tcp(slow: str) -> None:
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
            sent = await peer.send_some(data, within=0.5)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sent < 100 * len(message), "the kernel's buffers are all that is filled"
        # a queue of 16 messages and one read; the parts of a message are stored twice
        assert held < 20 * MIB
        go_on.set()
        assert (await peer.head())[0] == 101
        left = -sent % len(message)
        await peer.send(message[len(message) - left :] + frame(CLOSE, b"\x03\xe8"))
        assert await peer.read_to_end() == b"\x88\x02\x03\xe8"
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


#: What port scans send, which is logged at DEBUG.
NO_HTTP = ("malformed", "TLS", "length of 5,000 digits", "HTTP/2")


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
        pytest.param(
            get("/page", "POST").replace(b"\r\n\r\n", b"\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"),
            400,
            {},
            id="length of 5,000 digits",
        ),
        pytest.param(get("/" + "x" * 20_000), 414, {}, id="long target"),
        pytest.param(get("/ws"), 426, {"upgrade": "websocket", "sec-websocket-version": "13"}, id="no upgrade"),
        pytest.param(handshake("/ws", sec_websocket_version="8"), 426, {"sec-websocket-version": "13"}, id="version"),
        pytest.param(handshake("/ws", cookie="x" * 20_000), 431, {}, id="long head"),
        pytest.param(handshake("/ws", **{f"x{n}": "" for n in range(100)}), 431, {}, id="many fields"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", 505, {}, id="HTTP/2"),
    ],
)
async def test_refusal(
    request_: bytes,
    status: int,
    fields: dict[str, str],
    log: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    log.set_level(logging.DEBUG, "pywsapp")
    async with serving(routed()) as server, peer_of(server) as peer:
        await peer.send(request_)
        answer = await peer.response()
        assert answer.status == status
        assert answer.headers.items() >= fields.items()
        assert "close" in answer.headers["connection"]
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
        (record,) = [record for record in log.records if vars(record).get("event") == "request.refused"]
        line = record.getMessage()
        assert line.startswith("127.0.0.1: ")
        assert str(status) in line
        assert record.exc_info is None
        is_http = not any(f"-{name}]" in request.node.name for name in NO_HTTP)
        assert record.levelno == (logging.INFO if is_http else logging.DEBUG)


async def test_incomplete_head_is_answered_with_408() -> None:
    async with serving(Site(), Options(handshake_timeout=0.1)) as server, peer_of(server) as peer:
        await peer.send(handshake()[:-2])
        assert (await peer.response()).status == 408


async def test_silent_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "_LINGER_SECONDS", 0.1)
    async with serving(Site(), Options(handshake_timeout=0.1)) as server, peer_of(server) as peer:
        await peer.read_to_end()


async def test_full_server_answers_503() -> None:
    async with serving(Site(), max_connections=1) as server, peer_of(server) as peer:
        await peer.open()
        async with peer_of(server) as second:
            await second.send(handshake())
            answer = await second.response()
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        await peer.send(frame(CLOSE))
        await peer.read_to_end()
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
        answer = await peer.response()
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
        answer = await peer.response()
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
        answer = await peer.response()
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
        assert (await peer.response()).status == 500
        (record,) = [record for record in log.records if record.exc_info]
        assert mistake in str(record.exc_info[1] if record.exc_info else None)


async def test_refusal_that_cannot_be_encoded_becomes_a_500(log: pytest.LogCaptureFixture) -> None:
    def decide(request: Any) -> None:
        raise Refuse(403, {"X-Why": "two\nlines"})

    async with serving(Site(decide=decide)) as server, peer_of(server) as peer:
        await peer.send(handshake())
        answer = await peer.response()
        assert (answer.status, "x-why" in answer.headers) == (500, False)
        assert any(record.exc_info for record in log.records)


HOSTILE = "/%0d%0aFAKE%1b[31m%e2%80%ae" + "x" * 9000


@pytest.mark.parametrize("request_", [handshake(HOSTILE), get(HOSTILE), get(HOSTILE, "X" * 3000)])
async def test_path_cannot_forge_the_log(request_: bytes, log: pytest.LogCaptureFixture) -> None:
    def refuse(request: Any) -> Any:
        raise Refuse(404, body=f"no {request.path}")

    async with serving(Site(refuse, refuse)) as server, peer_of(server) as peer:
        await peer.send(request_)
        assert (await peer.response()).status == 404
        (line,) = lines(log)
        assert line.isprintable()
        assert len(line) < 1000


async def test_path_cannot_forge_the_traceback(log: pytest.LogCaptureFixture) -> None:
    async with serving(Site(fails)) as server, peer_of(server) as peer:
        await peer.send(get(HOSTILE))
        assert (await peer.response()).status == 500
        assert all(line.isprintable() and len(line) < 1000 for line in lines(log))


# -- lost peers --------------------------------------------------------------------------------------------------------


# After the end of stream of a plain request, the client can still wait for the response.
@pytest.mark.parametrize(("request_", "how"), [(handshake(), "end"), (handshake(), "reset"), (get(), "reset")])
async def test_decision_is_cancelled_when_the_peer_is_lost(request_: bytes, how: str) -> None:
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
            peer.disconnect()
        with anyio.fail_after(GUARD):
            await ended.wait()
            await server.runtime.wait_empty()


async def test_peer_that_is_lost_before_its_head_is_removed(log: pytest.LogCaptureFixture) -> None:
    async with serving(Site()) as server, peer_of(server) as peer:
        await peer.send(b"GET / HT")
        peer.disconnect()
        async with peer_of(server) as second:
            await second.open()
            with anyio.fail_after(GUARD):
                while len(server.runtime.connections) != 1:
                    await anyio.lowlevel.checkpoint()
        assert lines(log) == []


RUBBISH = [
    b"\0\1\2",
    b"rubbish\r\n\r\n",
    b"\x16\x03\x01\0\5hello",
    b"x" * 20_000,
    handshake() + b"\xff\xff\xff",
    get() * 3,
]


@pytest.mark.parametrize("how", ["end", "close", "reset", "stop"])
async def test_rubbish_and_a_close_at_any_moment_log_no_traceback(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Site(), Options(close_timeout=0.1), max_pending=4) as server:
        for moment in range(24):
            peer = peer_of(server)
            for _ in range(moment % 4):
                await anyio.lowlevel.checkpoint()
            await peer.send_some(memoryview(RUBBISH[moment % len(RUBBISH)]), within=1)
            for _ in range(moment // 8):
                await anyio.lowlevel.checkpoint()
            if how == "stop":
                for connection in list(server.runtime.connections):
                    if isinstance(connection, http_connection.HttpConnection):
                        connection.stop()
            elif how == "end":
                peer.end()
            elif how == "reset":
                peer.reset()
            await anyio.lowlevel.checkpoint()
            peer.disconnect()
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [handshake(), get()])
async def test_decision_is_cancelled_when_a_tls_peer_is_lost(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
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
        with anyio.fail_after(GUARD):
            await ended.wait()
            await server.runtime.wait_empty()
    assert caplog.messages == []
