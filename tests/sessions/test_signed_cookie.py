"""Sessions in signed cookies: the contract, keys, expiry, the size, and an open connection."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from support.sessions import cookie_of, counting, fetched, opened, told
from support.wire import running

from pywsapp import App, ConfigurationError, Request
from pywsapp.sessions import SessionCookie, Stored
from pywsapp.sessions.signed_cookie import SignedCookieStore
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck

pytestmark = pytest.mark.anyio

KEY = "a secret of at least 16 bytes"


class Timed(SignedCookieStore):
    """A store whose time a test sets."""

    time = 1_000_000.0

    def now(self) -> float:
        return self.time


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_the_store_passes(check: SessionCheck) -> None:
    await check(lambda: SignedCookieStore(KEY))


async def test_keys_are_replaced_one_after_the_other() -> None:
    old, new = SignedCookieStore(KEY), SignedCookieStore("another secret key")
    both = SignedCookieStore([b"another secret key", KEY])
    token = await old.save(None, Stored({"a": 1}))
    assert (await both.load(token) or Stored({})).data == {"a": 1}
    assert await new.load(token) is None
    token = await both.save(token, Stored({"a": 2}))
    assert (await new.load(token) or Stored({})).data == {"a": 2}
    assert await old.load(token) is None


async def test_expiry() -> None:
    for sliding in True, False:
        store = Timed(KEY, max_age=100, sliding=sliding)
        end = None if sliding else store.time + 100
        token = await store.save(None, Stored({"a": 1}, end))
        store.time += 60
        assert await store.load(token) == Stored({"a": 1}, store.time + 40)
        token = await store.save(token, Stored({"a": 1}, end))
        store.time += 60
        assert await store.load(token) == (Stored({"a": 1}, store.time + 40) if sliding else None)


async def test_handshakes_read_and_write() -> None:
    store = Timed(KEY, max_age=100)
    app, _ = counting(store)
    async with running(app):
        cookie = ""
        for number in 1, 2, 3:
            peer, headers = await opened(app, cookie=cookie)
            cookie = cookie_of(headers)
            assert await told(peer, "show") == {"handshakes": number, "new": False}
            peer.disconnect()
        encoded = cookie.partition("=")[2].encode().partition(b".")[0]
        assert json.loads(urlsafe_b64decode(encoded))["data"] == {"handshakes": 3}
        peer, headers = await opened(app, "/chat?look", cookie)
        assert "set-cookie" not in headers, "the answer could undo that of another request"
        peer.disconnect()
        store.time += 51
        peer, headers = await opened(app, "/chat?look", cookie)
        assert "; Max-Age=100; " in headers["set-cookie"], "less than half of its life was left"
        assert await told(peer, "reload") == {"handshakes": 3, "new": False}
        for call in "save", "rotate", "destroy":
            answer = await told(peer, call)
            assert re.match("SessionError: .* needs a response that sets a cookie", answer)
        peer.disconnect()


async def test_a_forged_cookie_is_an_empty_session() -> None:
    app, _ = counting(SignedCookieStore(KEY))
    other, _ = counting(SignedCookieStore("another key of 16 bytes"))
    async with running(app), running(other):
        peer, headers = await opened(other)
        peer.disconnect()
        forged = cookie_of(headers)
        for cookie in forged, "session=a.b", "session=" + "x" * 3000, f"{forged[:-1]}", "session=.", "session=\x80":
            peer, _ = await opened(app, cookie=cookie)
            assert await told(peer, "show") == {"handshakes": 1, "new": False}
            peer.disconnect()


async def test_a_cookie_has_a_largest_size(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0, session_store=SignedCookieStore(KEY))

    @app.http("/{size:int}")
    def fill(request: Request) -> str:
        request.session["text"] = "x" * request.path_params["size"]
        return "filled"

    async with running(app):
        status, headers, _ = await fetched(app, "/2900")
        assert status == 200
        assert 4000 < len(headers["set-cookie"]) <= 4096
        for size in "/2990", "/3100", "/100000":
            status, headers, _ = await fetched(app, size)
            assert (status, headers.get("set-cookie")) == (500, None)
    assert "browsers accept 4096: keep less in the session, or use a store on a server" in caplog.text
    assert "xxxx" not in caplog.text


async def test_destroying_and_emptying_delete_the_cookie() -> None:
    app = App("*", 0, session_store=SignedCookieStore(KEY))

    @app.http("/{call}")
    async def call(request: Request) -> str:
        if request.path_params["call"] == "fill":
            request.session["a"] = 1
        elif request.path_params["call"] == "clear":
            request.session.clear()
        else:
            await request.session.destroy()
        return json.dumps(dict(request.session))

    async with running(app):
        cookie = cookie_of((await fetched(app, "/fill"))[1])
        for path in "/clear", "/destroy":
            _, headers, body = await fetched(app, path, cookie)
            assert body == "{}"
            assert headers["set-cookie"] == "session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
            assert "set-cookie" not in (await fetched(app, path))[1], "there is no cookie to delete"


@pytest.mark.parametrize("key", ["", "short", [], [KEY, "short"], 42, [KEY, 42]])
async def test_invalid_keys(key: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError)) as raised:
        SignedCookieStore(key)
    assert "short" not in str(raised.value).replace("shorter", "")
    assert KEY not in str(raised.value)


async def test_secrets_are_in_no_text() -> None:
    app, counter = counting(SignedCookieStore(KEY))
    app.http("/page", lambda request: repr((request.session, request.state)))
    async with running(app):
        peer, headers = await opened(app)
        cookie = cookie_of(headers)
        peer.disconnect()
        text = (await fetched(app, "/page", cookie))[2]
    assert "<Session saved, 1 keys>" in text
    for secret in KEY, cookie.partition("=")[2], "handshakes":
        assert secret not in text
        assert secret not in repr(SignedCookieStore(KEY))
    assert not counter.failed


# -- the cookie itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookie", "plain", "tls"),
    [
        (
            SessionCookie(),
            "session=v; Path=/; Max-Age=9; HttpOnly; SameSite=Lax",
            "__Host-session=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=Lax",
        ),
        (
            SessionCookie(name="id", path="/app", domain="example.com", same_site="strict", http_only=False),
            "id=v; Path=/app; Domain=example.com; Max-Age=9; SameSite=Strict",
            "id=v; Path=/app; Domain=example.com; Max-Age=9; Secure; SameSite=Strict",
        ),
        (
            SessionCookie(secure=True, host_prefix=False, same_site="none"),
            "session=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=None",
            "session=v; Path=/; Max-Age=9; HttpOnly; Secure; SameSite=None",
        ),
    ],
)
async def test_the_field(cookie: SessionCookie, plain: str, tls: str) -> None:
    assert cookie.set_field("v", 9, is_secure=False) == plain
    assert cookie.set_field("v", 9, is_secure=True) == tls
    assert cookie.set_field("v", None, is_secure=True) == tls.replace(" Max-Age=9;", "")


async def test_over_tls_only_the_cookie_with_the_prefix_counts() -> None:
    """Another host of the domain, or a server without TLS, can set a cookie without it."""
    cookie = SessionCookie()
    headers = [("Cookie", "session=planted; __Host-session=mine")]
    assert cookie.read(Request(headers=headers, scheme="https")) == "mine"
    assert cookie.read(Request(headers=headers, scheme="http")) == "planted"
    assert cookie.read(Request(headers=[("Cookie", "session=planted")], scheme="https")) is None
    assert cookie.read(Request(headers=[("Cookie", "session=" + "x" * 4097)])) is None


@pytest.mark.parametrize("value", ["a b", "a;b", "a\r\nSet-Cookie: b=c", "\N{SNOWMAN}", 'a"b', "a,b", "a\\b"])
async def test_a_value_that_no_cookie_can_have(value: str) -> None:
    with pytest.raises(ValueError, match="has characters that a cookie cannot have"):
        SessionCookie().set_field(value, 1, is_secure=False)
