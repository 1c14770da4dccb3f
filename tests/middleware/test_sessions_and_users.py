"""A user that `authenticate` finds in the session: on routes, pages, files and unknown paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.sessions import cookie_of, fetched, opened
from support.wire import handshake, peer_of, running

from pywsapp import App, ConfigurationError, Connection, MessageComponent, Request, SessionError
from pywsapp.auth import public
from pywsapp.sessions import MemorySessionStore, Stored

pytestmark = pytest.mark.anyio


class Hello(MessageComponent):
    def on_handshake(self, request: Request) -> None:
        request.session["visits"] = request.session.get("visits", 0) + 1

    def on_open(self, conn: Connection) -> None:
        conn.send(f"{conn.user} {conn.session['visits']}")


def site(folder: Path, authenticate: Any, store: Any = "memory") -> App:
    (folder / "a.txt").write_text("file")
    app = App("*", 0, session_store=store, authenticate=authenticate)
    app.route("/hello", Hello())
    app.static("/files", folder)
    app.http("/page", lambda request: f"{request.user}")

    @app.http("/login", authenticate=public)
    def login(request: Request) -> str:
        request.session["user"] = "Ana"
        return "welcome"

    return app


def find_user(request: Request) -> Any:
    return request.session.get("user")


async def find_user_later(request: Request) -> Any:
    return find_user(request)


async def status(app: App, path: str, cookie: str = "") -> int:
    async with peer_of(app) as peer:
        await peer.send(handshake(path, **({"cookie": cookie} if cookie else {})))
        return (await peer.head())[0]


@pytest.mark.parametrize("authenticate", [find_user, find_user_later])
async def test_the_user_of_a_session(authenticate: Any, tmp_path: Path) -> None:
    app = site(tmp_path, authenticate)
    paths = {"/page": "Ana", "/files/a.txt": "file", "/nothing": None}
    async with running(app):
        for path in paths:
            assert (await fetched(app, path))[0] == 401, path
            assert (await fetched(app, path, "session=" + "a" * 43))[0] == 401, path
        assert await status(app, "/hello") == 401
        assert await status(app, "/nothing") == 401
        cookie = cookie_of((await fetched(app, "/login"))[1])
        for path, body in paths.items():
            found, _, text = await fetched(app, path, cookie)
            assert found == (200 if body else 404), path
            assert text == (body or text)
        for visit in 1, 2:
            peer, _ = await opened(app, "/hello", cookie)
            assert (await peer.frame())[1].decode() == f"Ana {visit}"
            peer.disconnect()


async def test_a_guard_that_begins_a_session_where_no_cookie_can_be_set(tmp_path: Path) -> None:
    found: list[Exception] = []

    async def authenticate(request: Request) -> Any:
        request.session["seen"] = True
        try:
            await request.session.save()
        except SessionError as exc:
            found.append(exc)
        return "Ana"

    store = MemorySessionStore()
    app = site(tmp_path, authenticate, store)
    async with running(app):
        assert (await fetched(app, "/files/a.txt"))[0] == 200
        assert len(found) == 1
        assert len(store) == 0
        _, headers, _ = await fetched(app, "/page")
        assert cookie_of(headers)
        assert len(found) == 1


async def test_a_store_that_fails_is_no_user(tmp_path: Path) -> None:
    class Failing(MemorySessionStore):
        async def load(self, token: str) -> Stored | None:
            raise OSError("refused")

    app = site(tmp_path, find_user, Failing())
    async with running(app):
        for path in "/page", "/files/a.txt", "/nothing":
            assert (await fetched(app, path, "session=x"))[0] == 503, path
        assert await status(app, "/hello", "session=x") == 503


async def test_a_store_that_is_replaced_is_not_used(tmp_path: Path) -> None:
    old, new = MemorySessionStore(), MemorySessionStore()
    app = site(tmp_path, find_user, old)
    outer = App("*", 0)
    outer.mount("/site", app)
    app._sessions.use_store(new)  # as `configure` does, which a mounted App does not take
    async with running(outer):
        cookie = cookie_of((await fetched(outer, "/site/login"))[1])
        for path in "/site/page", "/site/files/a.txt":
            assert (await fetched(outer, path, cookie))[0] == 200, path
        assert await status(outer, "/site/hello", cookie) == 101
    assert (len(old), len(new)) == (0, 1)


def test_an_app_without_sessions_has_no_store_to_replace() -> None:
    with pytest.raises(ConfigurationError, match="the App has no sessions, so no store can be replaced"):
        App().configure(session_store="memory")


async def test_configure_replaces_the_store_and_the_ages(tmp_path: Path) -> None:
    new = MemorySessionStore()
    app, inner = site(tmp_path, find_user), App()
    app.mount("/inner", inner)
    app.configure(session_store=new, options={"max_connection_age": 3600, "idle_timeout": 60})
    async with running(app):
        await fetched(app, "/login")
    assert len(new) == 1
    assert (app.options.max_connection_age, inner.options.idle_timeout) == (3600, 60)
