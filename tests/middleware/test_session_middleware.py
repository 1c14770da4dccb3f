"""Sessions on a running App: loaded before `on_handshake`, saved with the answer, and on an open connection."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.serving import Recorder
from support.sessions import Counter, cookie_of, counting, fetched, opened, told
from support.wire import get, handshake, peer_of, running

from pywsapp import (
    App,
    ConfigurationError,
    HandshakeMiddleware,
    MessageComponent,
    Refuse,
    Request,
    Response,
    Router,
    SessionEnded,
    SessionError,
    SessionMiddleware,
)
from pywsapp.sessions import MemorySessionStore, SessionCookie, Stored

pytestmark = pytest.mark.anyio

TOKEN_COOKIE = r"session=[0-9A-Za-z_-]{43}; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax"


async def test_a_session_begins_in_the_handshake_and_goes_on() -> None:
    app, _ = counting()
    async with running(app):
        one, headers = await opened(app)
        assert re.fullmatch(TOKEN_COOKIE, headers["set-cookie"])
        cookie = cookie_of(headers)
        assert await told(one, "save") == {"handshakes": 1, "messages": 1, "new": False}
        other, again = await opened(app, cookie=f"theme=dark; {cookie}")
        assert cookie_of(again) == cookie, "a sliding session renews its cookie"
        assert await told(other, "show") == {"handshakes": 2, "messages": 1, "new": False}
        assert await told(one, "show") == {"handshakes": 1, "messages": 1, "new": False}, "as it was at the handshake"
        assert await told(one, "reload") == {"handshakes": 2, "messages": 1, "new": False}
        one.disconnect()
        other.disconnect()


async def test_the_last_one_that_saves_wins() -> None:
    app, _ = counting()
    async with running(app):
        one, headers = await opened(app)
        other, _ = await opened(app, cookie=cookie_of(headers))
        for peer in one, other, other, one:
            await told(peer, "save")
        assert await told(other, "reload") == {"handshakes": 1, "messages": 2, "new": False}
        one.disconnect()
        other.disconnect()


@pytest.mark.parametrize("cookie", ["session=", "session=" + "A" * 43, "session=x", "other=1", "session=../../x"])
async def test_an_unknown_id_is_not_accepted(cookie: str) -> None:
    app, _ = counting()
    async with running(app):
        peer, headers = await opened(app, cookie=cookie)
        assert cookie_of(headers) not in cookie
        assert await told(peer, "show") == {"handshakes": 1, "new": False}
        peer.disconnect()


async def test_a_session_that_is_not_changed_is_not_created() -> None:
    store = MemorySessionStore()
    app, _ = counting(store)
    async with running(app):
        peer, headers = await opened(app, "/chat?look")
        assert "set-cookie" not in headers
        assert await told(peer, "show") == {"new": True}
        peer.disconnect()
    assert len(store) == 0


@pytest.mark.parametrize("call", ["save", "rotate"])
async def test_what_needs_a_response_says_so_on_an_open_connection(call: str) -> None:
    app, counter = counting()
    async with running(app):
        peer, _ = await opened(app, "/chat?look")
        answer = await told(peer, call)
        assert answer.startswith("SessionError: ")
        assert "needs a response that sets a cookie" in answer
        assert [type(exc) for exc in counter.failed] == [SessionError]
        peer.disconnect()


async def test_an_open_connection_destroys_a_session() -> None:
    store = MemorySessionStore()
    app, counter = counting(store)
    async with running(app):
        one, headers = await opened(app)
        other, _ = await opened(app, cookie=cookie_of(headers))
        assert await told(one, "destroy") == {"new": True}
        assert len(store) == 0
        assert (await told(other, "save")).startswith("SessionEnded: the session was destroyed or has expired")
        assert isinstance(counter.failed[0], SessionEnded)
        assert await told(other, "reload") == {"new": True}
        assert len(store) == 0
        one.disconnect()
        other.disconnect()


# -- plain HTTP --------------------------------------------------------------------------------------------------------


def site(store: Any = "memory") -> App:
    """An App with pages that log in and out, of all kinds of handlers."""
    app = App("*", 0, session_store=store)
    page = Response.html("always the same object")

    @app.http("/login/{name}", methods=["GET", "POST"])
    async def login(request: Request) -> str:
        await request.session.rotate()
        request.session["user"] = request.path_params["name"]
        return "welcome"

    @app.http("/redirect")
    def redirect(request: Request) -> None:
        request.session["user"] = "Ben"
        raise Refuse(303, {"Location": "/who"})

    @app.http("/who")
    def who(request: Request) -> dict[str, Any]:
        return {"user": request.session.get("user")}

    @app.http("/logout")
    async def logout(request: Request) -> str:
        await request.session.destroy()
        return "goodbye"

    @app.http("/page")
    def same(request: Request) -> Response:
        request.session["pages"] = [1]
        return page

    @app.http("/nested")
    def nested(request: Request) -> str:
        request.session["pages"].append(2)
        return "appended"

    @app.http("/broken")
    def broken(request: Request) -> None:
        request.session["user"] = "nobody"
        raise LookupError

    @app.http("/without", sessions=False)
    def without(request: Request) -> None:
        request.session["user"] = "nobody"

    return app


async def test_pages_log_in_and_out() -> None:
    store = MemorySessionStore()
    app = site(store)
    async with running(app):
        status, headers, body = await fetched(app, "/login/Ana")
        assert (status, body, headers["vary"], headers["cache-control"]) == (200, "welcome", "Cookie", "no-store")
        cookie = cookie_of(headers)
        status, headers, body = await fetched(app, "/who", cookie)
        assert (body, headers["vary"]) == ('{"user":"Ana"}', "Cookie")
        headers = (await fetched(app, "/logout", cookie))[1]
        assert headers["set-cookie"] == "session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        assert (await fetched(app, "/who", cookie))[2] == '{"user":null}'
    assert len(store) == 0


async def test_a_new_id_ends_the_old_one() -> None:
    store = MemorySessionStore()
    app = site(store)
    async with running(app):
        before = cookie_of((await fetched(app, "/page"))[1])
        after = cookie_of((await fetched(app, "/login/Ana", before))[1])
        assert before != after
        assert (await fetched(app, "/who", before))[2] == '{"user":null}'
        assert (await fetched(app, "/who", after))[2] == '{"user":"Ana"}'
        status, _, _ = await fetched(app, "/nested", after)
        assert status == 200, "the data of the old session is in the new one"
    assert len(store) == 1


async def test_a_change_of_a_nested_value_is_saved() -> None:
    store = MemorySessionStore()
    app = site(store)
    async with running(app):
        cookie = cookie_of((await fetched(app, "/page"))[1])
        await fetched(app, "/nested", cookie)
        assert await store.load(cookie.partition("=")[2]) == Stored({"pages": [1, 2]})


async def test_a_redirect_has_the_cookie() -> None:
    app = site()
    async with running(app):
        status, headers, _ = await fetched(app, "/redirect")
        assert (status, headers["location"]) == (303, "/who")
        assert (await fetched(app, "/who", cookie_of(headers)))[2] == '{"user":"Ben"}'


async def test_a_response_that_is_returned_twice_does_not_keep_a_cookie() -> None:
    app = site()
    async with running(app):
        for _ in range(3):
            async with peer_of(app) as peer:
                await peer.send(get("/page"))
                assert (await peer.read_to_end()).count(b"Set-Cookie: ") == 1


async def test_a_failed_request_saves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = MemorySessionStore()
    app = site(store)
    async with running(app):
        status, headers, _ = await fetched(app, "/broken")
        assert status == 500
        assert "set-cookie" not in headers
        status, headers, _ = await fetched(app, "/without")
        assert status == 500
    assert len(store) == 0
    assert "this route has no sessions: set session_store of the App" in caplog.text


# -- where the middleware is -------------------------------------------------------------------------------------------


async def test_a_refused_handshake_has_the_cookie() -> None:
    class Refusing(MessageComponent):
        async def on_handshake(self, request: Request) -> None:
            request.session["tries"] = request.session.get("tries", 0) + 1
            raise Refuse(403, body=f"try {request.session['tries']}")

    app = App("*", 0)
    app.route("/chat", Refusing(), sessions="memory")
    async with running(app):
        cookie = ""
        for number in 1, 2:
            async with peer_of(app) as peer:
                await peer.send(handshake("/chat", **({"cookie": cookie} if cookie else {})))
                status, headers, body = await peer.response()
            assert (status, body) == (403, f"try {number}\n".encode())
            cookie = cookie_of(headers)


async def test_routes_have_stores_of_their_own() -> None:
    app, recorder = App("*", 0, session_store="memory"), Recorder()
    app.route("/one", Counter())
    app.route("/two", Counter(), sessions=MemorySessionStore(cookie="two"))
    app.route("/three", HandshakeMiddleware(SessionMiddleware(Counter(), MemorySessionStore(cookie="three"))))
    app.route("/none", recorder, sessions=False)
    async with running(app):
        for path, name in ("/one", "session"), ("/two", "two"), ("/three", "three"):
            peer, headers = await opened(app, path)
            assert headers["set-cookie"].startswith(f"{name}=")
            peer.disconnect()
        peer, headers = await opened(app, "/none")
        assert "set-cookie" not in headers
        await recorder.until_called("open")
        with pytest.raises(ConfigurationError, match="this route has no sessions"):
            _ = recorder.conns[0].session
        peer.disconnect()


async def test_a_router_and_an_app_below_the_middleware() -> None:
    router, inner, app = Router("*"), App(), App("*", 0)
    router.route("/chat", Counter())
    router.http("/page/{name}", lambda request: request.session.setdefault("name", request.path_params["name"]))
    inner.route("/chat", Counter())
    app.mount("/router", SessionMiddleware(router, "memory"))
    app.mount("/app", SessionMiddleware(inner, "memory"))
    async with running(app):
        for path in "/router/chat", "/app/chat":
            peer, headers = await opened(app, path)
            assert cookie_of(headers)
            assert (await told(peer, "save"))["messages"] == 1
            peer.disconnect()
        _, headers, body = await fetched(app, "/router/page/Ana")
        assert body == "Ana"
        assert (await fetched(app, "/router/page/Ben", cookie_of(headers)))[2] == "Ana"


async def test_a_mounted_app_has_its_own_store() -> None:
    inner, app = App(session_store=MemorySessionStore(cookie="inner")), App("*", 0)
    inner.route("/chat", Counter())
    app.mount("/in", inner)
    async with running(app):
        peer, headers = await opened(app, "/in/chat")
        assert headers["set-cookie"].startswith("inner=")
        peer.disconnect()


async def test_failures_have_a_status() -> None:
    class Unavailable(MemorySessionStore):
        async def load(self, token: str) -> Stored | None:
            raise OSError("refused")

    app = App("*", 0, session_store="memory")

    @app.http("/ended")
    def ended(request: Request) -> None:
        raise SessionEnded("the user has logged out")

    app.http("/unavailable", lambda request: "page", sessions=Unavailable())
    async with running(app):
        status, _, body = await fetched(app, "/ended", "session=x")
        assert (status, body) == (403, "the session has ended\n")
        status, headers, body = await fetched(app, "/unavailable", "session=x")
        assert (status, body) == (503, "sessions are not available at the moment\n")
        assert headers["retry-after"] == "1"
        assert (await fetched(app, "/unavailable"))[0] == 200, "without a cookie there is nothing to load"


async def test_an_answer_keeps_its_own_cache_control() -> None:
    app = App("*", 0, session_store="memory")

    @app.http("/page", sessions=True)
    def page(request: Request) -> Response:
        request.session["a"] = 1
        return Response("page", headers={"Cache-Control": "private"})

    async with running(app):
        _, headers, _ = await fetched(app, "/page")
    assert (headers["cache-control"], headers["vary"]) == ("private", "Cookie")


class Shared(MemorySessionStore):
    is_shared = True


async def test_workers_need_a_store_that_they_share() -> None:
    outer, inner, shared = App(session_store=Shared()), App(session_store="memory"), App(session_store=Shared())
    outer.mount("/shared", shared)
    with pytest.raises(ConfigurationError, match="an event loop"):
        outer.run(workers=2)
    outer.mount("/in", inner)
    with pytest.raises(ConfigurationError, match="belongs to one process, and workers would each have another one"):
        outer.run(workers=2)


async def test_stores_are_closed_when_the_app_has_ended() -> None:
    class Closing(MemorySessionStore):
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    stores = [Closing() for _ in range(4)]
    app, inner = App("*", 0, session_store=stores[0]), App()
    app.route("/one", Counter(), sessions=stores[1])
    app.route("/again", SessionMiddleware(Counter(), stores[1]))
    app.mount("/two", SessionMiddleware(Router(), stores[2]))
    inner.http("/page", lambda request: "page", sessions=stores[3])
    app.mount("/in", inner)
    async with running(app):
        assert [store.closed for store in stores] == [0, 0, 0, 0]
    assert [store.closed for store in stores] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: App(session_store="mysql://localhost"), "no session store for mysql"),
        (lambda: App(session_store=42), "a session store is a URL or a SessionStore, not 42"),  # type: ignore[arg-type]
        (lambda: App().route("/", Counter(), sessions=True), "sessions=True needs App"),
        (lambda: App().route("/", Counter(), sessions="nothing"), "no session store for a URL without a scheme"),
        (lambda: SessionMiddleware(Counter(), "memory?max_age=long"), "max_age is in seconds"),
        (lambda: SessionMiddleware(Counter(), "memory?sliding=yes"), "sliding is 0 or 1"),
        (lambda: SessionMiddleware(Counter(), "memory?prefix=x"), "have no prefix"),
        (lambda: App(session_store="memory").http("/", 5), "5"),  # type: ignore[call-overload]
        (lambda: SessionCookie(name="a b"), "cannot be the name of a cookie"),
        (lambda: SessionCookie(path="app"), "cannot be the path"),
        (lambda: SessionCookie(path="/;x"), "'/;x' cannot be the path"),
        (lambda: SessionCookie(domain="a;b"), "cannot be the domain"),
        (lambda: SessionCookie(same_site="Lax"), "same_site is"),
        (lambda: SessionCookie(same_site="none", secure=False), "with secure=True only"),
    ],
)
async def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


async def test_the_url_has_options() -> None:
    middleware = SessionMiddleware(Counter(), "memory?max_age=60&sliding=0&cookie=own&max_size=100")
    store = middleware.store
    assert (store.max_age, store.is_sliding, store.cookie.name, store.max_size) == (60, False, "own", 100)
