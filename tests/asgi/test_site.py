"""`App.site`: a website on the own server, beside the routes of the App."""

from __future__ import annotations

import contextvars
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from support.plain_site import SITE_BACKENDS, PlainSite, respond, served
from support.serving import TEXT, message_frame
from support.transports import SERVER_TLS, connect_tls
from support.wire import Peer, get, handshake, peer_of, running

from pywsapp import App, ConfigurationError, EchoServer
from pywsapp.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", SITE_BACKENDS)]


def whoami(scope: Any) -> bytes:
    return f"{scope['scheme']} {scope['client']} {scope['root_path']}".encode()


@pytest.fixture
def site() -> PlainSite:
    site = PlainSite()

    @site.at("/who")
    async def who(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, whoami(scope))

    return site


async def ask(peer: Peer, request: bytes) -> tuple[int, bytes]:
    await peer.send(request)
    response = await peer.response()
    return response.status, response.body


# -- websites ----------------------------------------------------------------------------------------------------------


async def test_fastapi_on_one_connection() -> None:
    calls: list[str] = []

    @asynccontextmanager
    async def lifespan(site: FastAPI) -> AsyncIterator[dict[str, str]]:
        calls.append("startup")
        yield {"tea": "green"}
        calls.append("shutdown")

    site = FastAPI(lifespan=lifespan)

    async def later() -> None:
        calls.append("background")

    @site.get("/tea")
    async def tea(request: Request, background: BackgroundTasks) -> dict[str, Any]:
        background.add_task(later)
        return {"tea": request.state.tea, "url": str(request.url)}

    @site.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    app = App("*", 0)
    app.on_startup(lambda: calls.append("before"))
    app.on_shutdown(lambda: calls.append("after"))
    async with served(site, app) as (_, peer):
        for _ in range(3):
            status, body = await ask(peer, get("/tea?a=1"))
            assert (status, body) == (200, b'{"tea":"green","url":"http://localhost/tea?a=1"}')
        assert await ask(peer, b"POST /size HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde") == (
            200,
            b"5",
        )
        assert (await ask(peer, get("/nothing")))[0] == 404
    assert calls.count("background") == 3
    assert [call for call in calls if call != "background"] == ["before", "startup", "after", "shutdown"]


# -- beside the routes -------------------------------------------------------------------------------------------------


@pytest.fixture
def app(site: PlainSite, tmp_path: Path) -> App:
    (tmp_path / "a.txt").write_text("file")
    app = App("*", 0)
    app.route("/echo", EchoServer())
    app.http("/own", lambda request: "own")
    app.static("/files", tmp_path)
    app.health()
    return app


@pytest.mark.parametrize("before", [False, True], ids=["first", "kept alive"])
@pytest.mark.parametrize(
    ("target", "answer"),
    [("/own", b"own"), ("/files/a.txt", b"file"), ("/health/live", b'{"status":"ok"}'), ("/files/b.txt", None)],
)
async def test_routes_come_first_on_every_request(
    app: App, site: PlainSite, target: str, answer: bytes | None, before: bool
) -> None:
    async with served(site, app) as (_, peer):
        if before:
            assert await ask(peer, get("/page")) == (200, b"GET /page")
        status, body = await ask(peer, get(target))
        assert (status, body) == (200, answer) if answer is not None else (404, body)
        assert await peer.receive() == b""  # as always after the answer of a route
    assert target not in site.paths


@pytest.mark.parametrize("before", [False, True], ids=["first", "kept alive"])
async def test_a_websocket(app: App, site: PlainSite, before: bool) -> None:
    async with served(site, app) as (_, peer):
        if before:
            assert await ask(peer, get("/page")) == (200, b"GET /page")
        await peer.open("/echo", trailing=message_frame("at once"))
        assert await peer.frame() == (TEXT, b"at once")
        await peer.send(message_frame("later"))
        assert await peer.frame() == (TEXT, b"later")
        app.stop()
        assert await peer.receive_close() == (1012, "service restart")


