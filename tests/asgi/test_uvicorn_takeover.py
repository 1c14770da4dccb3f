"""An App on uvicorn with the protocol of pywsapp: it takes over the transport, behind the middleware of a site."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from fastapi import FastAPI
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from support.asgi_servers import SiteServer, ask, chat, exchange, hosted, site_server
from support.serving import GUARD, close_frame, frame, message_frame
from support.wire import Peer, get

from pywsapp import (
    App,
    Connection,
    ConnectionClosed,
    Deflate,
    HandshakeError,
    MessageComponent,
    Options,
    Request,
    connect,
)
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp.asgi import site_user
from pywsapp.asgi.uvicorn import Protocol
from pywsapp.auth import ClientCertificateAuthenticator

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", BACKENDS)]
ANA: dict[str, Any] = {"X-User": "ana"}
OFFER: dict[str, Any] = {"Sec-WebSocket-Protocol": "one, two"}
KEY = "0123456789abcdef0123456789abcdef"


class Room(MessageComponent):
    """Does what a message says, and notes what is called."""

    subprotocols = ("two", "one")

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls
        self.conns: list[Connection] = []

    def on_open(self, conn: Connection) -> None:
        self.calls.append("open")
        self.conns.append(conn)

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        if message == "who":
            conn.send(f"{conn.user.username} {conn.state.tenant} {conn.request.path}")
        elif message == "session":
            conn.send(str(conn.session["item"]))
        elif message == "user":
            conn.send(str(conn.user))
        elif message == "stay":
            await anyio.sleep_forever()
        elif message == "ping":
            await conn.ping()
            conn.send("pong")
        elif message == "close":
            conn.close(4000, "enough")
        elif message == "abort":
            conn.abort()
        else:
            await conn.send(message)

    def on_close(self, conn: Connection) -> None:
        self.calls.append(("close", conn.close_code, conn.close_reason))


class ByHeader(AuthenticationBackend):
    async def authenticate(self, conn: Any) -> Any:
        name = conn.headers.get("x-user")
        return None if name is None else (AuthCredentials(["authenticated"]), SimpleUser(name))


class Watching:
    """A middleware of the site: adds to the state and to the accepting response, and notes what passes."""

    def __init__(self, inner: Any, calls: list[Any]) -> None:
        self.inner = inner
        self.calls = calls

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await self.inner(scope, receive, send)
            return

        async def receiving() -> Any:
            event = await receive()
            self.calls.append(("in", *[event.get(key) for key in ("type", "code", "reason")]))
            return event

        async def sending(message: Any) -> None:
            if message["type"] == "websocket.accept":
                fields = [*message.get("headers", ()), (b"set-cookie", b"seen=1")]
                message = {**message, "headers": fields}
            await send(message)

        scope.setdefault("state", {})["tenant"] = "blue"
        try:
            await self.inner(scope, receiving, sending)
        finally:
            self.calls.append("left")


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def app(calls: list[Any]) -> App:
    app = App(authenticate=site_user, options=Options(max_message_size=200_000))
    app.route("/room", Room(calls))
    app.route("/deflate", Room(calls), options=Options(deflate=Deflate(threshold=0)))
    app.http("/put", put)
    return app


def put(request: Request) -> str:
    request.session["item"] = "tea"
    return "ok"


@pytest.fixture
def site(app: App, calls: list[Any]) -> FastAPI:
    middleware = [
        Middleware(SessionMiddleware, secret_key=KEY),
        Middleware(AuthenticationMiddleware, backend=ByHeader()),
        Middleware(Watching, calls=calls),
    ]
    site = FastAPI(lifespan=app.lifespan, middleware=middleware)
    site.mount("/ws", app)

    @site.get("/page")
    def page() -> str:
        return "page"

    return site


@pytest.fixture
async def server(site: FastAPI) -> AsyncIterator[SiteServer]:
    async with site_server(site, ws=Protocol) as server:
        yield server


def room(port: int, path: str = "/ws/room", **options: Any) -> Any:
    return chat(port, path, headers={"X-User": "ana"}, **options)


@asynccontextmanager
async def raw(port: int, path: str = "/ws/room", **fields: Any) -> AsyncIterator[Peer]:
    async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.open(path, **ANA, **fields)
        yield peer


async def test_what_the_site_knows_reaches_the_connection(server: SiteServer) -> None:
    async with room(server.port) as conn:
        assert await exchange(conn, "who") == "ana blue /room"
    assert (await ask(server.port, get("/page"))).body == b'"page"'
    with pytest.raises(HandshakeError) as caught:
        async with chat(server.port, "/ws/room"):
            pass
    assert caught.value.status == 401


async def test_the_session_of_the_site(server: SiteServer) -> None:
    request = get("/ws/put").replace(b"\r\n\r\n", b"\r\nX-User: ana\r\n\r\n")
    cookie = (await ask(server.port, request)).headers["set-cookie"].partition(";")[0]
    async with chat(server.port, "/ws/room", headers={"X-User": "ana", "Cookie": cookie}) as conn:
        assert await exchange(conn, "session") == "tea"


async def test_a_lifecycle_is_the_protocol_of_the_transport(server: SiteServer, app: App) -> None:
    async with room(server.port) as conn:
        assert await exchange(conn, "who") == "ana blue /room"
        (lifecycle,) = app._runner.server.runtime.connections  # type: ignore[union-attr]
        assert type(lifecycle) is Lifecycle
        transport: Any = lifecycle.machine.outbox.transport
        assert transport.get_protocol() is lifecycle
        assert app.stats().open_connections == 1
    await server.until_idle()
    assert app.stats().open_connections == 0


async def test_what_a_middleware_adds_is_in_the_101_response(server: SiteServer) -> None:
    async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
        fields = await peer.open("/ws/room", **ANA, **OFFER)
    assert fields["set-cookie"] == "seen=1"
    assert fields["sec-websocket-protocol"] == "two"
    assert fields["server"] == "uvicorn"


async def test_a_middleware_sees_the_end_after_on_close(server: SiteServer, calls: list[Any]) -> None:
    async with raw(server.port) as peer:
        await peer.send(close_frame(3001, "mine"))
        assert await peer.receive_close() == (3001, "")
    await server.until_idle()
    connect, *others = calls
    assert connect == ("in", "websocket.connect", None, None)
    assert others == ["open", ("close", 3001, "mine"), ("in", "websocket.disconnect", 3001, "mine"), "left"]


async def test_messages_of_all_sizes_and_fragments(server: SiteServer) -> None:
    async with room(server.port) as conn:
        for message in ("hällo", b"\0\xff", "x" * 150_000, bytes(150_000)):
            assert await exchange(conn, message) == message
    async with raw(server.port) as peer:
        await peer.send(frame(1, b"a", fin=False) + frame(9, b"?") + frame(0, b"b"))
        assert [await peer.frame(), await peer.frame()] == [(10, b"?"), (1, b"ab")]


async def test_what_only_the_own_server_can_do(server: SiteServer, calls: list[Any]) -> None:
    async with room(server.port) as conn:
        assert await exchange(conn, "ping") == "pong"
    async with raw(server.port) as peer:
        await peer.send(message_frame("abort"))
        with pytest.raises((EOFError, ConnectionError)):
            await peer.frame()
    async with raw(server.port, "/ws/deflate", **{"Sec-WebSocket-Extensions": "permessage-deflate"}) as peer:
        await peer.send(message_frame("x" * 500))
        first, size = await peer.exactly(2)
    assert first == 0xC1
    assert size < 100
    await server.until_idle()
    assert ("close", 1006, "aborted") in calls


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(3), 1002),
        (frame(1, b"\xff"), 1007),
        (frame(2, bytes(200_001)), 1009),
        (message_frame("close"), 4000),
        (close_frame(1001), 1001),
    ],
    ids=["opcode", "utf-8", "size", "by the App", "by the client"],
)
async def test_close_codes(data: bytes, code: int, server: SiteServer, calls: list[Any]) -> None:
    async with raw(server.port) as peer:
        await peer.send(data)
        assert (await peer.receive_close())[0] == code
    await server.until_idle()
    assert [call[1] for call in calls if call[0] == "close"] == [code]


async def test_a_client_that_is_lost(server: SiteServer, calls: list[Any]) -> None:
    async with raw(server.port) as peer:
        await peer.send(message_frame("who"))
        await peer.frame()
        peer.reset()
    await server.until_idle()
    assert [call for call in calls if call[0] == "close"] == [("close", 1006, "connection lost")]


async def test_uvicorn_closes_with_1012_when_it_ends(site: FastAPI, calls: list[Any]) -> None:
    async with AsyncExitStack() as stack:
        async with hosted(site, ws="pywsapp.asgi.uvicorn:Protocol") as port:
            conn = await stack.enter_async_context(room(port))
            await exchange(conn, "who")
        with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(GUARD):
            await conn.receive()
    assert (caught.value.code, caught.value.reason) == (1012, "service restart")
    end = ("close", 1012, "service restart"), ("in", "websocket.disconnect", 1012, "service restart"), "left"
    assert calls[-3:] == list(end)


async def test_the_end_of_the_app_closes_with_1012(server: SiteServer, app: App, calls: list[Any]) -> None:
    async with room(server.port) as conn:
        await exchange(conn, "who")
        app.stop()
        with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(GUARD):
            await conn.receive()
    assert caught.value.code == 1012
    await server.until_idle()
    assert calls[-1] == "left"


async def test_a_call_that_the_server_cancels_aborts_the_connection(server: SiteServer, calls: list[Any]) -> None:
    async with raw(server.port) as peer:
        await peer.send(message_frame("who"))
        await peer.frame()
        (task,) = server.state.tasks
        task.cancel()
        with pytest.raises((EOFError, ConnectionError)):
            await peer.frame()
    await server.until_idle()
    assert [call for call in calls if call[0] == "close"] == [("close", 1006, "aborted")]


async def test_a_connection_stays_until_its_handler_has_ended(
    calls: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = App(options=Options(drain_timeout=0.1, on_close_timeout=0.1))
    app.route("/room", Room(calls))
    async with site_server(Watching(app, calls), ws=Protocol) as server:
        async with raw(server.port, "/room") as peer:
            await peer.send(message_frame("x") + message_frame("stay"))
            assert await peer.frame() == (1, b"x")
            peer.reset()
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await server.until_idle()
        assert "left" not in calls
    assert "did not end in time and is aborted" in caplog.text
    assert calls[-2:] == ["left", ("close", 1006, "connection lost")]


async def test_a_certificate_of_the_client(calls: list[Any], tmp_path: Path) -> None:
    authority = trustme.CA()
    pem, trusted = tmp_path / "server.pem", tmp_path / "authority.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(trusted)
    context = ssl.create_default_context(cafile=str(trusted))
    authority.issue_cert("ana.example", common_name="ana").configure_cert(context)
    app = App(authenticate=ClientCertificateAuthenticator(lambda found: found.common_name))
    app.route("/room", Room(calls))
    settings = {"ssl_certfile": pem, "ssl_ca_certs": trusted, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    async with (
        site_server(app, ws=Protocol, **settings) as server,
        connect(f"wss://localhost:{server.port}/room", tls=context) as conn,
    ):
        assert await exchange(conn, "user") == "ana"
        assert await exchange(conn, bytes(300_000)) == bytes(300_000)


# -- middleware that does not pass `websocket.accept` on at once -----------------------------------------------------


class Changed:
    """A middleware with its own way to send."""

    def __init__(self, inner: Any, send: Any) -> None:
        self.inner = inner
        self.send = send
        self.tasks: set[Any] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            await self.send(message, send, self.tasks)

        await self.inner(scope, receive, sending if scope["type"] == "websocket" else send)


async def later(message: Any, send: Any, tasks: set[Any]) -> None:
    async def sending() -> None:
        await asyncio.sleep(0.01)
        await send(message)

    tasks.add(asyncio.create_task(sending()))


async def slow(message: Any, send: Any, tasks: set[Any]) -> None:
    await send(message)
    await asyncio.sleep(0.01)


async def refusing(message: Any, send: Any, tasks: set[Any]) -> None:
    await send({"type": "websocket.close"} if message["type"] == "websocket.accept" else message)


async def failing(message: Any, send: Any, tasks: set[Any]) -> None:
    raise RuntimeError("no")


@pytest.fixture
def public(calls: list[Any]) -> App:
    app = App(max_connections_per_address=1)
    app.route("/room", Room(calls))
    return app


@pytest.mark.parametrize("way", [later, slow])
async def test_a_middleware_that_takes_its_time(way: Any, public: App) -> None:
    async with site_server(Changed(public, way), ws=Protocol) as server, raw(server.port, "/room") as peer:
        await peer.send(message_frame("early"))
        assert await peer.frame() == (1, b"early")


@pytest.mark.parametrize(("way", "status"), [(refusing, 403), (failing, 500)])
async def test_a_middleware_that_accepts_nothing(way: Any, status: int, public: App, calls: list[Any]) -> None:
    async with site_server(Changed(public, way), ws=Protocol) as server:
        for _ in range(2):  # the first one does not count against max_connections_per_address any more
            async with Peer(socket.create_connection(("127.0.0.1", server.port))) as peer:
                with pytest.raises(AssertionError):
                    await peer.open("/room")
        await server.until_idle()
        assert public.stats().open_connections == 0
    assert calls == []
