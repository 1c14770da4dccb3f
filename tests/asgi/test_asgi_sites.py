"""An App inside of websites: lifespan, mounts, and what the site's middleware has found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from litestar import Litestar, asgi
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount
from support.asgi_servers import ask, chat, exchange, hosted
from support.serving import GUARD
from support.wire import get

from pywsapp import App, Connection, ConnectionClosed, HandshakeError, MessageComponent, Request, SessionError
from pywsapp.asgi import site_user
from pywsapp.auth import SignedUrls

pytestmark = pytest.mark.anyio
KEY = "0123456789abcdef0123456789abcdef"


class Who(MessageComponent):
    """Sends what it knows of the client."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        user = getattr(conn.user, "username", None)
        conn.send(f"{conn.request.path} {user} {vars(conn.state)}")


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def app(calls: list[str]) -> App:
    app = App()
    app.route("/who", Who())
    app.http("/hello", lambda request: f"hello at {request.path}")
    app.on_startup(lambda: calls.append("startup"))
    app.on_shutdown(lambda: calls.append("shutdown"))
    return app


# -- lifespan ----------------------------------------------------------------------------------------------------------


async def test_the_app_starts_and_drains_with_the_server(app: App, calls: list[str]) -> None:
    async with hosted(app) as port:
        assert calls == ["startup"]
        assert app.stats().open_connections == 0
        async with chat(port, "/who") as conn:
            assert await exchange(conn, "?") == "/who None {}"
    assert calls == ["startup", "shutdown"]


