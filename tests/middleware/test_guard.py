"""One handshake middleware guards everything below it: handshakes and plain HTTP, of a folder, a router or an App."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from support.serving import Recorder
from support.wire import get, handshake, peer_of, running

from pywsapp import (
    App,
    ComponentMiddleware,
    ConfigurationError,
    EchoServer,
    HandshakeMiddleware,
    OriginCheck,
    Refuse,
    Request,
    Router,
    StaticFolder,
    in_thread,
)

pytestmark = pytest.mark.anyio


class Guard(HandshakeMiddleware):
    """Accepts requests with a ticket."""

    def check(self, request: Request) -> Any:
        if request.query_string != "ticket":
            raise Refuse(403)


class AsyncGuard(Guard):
    async def check(self, request: Request) -> Any:
        await anyio.lowlevel.checkpoint()
        super().check(request)


class ThreadGuard(Guard):
    check = in_thread(Guard.check)


class AroundGuard(ComponentMiddleware):
    check = Guard.check


GUARDS = [Guard, AsyncGuard, ThreadGuard, AroundGuard]


def inner_app(folder: Path) -> App:
    app = App()
    app.route("/chat", EchoServer(), allowed_origins=["*"])
    app.http("/page", lambda request: "secret")
    app.http("/page", lambda request: "secret", methods=["POST"])
    app.static("/files", folder)
    return app


def inner_router(folder: Path) -> Router:
    router = Router("*")
    router.route("/chat", EchoServer())
    router.http("/page", lambda request: "secret", methods=["GET", "POST"])
    router.mount("/files", StaticFolder(folder))
    return router


async def status(app: App, request: bytes) -> int:
    async with peer_of(app) as peer:
        await peer.send(request)
        return (await peer.head())[0]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("inner", [inner_app, inner_router])
async def test_everything_below_a_guard_is_checked(guard: Any, inner: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    app = App("*", 0)
    app.mount("/in", guard(inner(tmp_path)))
    async with running(app):
        for path in "/in/page", "/in/files/a.txt", "/in/chat", "/in/nothing":
            for method in "GET", "HEAD", "POST":
                assert await status(app, get(path, method)) == 403, (method, path)
            assert await status(app, handshake(path)) == 403, path
        for path in "/in/page", "/in/files/a.txt":
            assert await status(app, get(path + "?ticket")) == 200, path
        assert await status(app, get("/in/page?ticket", "POST")) == 200
        assert await status(app, handshake("/in/chat?ticket")) == 101


async def test_a_guard_around_a_route_checks_plain_requests_too() -> None:
    app = App("*", 0)
    app.route("/chat", Guard(EchoServer()))
    async with running(app):
        assert await status(app, get("/chat")) == 403
        assert await status(app, get("/chat?ticket")) == 426


async def test_a_middleware_with_authenticate_is_a_guard() -> None:
    class ByName(HandshakeMiddleware):
        def authenticate(self, request: Request) -> str | None:
            return request.query_string or None

    app = App("*", 0)
    app.route("/chat", ByName(EchoServer()))
    async with running(app):
        assert await status(app, handshake("/chat")) == 401
        assert await status(app, handshake("/chat?ana")) == 101
        assert await status(app, get("/chat")) == 401


async def test_an_origin_check_is_for_handshakes_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("page")
    app = App("*", 0)
    app.mount("/in", OriginCheck(StaticFolder(tmp_path), require_origin=True))
    async with running(app):
        assert await status(app, get("/in/a.txt")) == 200
        assert await status(app, handshake("/in/a.txt")) == 403


async def test_an_app_inside_of_middleware_becomes_part_of_the_outer_app(tmp_path: Path) -> None:
    inner, outer, recorder = inner_app(tmp_path), App("*", 0), Recorder()
    inner.on_startup(lambda: recorder.record("startup"))
    inner.on_shutdown(lambda: recorder.record("shutdown"))
    outer.mount("/a", Guard(AsyncGuard(inner)))
    outer.mount("/b", inner)
    async with running(outer):
        assert await status(outer, get("/a/page?ticket")) == 200
        assert await status(outer, get("/a/page")) == 403
        assert await status(outer, get("/b/page")) == 200
    assert recorder.names() == ["startup", "shutdown"]
    assert inner.topics is outer.topics


def test_a_guarded_app_cannot_be_routed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="mounted, not routed"):
        App().route("/in", Guard(inner_app(tmp_path)))
