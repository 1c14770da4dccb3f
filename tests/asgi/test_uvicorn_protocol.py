"""ASGI applications that are no App on uvicorn with the protocol of pywsapp."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from support.asgi_servers import SiteServer, chat, exchange, hosted, site_server, until
from support.serving import GUARD, close_frame, frame, message_frame
from support.wire import Peer, handshake

from pywsapp import ConfigurationError, ConnectionClosed
from pywsapp.asgi.loop_runtime import check_loop
from pywsapp.asgi.uvicorn import Protocol, check_version

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", BACKENDS)]
OFFER: dict[str, Any] = {"Sec-WebSocket-Protocol": "one, two"}


class Echo:
    """An ASGI application that does what a message says, and notes what it receives."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.received: list[Any] = []
        self.raised: list[BaseException] = []
        self.may_receive = asyncio.Event()
        self.may_receive.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["pool"] = "db"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.scopes.append(scope)
        assert await receive() == {"type": "websocket.connect"}
        await self.answer(scope, send)
        while True:
            await self.may_receive.wait()
            event = await receive()
            self.received.append(event)
            if event["type"] == "websocket.disconnect":
                return
            await self.handle(event, send)

    async def answer(self, scope: Any, send: Any) -> None:
        names = scope["subprotocols"]
        fields = [(b"X-Seen", b"yes")]
        await send({"type": "websocket.accept", "subprotocol": names[0] if names else None, "headers": fields})

    async def handle(self, event: Any, send: Any) -> None:
        text = event.get("text")
        if text == "close":
            await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
            try:
                await send({"type": "websocket.send", "text": "late"})
            except OSError as exc:
                self.raised.append(exc)
        elif text == "fail":
            raise RuntimeError("a mistake")
        elif text == "wrong":
            await send({"type": "http.response.start", "status": 200})
        elif text == "flood":
            try:
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(50_000)})
            except OSError as exc:
                self.raised.append(exc)
        else:
            await send({"type": "websocket.send", **{key: event[key] for key in event if key != "type"}})


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def server(echo: Echo) -> AsyncIterator[SiteServer]:
    async with site_server(echo, ws=Protocol, ws_max_size=200_000, ws_max_queue=8) as server:
        yield server


@asynccontextmanager
async def raw(port: int, path: str = "/", **fields: Any) -> AsyncIterator[Peer]:
    async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.open(path, **fields)
        yield peer


# -- the handshake -----------------------------------------------------------------------------------------------------


async def test_the_scope(server: SiteServer, echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    async with raw(server.port, "/a%20b?c=d", **{"Sec-WebSocket-Protocol": "one, two", "X-Of": "ü"}) as peer:
        client = peer.sock.getsockname()
    (scope,) = echo.scopes
    expected = {
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "client": client,
        "http_version": "1.1",
        "path": "/a b",
        "query_string": b"c=d",
        "raw_path": b"/a%20b",
        "root_path": "",
        "scheme": "ws",
        "server": ("127.0.0.1", server.port),
        "state": {"pool": "db"},
        "subprotocols": ["one", "two"],
        "type": "websocket",
    }
    assert {key: scope[key] for key in expected} == expected
    assert (b"x-of", "ü".encode()) in scope["headers"]
    assert set(scope["extensions"]) == {"websocket.http.response", "pywsapp.transport"}
    assert f'127.0.0.1:{client[1]} - "WebSocket /a%20b?..." [accepted]' in caplog.text


async def test_the_101_response(server: SiteServer) -> None:
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        fields = await peer.open(**OFFER)
    assert fields["sec-websocket-protocol"] == "one"
    assert fields["x-seen"] == "yes"
    assert fields["server"] == "uvicorn"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (handshake("/").replace(b": 13\r\n", b": 12\r\n"), 426),
        (handshake("/").replace(b"GET", b"POST"), 405),
        (handshake("/%ff"), 400),
        (handshake("/", Cookie="x" * 17_000), 431),
    ],
    ids=["version", "method", "path", "size"],
)
async def test_handshakes_that_are_not_valid(request_: bytes, status: int, server: SiteServer, echo: Echo) -> None:
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        await peer.send(request_)
        assert (await peer.head())[0] == status
    assert echo.scopes == []