@pytest.mark.parametrize("before", [False, True], ids=["first", "kept alive"])
async def test_a_websocket_without_a_route(app: App, site: PlainSite, before: bool) -> None:
    async with served(site, app) as (_, peer):
        if before:
            assert await ask(peer, get("/page")) == (200, b"GET /page")
        status, _ = await ask(peer, handshake("/page"))
        assert status == 404
        assert await peer.receive() == b""
    assert site.paths == ["/page"] * before


async def test_the_guard_of_the_app_is_not_that_of_the_site(site: PlainSite) -> None:
    app = App("*", 0, authenticate=lambda request: None)
    app.http("/own", lambda request: "own")
    async with served(site, app) as (_, peer):
        assert await ask(peer, get("/page")) == (200, b"GET /page")
        assert (await ask(peer, get("/own")))[0] == 401


@pytest.mark.parametrize("before", [False, True], ids=["first", "kept alive"])
async def test_a_host_that_is_not_served(site: PlainSite, before: bool) -> None:
    app = App("www.example.com", 0)
    async with served(site, app) as (_, peer):
        if before:
            assert await ask(peer, get("/page", host="www.example.com")) == (200, b"GET /page")
        assert (await ask(peer, get("/page", host="evil.example")))[0] == 404


# -- the client --------------------------------------------------------------------------------------------------------


async def test_the_client_of_a_direct_connection(site: PlainSite) -> None:
    async with served(site, root_path="/root") as (_, peer):
        await peer.send(get("/who"))
        assert (await peer.response()).body == b"GET /root/who"  # uvicorn puts the root path before the path
        site.at("/root/who")(lambda scope, receive, send: respond(send, whoami(scope)))
        assert await ask(peer, get("/who")) == (200, f"http {peer.sock.getsockname()} /root".encode())


async def test_each_request_of_a_proxy_has_its_client(site: PlainSite) -> None:
    app = App("*", 0, trusted_proxies=["127.0.0.1"])
    async with served(site, app) as (_, peer):
        for address, scheme in [("203.0.113.7", "https"), ("203.0.113.8", "http")]:
            fields = f"X-Forwarded-For: {address}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n".encode()
            answer = await ask(peer, get("/who")[:-2] + fields)
            assert answer == (200, f"{scheme} ('{address}', 0) ".encode())
        assert await ask(peer, get("/who")) == (200, f"http {peer.sock.getsockname()} ".encode())


async def test_the_fields_of_a_client_are_not_believed(site: PlainSite) -> None:
    async with served(site) as (_, peer):
        request = get("/who")[:-2] + b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\r\n"
        assert await ask(peer, request) == (200, f"http {peer.sock.getsockname()} ".encode())


async def test_a_proxy_header_is_that_of_all_requests(site: PlainSite) -> None:
    async with served(site, App("*", 0, proxy_protocol=True)) as (_, peer):
        await peer.send(b"PROXY TCP4 203.0.113.9 198.51.100.7 56324 443\r\n")
        for _ in range(2):
            assert await ask(peer, get("/who")) == (200, b"http ('203.0.113.9', 0) ")


async def test_tls(site: PlainSite) -> None:
    app = App("*", 0, tls=SERVER_TLS)
    app.site(site)
    async with running(app), await connect_tls(app.port) as stream:
        for _ in range(2):
            await stream.send(get("/who"))
            received = b""
            while b"127.0.0.1" not in received:
                received += await stream.receive()
            assert re.search(rb"https \('127.0.0.1', \d+\) $", received)


async def test_a_unix_socket(site: PlainSite, tmp_path: Path) -> None:
    path = tmp_path / "site.sock"
    app = App("*", unix_path=path)
    app.site(site)
    async with running(app):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        async with Peer(sock) as peer:
            for _ in range(2):
                assert await ask(peer, get("/who")) == (200, b"http None ")


# -- logs and errors ---------------------------------------------------------------------------------------------------


