"""Sessions of Starlette, which FastAPI uses: Starlette's own middleware writes and reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from support.sessions import cookie_of, counting, opened, told
from support.wire import running

from pywsapp.exceptions import ConfigurationError, SessionError
from pywsapp.sessions import Stored
from pywsapp.sessions.starlette import StarletteSessionStore
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck

pytestmark = pytest.mark.anyio

KEY = "the secret of the site"
DATA = {"user": 7, "name": "Zoë \N{GRINNING FACE}", "cart": [{"id": 1.5}, None, True]}


async def ask(path: str, cookie: str = "", key: str = KEY) -> tuple[Any, str]:
    """Ask a site of Starlette; return the answer and the cookie that it sets, as name=value."""

    async def write(request: Request) -> JSONResponse:
        request.session.update(DATA)
        return JSONResponse(None)

    async def read(request: Request) -> JSONResponse:
        return JSONResponse(dict(request.session))

    async def clear(request: Request) -> JSONResponse:
        request.session.clear()
        return JSONResponse(None)

    site = Starlette(
        routes=[Route("/write", write), Route("/read", read), Route("/clear", clear)],
        middleware=[Middleware(SessionMiddleware, secret_key=key)],
    )
    sent: list[dict[str, Any]] = []
    headers = [(b"cookie", cookie.encode())] if cookie else []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await site(scope, receive, send)
    fields = dict(sent[0]["headers"])
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return json.loads(body), fields.get(b"set-cookie", b"").decode().partition(";")[0]


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_the_store_passes(check: SessionCheck) -> None:
    await check(lambda: StarletteSessionStore(KEY))


async def test_a_session_of_starlette_is_read_and_written() -> None:
    _, cookie = await ask("/write")
    app, _ = counting(StarletteSessionStore(KEY))
    async with running(app):
        peer, headers = await opened(app, "/chat?look", cookie)
        assert "set-cookie" not in headers, "what is not changed does not replace the cookie of the site"
        assert await told(peer, "show") == {**DATA, "new": False}
        assert (await told(peer, "save")).startswith("SessionError: ")
        peer.disconnect()
        peer, headers = await opened(app, cookie=cookie)
        peer.disconnect()
        found, _ = await ask("/read", cookie_of(headers))
        assert found == {**DATA, "handshakes": 1}


async def test_a_session_that_begins_here() -> None:
    app, _ = counting(StarletteSessionStore(KEY))
    async with running(app):
        peer, headers = await opened(app)
        peer.disconnect()
    assert headers["set-cookie"].endswith("; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax")
    assert (await ask("/read", cookie_of(headers)))[0] == {"handshakes": 1}


class Timed(StarletteSessionStore):
    later = 0.0

    def now(self) -> float:
        return super().now() + self.later


async def test_what_is_not_a_session_is_empty() -> None:
    _, cookie = await ask("/write")
    token = cookie.partition("=")[2]
    store = Timed([KEY, "older"], max_age=100)
    assert await store.load(token) == Stored(DATA)
    assert await StarletteSessionStore(["newer", KEY]).load(token) == Stored(DATA)
    assert await StarletteSessionStore("newer").load(token) is None
    store.later = 99
    assert await store.load(token) == Stored(DATA)
    store.later = 102
    assert await store.load(token) is None
    _, cleared = await ask("/clear", cookie)
    assert cleared == "session=null"
    assert await store.load("null") is None


async def test_too_large() -> None:
    with pytest.raises(SessionError, match="has 5012 bytes"):
        await StarletteSessionStore(KEY).save(None, Stored({"text": "x" * 5000}))
    with pytest.raises(ConfigurationError):
        StarletteSessionStore("")