async def test_proxies_and_root_path(echo: Echo) -> None:
    settings = {"root_path": "/site", "forwarded_allow_ips": "*"}
    async with (
        site_server(echo, ws=Protocol, **settings) as server,
        raw(server.port, "/x", **{"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}),
    ):
        pass
    (scope,) = echo.scopes
    assert (scope["client"][0], scope["scheme"]) == ("192.0.2.7", "wss")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/site", "/site/x", b"/site/x")


async def test_an_app_that_closes_in_place_of_accepting(server: SiteServer, echo: Echo) -> None:
    async def close(scope: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    echo.answer = close  # type: ignore[method-assign]
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        await peer.send(handshake())
        assert (await peer.head())[0] == 403
    await server.until_idle()
    assert [event["code"] for event in echo.received] == [1006]


async def test_a_denial_response(server: SiteServer, echo: Echo) -> None:
    async def deny(scope: Any, send: Any) -> None:
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"9"), (b"connection", b"x"), (b"x-why", b"so")]
        await send({"type": "websocket.http.response.start", "status": 418, "headers": fields})
        await send({"type": "websocket.http.response.body", "body": b"tea", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"pot"})

    echo.answer = deny  # type: ignore[method-assign]
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        await peer.send(handshake())
        response = await peer.response()
        assert await peer.read_to_end() == b""
    assert (response.status, response.body, response.headers["x-why"]) == (418, b"teapot", "so")
    assert response.headers["server"] == "uvicorn"


@pytest.mark.parametrize(
    "message",
    [
        None,
        {"type": "websocket.send", "text": "x"},
        {"type": "websocket.accept", "subprotocol": "none"},
        {"type": "websocket.accept", "headers": [(b"x", b"a\r\nb: c")]},
        {"type": "websocket.accept", "headers": [(b"sec-websocket-protocol", b"one")]},
    ],
    ids=["returns", "sends", "subprotocol", "line break", "reserved"],
)
async def test_mistakes_of_an_application_before_it_accepts(message: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def mistaken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if message is not None:
            await send(message)

    async with (
        site_server(mistaken, ws=Protocol, lifespan="off") as server,
        Peer(socket.create_connection(("127.0.0.1", server.port))) as peer,
    ):
        await peer.send(handshake())
        assert (await peer.response()).status == 500
    assert len(caplog.records) == 1


async def test_a_client_that_is_gone_before_the_answer(server: SiteServer, echo: Echo) -> None:
    decided = asyncio.Event()

    async def slow(scope: Any, send: Any) -> None:
        decided.set()
        await until(scope["extensions"]["pywsapp.transport"]["takeover"].transport.is_closing)
        try:
            await send({"type": "websocket.accept"})
        except OSError as exc:
            echo.raised.append(exc)

    echo.answer = slow  # type: ignore[method-assign]
    peer = Peer(socket.create_connection(("127.0.0.1", server.port)))
    await peer.send(handshake())
    with anyio.fail_after(GUARD):
        await decided.wait()
    peer.reset()
    await server.until_idle()
    assert len(echo.raised) == 1
    assert [event["code"] for event in echo.received] == [1006]


async def test_bytes_before_the_answer_are_kept(server: SiteServer, echo: Echo) -> None:
    may_answer = asyncio.Event()

    async def slow(scope: Any, send: Any) -> None:
        await may_answer.wait()
        await send({"type": "websocket.accept"})

    echo.answer = slow  # type: ignore[method-assign]
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        await peer.send(handshake())
        await until(lambda: echo.scopes)
        early = [message_frame("x" * 20_000) for _ in range(2)]
        await peer.send(b"".join(early))
        with anyio.move_on_after(0.05):
            await server.until_idle()
        may_answer.set()
        assert (await peer.head())[0] == 101
        for _ in early:
            assert await peer.frame() == (1, b"x" * 20_000)
        await peer.send(message_frame("late"))  # reading was paused meanwhile
        assert await peer.frame() == (1, b"late")


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_messages_of_all_sizes_and_fragments(server: SiteServer, echo: Echo) -> None:
    async with chat(server.port, "/") as conn:
        for message in ("hällo", "", b"", b"\0\xff", "x" * 200_000, bytes(200_000)):
            assert await exchange(conn, message) == message
    async with raw(server.port) as peer:
        await peer.send(frame(1, b"a", fin=False) + frame(9, b"?") + frame(0, b"b"))
        assert [await peer.frame(), await peer.frame()] == [(10, b"?"), (1, b"ab")]
    assert all(set(event) == {"type", "text"} or set(event) == {"type", "bytes"} for event in echo.received[:6])


async def test_compression_is_that_of_uvicorn(echo: Echo) -> None:
    for is_on, first in ((True, 0xC1), (False, 0x81)):
        async with (
            site_server(echo, ws=Protocol, ws_per_message_deflate=is_on) as server,
            raw(server.port, **{"Sec-WebSocket-Extensions": "permessage-deflate"}) as peer,
        ):
            await peer.send(message_frame("x" * 5000))
            assert (await peer.exactly(1))[0] == first


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(3), 1002),
        (frame(1, b"\xff"), 1007),
        (frame(2, bytes(200_001)), 1009),
        (message_frame("close"), 4000),
        (message_frame("fail"), 1011),
        (message_frame("wrong"), 1011),
        (close_frame(3001), 3001),
        (close_frame(None), 0),
    ],
    ids=["opcode", "utf-8", "size", "by the app", "exception", "wrong message", "by the client", "no code"],
)
async def test_close_codes(data: bytes, code: int, server: SiteServer, echo: Echo) -> None:
    async with raw(server.port) as peer:
        await peer.send(data)
        assert (await peer.receive_close())[0] == code
    await server.until_idle()
    ends = [event["code"] for event in echo.received if event["type"] == "websocket.disconnect"]
    assert ends == ([] if code == 1011 else [code or 1005])