async def test_an_exception_is_answered_with_500_and_logged(site: PlainSite, caplog: pytest.LogCaptureFixture) -> None:
    @site.at("/boom")
    async def boom(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("boom")

    async with served(site) as (_, peer):
        assert await ask(peer, get("/page")) == (200, b"GET /page")
        caplog.clear()
        await peer.send(get("/boom"))
        assert (await peer.head())[0] == 500
        assert b"Internal Server Error" in await peer.read_to_end()
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    assert (record.name, record.levelname) == ("pywsapp.site", "ERROR")
    assert "ValueError: boom" in caplog.text


async def test_an_exception_after_the_response_does_not_close_the_connection(site: PlainSite) -> None:
    answered = anyio.Event()

    @site.at("/late")
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"done")
        await answered.wait()
        raise ValueError("too late")

    async with served(site) as (_, peer):
        assert await ask(peer, get("/late")) == (200, b"done")
        answered.set()
        for _ in range(3):
            assert await ask(peer, get("/page")) == (200, b"GET /page")


async def test_the_access_log(site: PlainSite, caplog: pytest.LogCaptureFixture) -> None:
    @site.at("/half")
    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})

    caplog.set_level(logging.INFO)
    async with served(site, App("*", 0, access_log=True)) as (_, peer):
        assert await ask(peer, get("/page?secret")) == (200, b"GET /page")
        await peer.send(get("/half"))
        await peer.read_to_end()
    lines = [record.getMessage() for record in caplog.records if record.name == "pywsapp.access"]
    assert [re.sub(r"[\d.]+ s", "0 s", line) for line in lines] == [
        "127.0.0.1 GET /page 200 in 0 s",
        "127.0.0.1 GET /half 200 incomplete in 0 s",
    ]
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


async def test_context_variables_of_a_request_end_with_it(site: PlainSite) -> None:
    user = contextvars.ContextVar("user", default="none")
    before = contextvars.ContextVar("before", default="none")

    @site.at("/login")
    async def login(scope: Any, receive: Any, send: Any) -> None:
        found = user.get()
        user.set("ana")
        while (await receive())["more_body"]:
            pass
        await respond(send, f"{before.get()} {found}".encode())

    app = App("*", 0)
    app.http("/own", lambda request: user.get())
    app.on_startup(lambda: before.set("startup"))
    async with served(site, app) as (_, peer):
        body = b"x" * 300_000  # so that the site makes the transport stop reading, and resume
        for _ in range(2):
            await peer.send(b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert (await peer.response()).body == b"startup none"
        pipelined = get("/login") + get("/login") + get("/own")
        await peer.send(pipelined)
        assert [(await peer.response()).body for _ in range(3)] == [b"startup none", b"startup none", b"none"]


# -- what cannot be ----------------------------------------------------------------------------------------------------


class Failing:
    """A site whose startup fails."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        message = "Traceback (most recent call last):\n  ...\nRuntimeError: no database\n"
        await send({"type": "lifespan.startup.failed", "message": message})


async def test_a_startup_that_fails(site: PlainSite) -> None:
    app = App("*", 0)
    app.site(Failing())
    ended: list[str] = []
    app.on_shutdown(lambda: ended.append("shutdown"))
    with pytest.raises(ConfigurationError, match=r"^the site failed to start: RuntimeError: no database$"):
        await app.serve()
    assert ended == ["shutdown"]


async def test_an_app_with_a_site_runs_again(site: PlainSite) -> None:
    app = App("*", 0)
    app.site(site)
    for _ in range(2):
        async with running(app), peer_of(app) as peer:
            assert await ask(peer, get("/page")) == (200, b"GET /page")
    assert site.events == ["startup", "shutdown"] * 2


async def test_the_test_client(site: PlainSite) -> None:
    app = App()
    app.site(site)
    async with TestClient(app) as client:
        response = await client.get("/page")
        assert (response.status, response.text) == (200, "GET /page")
    assert site.events == ["startup", "shutdown"]


async def test_an_asgi_server_cannot_serve_the_site(site: PlainSite) -> None:
    app = App()
    app.site(site)
    with pytest.raises(ConfigurationError, match=r"needs its own server, app\.run\(\)"):
        async with app.lifespan():
            pass


async def test_mistakes(site: PlainSite) -> None:
    app = App()
    with pytest.raises(ConfigurationError, match="an ASGI application, not 'main:site'"):
        app.site("main:site")
    app.site(site)
    with pytest.raises(ConfigurationError, match="route twice"):
        app.site(site)
    with pytest.raises(ConfigurationError, match=r"its own site\(\)"):
        App().mount("/inner", app)
