"""`authenticate` of a component, a route, a mount or an App: it guards handshakes, pages, files and posts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from support.serving import frame
from support.wire import Peer, get, handshake, peer_of, running

from pywsapp import (
    Accept,
    App,
    ComponentMiddleware,
    Connection,
    HandshakeMiddleware,
    InvalidCredentials,
    IpBlackList,
    MessageComponent,
    Refuse,
    Request,
    Response,
    Router,
    in_thread,
)
from pywsapp._access import ask_handler
from pywsapp.auth import Authenticated, public

pytestmark = pytest.mark.anyio


def by_name(request: Request) -> Any:
    """Accept requests whose query string names a user."""
    return request.query_string or None


async def by_name_later(request: Request) -> Any:
    await anyio.lowlevel.checkpoint()
    return by_name(request)


def never(request: Request) -> Any:
    raise AssertionError("another guard decides")


class Members(MessageComponent):
    """Sends the name of the user."""

    def on_open(self, conn: Connection) -> None:
        conn.send(f"user {conn.user}")

    def on_request(self, request: Request) -> Response:
        return Response(f"user {request.user}")


class OwnGuard(Members):
    def authenticate(self, request: Request) -> Any:
        return by_name(request)


class OwnAsyncGuard(Members):
    async def authenticate(self, request: Request) -> Any:
        return await by_name_later(request)


class OwnThreadGuard(Members):
    @in_thread
    def authenticate(self, request: Request) -> Any:
        return by_name(request)


class OwnObject(Members):
    authenticate = public


async def status(app: App, request: bytes) -> int:
    async with peer_of(app) as peer:
        await peer.send(request)
        return (await peer.head())[0]


async def greeting(peer: Peer) -> str:
    return (await peer.frame())[1].decode()


async def greeted(app: App, path: str) -> str:
    """Return what a component sends when a connection opens."""
    async with peer_of(app) as peer:
        await peer.open(path)
        return await greeting(peer)


def app_with(route: Callable[[App], object], **arguments: Any) -> App:
    app = App("*", 0, **arguments)
    route(app)
    return app


ROUTES: dict[str, Callable[[Any], App]] = {
    "component": lambda _: app_with(lambda app: app.route("/x", OwnGuard())),
    "class": lambda _: app_with(lambda app: app.route("/x", OwnGuard)),
    "function": lambda _: app_with(lambda app: app.route("/x", lambda: OwnGuard())),
    "async": lambda _: app_with(lambda app: app.route("/x", OwnAsyncGuard())),
    "thread": lambda _: app_with(lambda app: app.route("/x", OwnThreadGuard())),
    "middleware": lambda _: app_with(lambda app: app.route("/x", ComponentMiddleware(IpBlackList(OwnGuard())))),
    "route": lambda guard: app_with(lambda app: app.route("/x", Members(), authenticate=guard)),
    "decorator": lambda guard: app_with(lambda app: app.route("/x", authenticate=guard)(Members)),
    "mount": lambda guard: app_with(lambda app: app.mount("", inner_app(), authenticate=guard)),
    "app": lambda guard: app_with(lambda app: app.route("/x", Members()), authenticate=guard),
    "mounted app": lambda guard: app_with(lambda app: app.mount("", inner_app(authenticate=guard))),
    "wrapped app": lambda guard: app_with(lambda app: app.mount("", IpBlackList(inner_app(authenticate=guard)))),
    "router": lambda guard: app_with(lambda app: app.mount("", inner_router(guard))),
}


def inner_app(**arguments: Any) -> App:
    return app_with(lambda app: app.route("/x", Members()), **arguments)


def inner_router(guard: Any) -> Router:
    router = Router("*", authenticate=guard)
    router.route("/x", Members())
    return router


@pytest.mark.parametrize("guard", [by_name, by_name_later])
@pytest.mark.parametrize("place", ROUTES)
async def test_a_guard_decides_and_names_the_user(place: str, guard: Any) -> None:
    app = ROUTES[place](guard)
    async with running(app):
        assert await status(app, handshake("/x")) == 401
        assert await status(app, get("/x")) == 401
        assert await greeted(app, "/x?ana") == "user ana"
        async with peer_of(app) as peer:
            await peer.send(get("/x?ana"))
            assert (await peer.response()).body == b"user ana"


@pytest.mark.parametrize("guard", [by_name, by_name_later])
async def test_a_guard_of_an_app_covers_pages_files_posts_and_what_does_not_exist(guard: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "folder").mkdir()
    app = App("*", 0, authenticate=guard)
    app.route("/chat", Members())
    app.http("/page", lambda request: "secret")
    app.http("/page", lambda request: "secret", methods=["POST"])
    app.static("/files", tmp_path)
    app.health()
    async with running(app):
        for path in "/page", "/files/a.txt", "/files", "/files/folder", "/chat", "/nothing":
            for method in "GET", "HEAD", "POST", "PUT":
                assert await status(app, get(path, method)) == 401, (method, path)
            assert await status(app, handshake(path)) == 401, path
        assert await status(app, get("/health")) == 200
        assert await status(app, get("/page?ana")) == 200
        assert await status(app, get("/page?ana", "POST")) == 200
        assert await status(app, get("/page?ana", "PUT")) == 405
        assert await status(app, get("/files/a.txt?ana")) == 200
        assert await status(app, get("/files?ana")) == 308
        assert await status(app, get("/nothing?ana")) == 404
        assert await status(app, handshake("/page?ana")) == 404


async def test_the_innermost_guard_decides_alone() -> None:
    app = App("*", 0, authenticate=never)
    app.route("/route", Members(), authenticate=by_name)
    app.route("/own", OwnGuard())
    app.route("/factory", lambda: OwnGuard(), authenticate=never)
    app.http("/page", lambda request: f"user {request.user}", authenticate=by_name)
    app.mount("/mount", inner_app(), authenticate=by_name)
    app.mount("/inner", inner_app(authenticate=by_name), authenticate=never)
    async with running(app):
        for path in "/route", "/own", "/factory", "/mount/x", "/inner/x":
            assert await status(app, handshake(path)) == 401, path
            assert await greeted(app, path + "?ana") == "user ana", path
        assert await status(app, get("/page")) == 401
        assert await status(app, get("/page?ana")) == 200


@pytest.mark.parametrize("later", [False, True])
async def test_a_guard_by_session_refuses_unknown_paths(later: bool, caplog: pytest.LogCaptureFixture) -> None:
    def by_session(request: Request) -> Any:
        return request.session.get("user")

    async def by_session_later(request: Request) -> Any:
        await anyio.lowlevel.checkpoint()
        return by_session(request)

    app = App("*", 0, session_store="memory", authenticate=by_session_later if later else by_session)
    app.route("/x", Members())
    app.http("/page", lambda request: "secret")
    async with running(app):
        for request in (
            *(handshake(path) for path in ("/x", "/page", "/nothing")),
            *(get(path, method) for path in ("/x", "/page", "/nothing") for method in ("GET", "POST")),
        ):
            assert await status(app, request) == 401, request
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_guard_of_a_mount_is_not_that_of_its_neighbours() -> None:
    app = App("*", 0)
    app.http("/page", lambda request: "page", methods=["POST"])
    app.mount("", inner_app(), authenticate=never)
    async with running(app):
        assert await status(app, get("/page", "POST")) == 200
        assert await status(app, get("/page")) == 405


async def test_shared_caches_do_not_store_what_a_user_may_see(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    app = App("*", 0, authenticate=by_name)
    app.static("/files", tmp_path, cache_seconds=60)
    app.static("/open", tmp_path, cache_seconds=60, authenticate=public)
    app.http("/page", lambda request: "secret")
    app.http("/own", lambda request: Response("secret", headers={"Cache-Control": "no-store"}))
    expected = {
        "/files/a.txt?ana": "private, max-age=60",
        "/open/a.txt": "public, max-age=60",
        "/page?ana": "private",
        "/own?ana": "no-store",
    }
    async with running(app):
        for path, cache_control in expected.items():
            async with peer_of(app) as peer:
                await peer.send(get(path))
                assert (await peer.head())[1]["cache-control"] == cache_control


async def test_public_opens_a_route_below_a_guard() -> None:
    app = App("*", 0, authenticate=by_name)
    app.route("/route", Members(), authenticate=public)
    app.route("/own", OwnObject())
    app.http("/page", lambda request: f"user {request.user}", authenticate=public)
    app.mount("/mount", inner_app(), authenticate=public)
    app.route("/maybe", Members(), authenticate=lambda request: request.query_string or public(request))
    async with running(app):
        for path in "/route", "/own", "/mount/x", "/maybe":
            assert await greeted(app, path) == "user None", path
        assert await greeted(app, "/maybe?ana") == "user ana"
        assert await status(app, get("/page")) == 200


async def test_the_origin_and_the_address_come_before_the_guard_and_on_handshake_after_it() -> None:
    order: list[str] = []

    class Recording(MessageComponent):
        def authenticate(self, request: Request) -> str:
            order.append("authenticate")
            return "ana"

        def on_handshake(self, request: Request) -> None:
            order.append(f"on_handshake {request.user}")

    app = App("*", 0)
    app.route("/x", Recording())
    app.route("/blocked", IpBlackList(Recording(), ["127.0.0.1"]))
    async with running(app):
        assert await status(app, handshake("/x", origin="http://evil.example")) == 403
        assert await status(app, handshake("/blocked")) == 403
        assert order == []
        assert await status(app, handshake("/x")) == 101
        assert order == ["authenticate", "on_handshake ana"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, 401),
        ("", 401),
        (Authenticated(None), 401),
        (Authenticated(""), 401),
        (True, 500),
        (False, 500),
        (Refuse(403), 500),
        (Response("page"), 500),
        (Accept(), 500),
        (0, 101),
        ({}, 101),
        (Authenticated("ana", subject="1"), 101),
    ],
)
async def test_what_is_no_user_is_refused(found: Any, expected: int) -> None:
    app = App("*", 0, authenticate=lambda request: found)
    app.route("/x", Members())
    async with running(app):
        assert await status(app, handshake("/x")) == expected
        assert await status(app, get("/x")) == (200 if expected == 101 else expected)


async def test_a_guard_can_refuse_with_any_status_and_a_challenge() -> None:
    def guard(request: Request) -> Any:
        if request.query_string == "bearer":
            raise InvalidCredentials("log in", 'Bearer realm="chat"')
        raise Refuse(403)

    app = App("*", 0, authenticate=guard)
    app.route("/x", Members())
    async with running(app):
        assert await status(app, handshake("/x")) == 403
        async with peer_of(app) as peer:
            await peer.send(handshake("/x?bearer"))
            response = await peer.response()
        assert (response.status, response.body) == (401, b"log in\n")
        assert response.headers["www-authenticate"] == 'Bearer realm="chat"'


async def test_an_exception_of_a_guard_refuses(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0, authenticate=lambda request: request.headers["user"])
    app.route("/x", Members())
    async with running(app):
        assert await status(app, handshake("/x")) == 500
        assert await status(app, get("/x")) == 500
    assert "KeyError: 'user'" in caplog.text


# -- components that pass requests on --------------------------------------------------------------------------------


class Choosing(MessageComponent):
    """Hands connections over to another component, without asking it."""

    def __init__(self, chosen: MessageComponent, *, later: bool = False) -> None:
        self._chosen = chosen
        self._later = later

    def on_handshake(self, request: Request) -> Any:
        accept = Accept(component=self._chosen)
        return self._wait(accept) if self._later else accept

    async def _wait(self, accept: Accept) -> Accept:
        await anyio.lowlevel.checkpoint()
        return accept


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", [OwnGuard, OwnAsyncGuard])
async def test_the_guard_of_a_component_that_an_accept_names_decides(kind: Any, later: bool) -> None:
    app = App("*", 0)
    app.route("/x", Choosing(kind(), later=later))
    app.route("/y", Choosing(kind(), later=later), authenticate=lambda request: "bob")
    async with running(app):
        for path in "/x", "/y":
            assert await status(app, handshake(path)) == 401, path
            assert await greeted(app, path + "?ana") == "user ana"


async def test_a_middleware_that_answers_itself_is_below_the_guard_too() -> None:
    class Answering(HandshakeMiddleware):
        def on_request(self, request: Request) -> Response:
            return Response("secret")

        def on_handshake(self, request: Request) -> Accept:
            return Accept(component=Members())

    app = App("*", 0, authenticate=by_name_later)
    app.mount("/x", Answering(Members()))
    async with running(app):
        assert await status(app, get("/x")) == 401
        assert await status(app, get("/x/page")) == 401
        assert await status(app, handshake("/x")) == 401
        assert await status(app, get("/x/page?ana")) == 200
        assert await status(app, handshake("/x?ana")) == 101


async def test_a_function_around_a_handler_can_prepare_the_request_for_the_guard() -> None:
    def handler(request: Request) -> str:
        return f"user {request.user}"

    async def prepared(request: Request) -> Any:
        request.state.name = request.headers.get("x-name")
        found = ask_handler(handler, request)
        return await found if inspect.isawaitable(found) else found

    async def forgetful(request: Request) -> str:
        return "secret"

    prepared._passes_on = forgetful._passes_on = True  # type: ignore[attr-defined]
    app = App("*", 0, authenticate=lambda request: getattr(request.state, "name", None))
    app.http("/page", prepared)
    app.http("/forgetful", forgetful)
    async with running(app):
        async with peer_of(app) as peer:
            await peer.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\nX-Name: ana\r\n\r\n")
            assert (await peer.response()).body == b"user ana"
        assert await status(app, get("/page")) == 401
        assert await status(app, get("/forgetful")) == 401


async def test_a_middleware_can_be_a_guard() -> None:
    class Guard(HandshakeMiddleware):
        def authenticate(self, request: Request) -> Any:
            return by_name(request)

    app = App("*", 0, authenticate=never)
    app.route("/x", Guard(Members()))
    app.mount("/in", Guard(inner_app()))
    async with running(app):
        for path in "/x", "/in/x", "/in/nothing":
            assert await status(app, handshake(path)) == 401
            assert await status(app, get(path)) == 401
        for path in "/x", "/in/x":
            assert await greeted(app, path + "?ana") == "user ana"


# -- the user --------------------------------------------------------------------------------------------------------


async def test_the_user_is_there_in_every_hook() -> None:
    seen: list[Any] = []

    class Watching(MessageComponent):
        def authenticate(self, request: Request) -> Any:
            request.state.color = "red"
            return ("ana", 7)

        def on_handshake(self, request: Request) -> None:
            seen.append(request.user)

        def on_open(self, conn: Connection) -> None:
            seen.append((conn.user, conn.state.color, "user" in repr(conn.state)))

        def on_message(self, conn: Connection, message: Any) -> None:
            conn.refresh_user("bob")
            conn.send("done")

        def on_close(self, conn: Connection) -> None:
            seen.append(conn.user)

    app = App("*", 0)
    app.mount("/in", app_with(lambda inner: inner.route("/x", Watching())))
    async with running(app), peer_of(app) as peer:
        await peer.open("/in/x", frame(1, b"go"))
        assert await greeting(peer) == "done"
    assert seen == [("ana", 7), (("ana", 7), "red", False), "bob"]


async def test_without_a_guard_there_is_no_user_and_nothing_is_kept() -> None:
    requests: list[Request] = []
    app = App("*", 0)
    app.http("/x", lambda request: requests.append(request))
    async with running(app):
        assert await status(app, get("/x")) == 204
    assert requests[0].user is None
    assert requests[0].client_certificate is None
    assert requests[0]._state is None


def test_a_request_made_by_hand_has_a_user() -> None:
    request = Request(user="ana")
    assert request.user == "ana"
    request.state.color = "red"
    assert request.user == "ana"
    with pytest.raises(AttributeError):
        request.user = "bob"  # type: ignore[misc]