async def test_a_hook_that_fails_stops_the_server(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.on_startup
    def fail() -> None:
        raise RuntimeError("no database")

    answers: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        answers.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert answers == [{"type": "lifespan.startup.failed", "message": "no database"}]
    assert "the startup of the App failed" in caplog.text


async def test_open_connections_are_closed_with_1012_when_the_app_ends(app: App) -> None:
    site = Starlette(routes=[Mount("/ws", app=app)])
    async with hosted(site) as port, app.lifespan(), chat(port, "/ws/who") as conn:
        await exchange(conn, "?")
        app.stop()
        with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(GUARD):
            await conn.receive()
    assert caught.value.code == 1012


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar"])
async def test_the_lifespan_of_a_site(framework: str, app: App, calls: list[str]) -> None:
    if framework == "starlette":
        site: Any = Starlette(routes=[Mount("/ws", app=app)], lifespan=app.lifespan)
    elif framework == "fastapi":

        @asynccontextmanager
        async def lifespan(site: FastAPI) -> AsyncIterator[dict[str, str]]:
            calls.append("site")
            async with app.lifespan():
                yield {}

        site = FastAPI(lifespan=lifespan)
        site.mount("/ws", app)
    else:
        site = Litestar(
            [asgi("/ws", is_mount=True, copy_scope=True)(app)], lifespan=[app.lifespan], logging_config=None
        )
    async with hosted(site) as port, chat(port, "/ws/who") as conn:
        assert str(await exchange(conn, "?")).startswith("/who None")
        assert (await ask(port, get("/ws/hello"))).body == b"hello at /hello"
    assert [call for call in calls if call != "site"] == ["startup", "shutdown"]


async def test_a_site_that_does_not_start_the_app(app: App, calls: list[str], caplog: pytest.LogCaptureFixture) -> None:
    site = Starlette(routes=[Mount("/ws", app=app)])
    async with hosted(site) as port:
        if anyio.get_current_task() is not None and not _on_asyncio():
            with pytest.raises(HandshakeError):
                async with chat(port, "/ws/who"):
                    pass
            return
        async with chat(port, "/ws/who") as first, chat(port, "/ws/who") as second:
            assert await exchange(first, "?") == await exchange(second, "?") == "/who None {}"
        assert calls == ["startup"]
    assert caplog.text.count("lifespan=app.lifespan") == 1
    app.stop()
    await asyncio.wait_for(app._asgi._late._task, GUARD)  # type: ignore[union-attr]
    assert calls == ["startup", "shutdown"]


def _on_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def test_event_loops_one_after_the_other(app: App, calls: list[str]) -> None:
    """Test clients make a new event loop for each block; the App starts in each of them."""

    async def use() -> None:
        async with hosted(Starlette(routes=[Mount("/ws", app=app)])) as port, chat(port, "/ws/who") as conn:
            assert await exchange(conn, "?") == "/who None {}"

    for _ in range(2):
        anyio.run(use)
    assert calls == ["startup", "shutdown"] * 2


# -- what the site knows -----------------------------------------------------------------------------------------------


class ByHeader(AuthenticationBackend):
    async def authenticate(self, conn: Any) -> Any:
        name = conn.headers.get("x-user")
        return None if name is None else (AuthCredentials(["authenticated"]), SimpleUser(name))


class StateOfSite:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            scope.setdefault("state", {})["tenant"] = "blue"
        await self.inner(scope, receive, send)


def site_around(app: App) -> Starlette:
    middleware = [
        Middleware(SessionMiddleware, secret_key=KEY),
        Middleware(AuthenticationMiddleware, backend=ByHeader()),
        Middleware(StateOfSite),
    ]
    return Starlette(routes=[Mount("/ws", app=app)], lifespan=app.lifespan, middleware=middleware)


async def test_the_user_and_the_state_of_the_site(app: App) -> None:
    async with hosted(site_around(app)) as port:
        async with chat(port, "/ws/who", headers={"X-User": "ana"}) as conn:
            assert await exchange(conn, "?") == "/who ana {'tenant': 'blue'}"
        async with chat(port, "/ws/who") as conn:
            assert await exchange(conn, "?") == "/who None {'tenant': 'blue'}"


async def test_only_users_of_the_site() -> None:
    app = App(authenticate=site_user)
    app.route("/who", Who())
    async with hosted(site_around(app)) as port:
        async with chat(port, "/ws/who", headers={"X-User": "ana"}) as conn:
            assert str(await exchange(conn, "?")).startswith("/who ana")
        with pytest.raises(HandshakeError) as caught:
            async with chat(port, "/ws/who"):
                pass
    assert caught.value.status == 401


async def test_the_session_of_the_site(app: App) -> None:
    class Cart(MessageComponent):
        async def on_message(self, conn: Connection, message: Any) -> None:
            try:
                await conn.session.save()
            except SessionError as exc:
                conn.send(f"{conn.session['item']}: {exc}")

    def put(request: Request) -> str:
        request.session["item"] = "tea"
        return "ok"

    app.route("/cart", Cart())
    app.http("/put", put)
    async with hosted(site_around(app)) as port:
        cookie = (await ask(port, get("/ws/put"))).headers["set-cookie"].partition(";")[0]
        async with chat(port, "/ws/cart", headers={"Cookie": cookie}) as conn:
            assert "tea: this session belongs to the site" in str(await exchange(conn, "?"))


# -- paths -------------------------------------------------------------------------------------------------------------


async def test_a_path_below_a_root_path(app: App) -> None:
    site = Starlette(routes=[Mount("/a/ws", app=app)], lifespan=app.lifespan)
    settings = {"root_path": "/proxy"} if _on_asyncio() else {}
    async with hosted(site, **settings) as port, chat(port, "/a/ws/who") as conn:
        assert str(await exchange(conn, "?")).startswith("/who ")


@pytest.mark.parametrize("framework", ["starlette", "litestar"])
async def test_a_mount_at_the_root(framework: str, app: App) -> None:
    site: Any = Starlette(routes=[Mount("/", app=app)], lifespan=app.lifespan)
    if framework == "litestar":
        mounted = asgi("/", is_mount=True, copy_scope=True)(app)
        site = Litestar([mounted], lifespan=[app.lifespan], logging_config=None)
    async with hosted(site) as port, chat(port, "/who") as conn:
        assert str(await exchange(conn, "?")).startswith("/who ")
        assert (await ask(port, get("/hello"))).body == b"hello at /hello"


@pytest.mark.parametrize("framework", ["starlette", "litestar"])
async def test_a_signed_url_has_the_path_that_the_client_asks_for(framework: str) -> None:
    urls = SignedUrls(KEY)
    app = App(authenticate=urls)
    app.http("/hello", lambda request: f"hello at {request.path}")
    site: Any = Starlette(routes=[Mount("/ws", app=app)], lifespan=app.lifespan)
    if framework == "litestar":
        site = Litestar(
            [asgi("/ws", is_mount=True, copy_scope=True)(app)], lifespan=[app.lifespan], logging_config=None
        )
    async with hosted(site) as port:
        signed = urls.sign("/ws/hello?a=1", user="ana", seconds=60)
        assert (await ask(port, get(signed))).body == b"hello at /hello"
        moved = urls.sign("/hello?a=1", user="ana", seconds=60)
        assert (await ask(port, get("/ws" + moved))).status == 401


async def test_scopes_that_no_request_can_have(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    base = {"type": "http", "method": "GET", "path": "/hello", "headers": [(b"host", b"x")]}
    bad: list[dict[str, Any]] = [
        {"headers": [(b"host", b"x"), (b"a", b"1\r\nb: 2")]},
        {"headers": [(b"host", b"x"), (b"a\r\n", b"1")]},
        {"headers": [(b"host", b"x y")]},
        {"headers": []},
        {"path": "/\0"},
        {"method": "GE T"},
    ]
    async with app.lifespan():
        assert await _status(app, base) == 200
        assert [await _status(app, base | change) for change in bad] == [400] * len(bad)
        assert await _status(app, base | {"headers": [(b"host", b"x"), (b"a", b"b" * 20_000)]}) == 431


async def _status(app: App, scope: dict[str, Any]) -> int:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status