async def test_the_reason_reaches_the_other_side(server: SiteServer, echo: Echo) -> None:
    async with raw(server.port) as peer:
        await peer.send(close_frame(3001, "mine"))
        assert await peer.receive_close() == (3001, "")
    async with raw(server.port) as peer:
        await peer.send(message_frame("close"))
        assert await peer.receive_close() == (4000, "enough")
    await server.until_idle()
    assert [event["reason"] for event in echo.received if "code" in event] == ["mine", "enough"]
    assert len(echo.raised) == 1  # of a message behind `websocket.close`


async def test_a_client_that_is_lost(server: SiteServer, echo: Echo) -> None:
    async with raw(server.port) as peer:
        await peer.send(message_frame("x"))
        await peer.frame()
        peer.reset()
    await server.until_idle()
    end = {"type": "websocket.disconnect", "code": 1006, "reason": "connection lost"}
    assert echo.received[-1] == end


async def test_an_application_that_returns_closes_with_1000() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    async with site_server(application, ws=Protocol, lifespan="off") as other, raw(other.port) as peer:
        assert await peer.receive_close() == (1000, "")


# -- backpressure ------------------------------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_makes_send_wait(server: SiteServer, echo: Echo) -> None:
    async with raw(server.port) as peer:
        await peer.send(message_frame("flood"))
        protocol = await server.connection()
        outbox = await until(lambda: protocol._outbox)
        await until(lambda: not outbox.is_writable)
        assert outbox.buffered < 1_000_000
        for _ in range(40):
            assert await peer.frame() == (2, bytes(50_000))
        peer.reset()
    await server.until_idle()
    assert len(echo.raised) == 1


async def test_an_application_that_does_not_receive_stops_the_reading(server: SiteServer, echo: Echo) -> None:
    echo.may_receive.clear()
    async with raw(server.port) as peer:
        protocol = await server.connection()
        lifecycle = await until(lambda: protocol._lifecycle)
        sent = [b"%5d" % number + bytes(45_000) for number in range(200)]
        writing = asyncio.create_task(peer.send(b"".join(message_frame(message) for message in sent) + close_frame()))
        await until(lambda: lifecycle.machine.pause_causes)
        assert len(protocol._channel._events) <= 8
        assert protocol._channel._size <= 200_000 + 45_005
        echo.may_receive.set()
        for message in sent:
            assert await peer.frame() == (2, message)
        assert await peer.receive_close() == (1000, "")
        await writing
    await server.until_idle()
    assert [event.get("bytes") for event in echo.received[:-1]] == sent


# -- the end of the server ---------------------------------------------------------------------------------------------


async def test_uvicorn_closes_with_1012_when_it_ends(echo: Echo) -> None:
    async with AsyncExitStack() as stack:
        async with hosted(echo, ws="pywsapp.asgi.uvicorn:Protocol") as port:
            conn = await stack.enter_async_context(chat(port, "/"))
            assert await exchange(conn, "x") == "x"
        with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(GUARD):
            await conn.receive()
    assert (caught.value.code, caught.value.reason) == (1012, "service restart")
    assert echo.received[-1] == {"type": "websocket.disconnect", "code": 1012, "reason": "service restart"}


async def test_a_shutdown_during_a_handshake(server: SiteServer, echo: Echo) -> None:
    async def wait(scope: Any, send: Any) -> None: ...

    echo.answer = wait  # type: ignore[method-assign]
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        await peer.send(handshake())
        await until(lambda: echo.scopes)
        protocol = await server.connection()
        protocol.shutdown()
        assert (await peer.response()).status == 503
    await server.until_idle()
    assert [event["code"] for event in echo.received] == [1006]


async def test_a_call_that_the_server_cancels(server: SiteServer, echo: Echo) -> None:
    async with raw(server.port) as peer:
        (task,) = await until(lambda: server.state.tasks)
        task.cancel()
        assert (await peer.receive_close())[0] == 1000
    await server.until_idle()


# -- frameworks --------------------------------------------------------------------------------------------------------


async def test_fastapi() -> None:
    site = FastAPI()
    ends: list[Any] = []

    @site.websocket("/ws/{name}")
    async def ws(websocket: WebSocket, name: str) -> None:
        if name == "nobody":
            raise HTTPException(404, "no such user")
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(f"{name}: {await websocket.receive_text()}")
        except WebSocketDisconnect as exc:
            ends.append((exc.code, exc.reason))

    async with site_server(site, ws=Protocol) as server:
        async with chat(server.port, "/ws/ana") as conn:
            assert await exchange(conn, "hi") == "ana: hi"
            await conn.close(3001, "bye")
        async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
            await peer.send(handshake("/ws/nobody"))
            assert (await peer.head())[0] in (403, 404)
        await server.until_idle()
    assert ends == [(3001, "bye")]


# -- what cannot work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.35.9", "1.0.0"])
async def test_versions_of_uvicorn_that_are_not_known(version: str) -> None:
    check_version("0.54.0")
    check_version("0.99.0.dev1")
    with pytest.raises(ConfigurationError, match=f"needs uvicorn 0.36 or newer, below 1.0, and this is {version}"):
        check_version(version)


async def test_event_loops_that_are_not_known() -> None:
    check_loop(asyncio.get_running_loop())
    with pytest.raises(ConfigurationError, match=r"not on types\.SimpleNamespace: start uvicorn with --loop asyncio"):
        check_loop(SimpleNamespace())  # type: ignore[arg-type]
