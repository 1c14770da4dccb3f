"""Routes of an App: WebSockets, plain HTTP, static files, hosts and origins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.app_client import Greeter, greeting, response_to, status
from support.waiting import until_blocked
from support.wire import peer_of, running

from pywsapp import (
    App,
    Connection,
    EchoServer,
    MessageComponent,
    Options,
    Request,
    Response,
)
from pywsapp.testing import TestClient

pytestmark = pytest.mark.anyio


async def test_routes_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "app.js").write_text("1")
    app, inner = App("*", 0), App("*")
    shared = app.route("/shared", Greeter("shared"))
    app.route("/rooms/{name}/{number:int}", Greeter("rooms"))
    app.route("/fresh", Greeter)

    @app.route("/decorated")
    class Decorated(Greeter):
        def __init__(self) -> None:
            super().__init__("decorated")

    @app.http("/page")
    def page(request: Request) -> str:
        return "page"

    @app.http("/items/{number:int}")
    async def item(request: Request) -> Any:
        await anyio.lowlevel.checkpoint()
        return {"number": request.path_params["number"], "q": request.query_params.get("q")}

    app.http("/teapot", lambda request: Response("short and stout", status=418))
    app.static("/files", tmp_path)
    inner.route("/ws", Greeter("inner"))
    inner.http("/", lambda request: "inner page")
    app.mount("/inner", inner)

    assert isinstance(shared, Greeter)
    assert Decorated().name == "decorated"
    assert page(Request()) == "page"
    greetings = {
        "/shared": "shared",
        "/rooms/lobby/7": "rooms name='lobby' number=7",
        "/fresh": "default",
        "/decorated": "decorated",
        "/inner/ws": "inner",
    }
    async with TestClient(app) as client:
        for path, expected in greetings.items():
            async with client.connect(path) as ws:
                assert await ws.receive() == expected
        assert (await client.get("/page")).text == "page"
        assert (await client.get("/items/7?q=x")).json() == {"number": 7, "q": "x"}
        assert (await client.get("/teapot")).status == 418
        assert (await client.get("/files/app.js")).text == "1"
        assert (await client.get("/inner/")).text == "inner page"
        assert (await client.get("/nothing")).status == 404


async def test_class_gives_every_connection_a_component_of_its_own() -> None:
    class Counts(MessageComponent):
        def __init__(self) -> None:
            self.count = 0

        def on_message(self, conn: Connection, message: str) -> None:
            self.count += 1
            conn.send(str(self.count))

    app = App("*", 0)
    app.route("/", Counts)
    async with TestClient(app) as client, client.connect("/") as one, client.connect("/") as two:
        for ws in one, one, two:
            ws.send("")
        assert [await ws.receive() for ws in (one, one, two)] == ["1", "2", "1"]


async def test_several_apps_on_one_port_by_host() -> None:
    app, blog, rest = App("shop.example", 0), App("blog.example"), App("*")
    app.route("/", Greeter("shop"))
    blog.route("/", Greeter("blog"))
    rest.route("/", Greeter("rest"))
    app.mount("", blog, http_host="blog.example")
    app.mount("", rest, http_host="*")
    app.route("/", Greeter("news"), http_host="news.example")
    async with running(app):
        for host in ("shop", "blog", "news"):
            assert await greeting(app, "/", host=f"{host}.example:{app.port}") == host
        assert await greeting(app, "/", host="other.example") == "rest"


async def test_default_host_is_localhost_or_an_address() -> None:
    app = App(port=0)
    app.route("/", EchoServer())
    async with running(app):
        for host in ("localhost", f"LOCALHOST:{app.port}", "127.0.0.1", "[::1]:8080"):
            assert await status(app, host=host) == 101
        assert await status(app, host="evil.example") == 404


async def test_origins() -> None:
    app = App("*", 0)
    app.route("/same", EchoServer())
    app.route("/any", EchoServer(), ["*"])
    app.route("/some", EchoServer(), ["https://page.example"])
    app.route("/page", EchoServer(), ["*"], require_origin=True)
    accepted: dict[str, list[str | None]] = {
        "/same": ["http://here.example", None],
        "/any": ["http://there.example"],
        "/some": ["https://page.example"],
    }
    refused: dict[str, list[str | None]] = {
        "/same": ["http://there.example"],
        "/some": ["https://other.example"],
        "/page": [None],
    }
    async with TestClient(app, host="here.example") as client:
        for path, origin in [(path, origin) for path, origins in accepted.items() for origin in origins]:
            async with client.connect(path, origin=origin):
                pass
        for path, origin in [(path, origin) for path, origins in refused.items() for origin in origins]:
            await client.assert_refused(path, 403, origin=origin)


async def test_subprotocols() -> None:
    class Two(EchoServer):
        subprotocols = ("v2", "v1")

    app = App("*", 0)
    app.route("/own", Two())
    app.route("/route", Two(), subprotocols=["v1", "v2"])
    app.route("/needed", Two(), require_subprotocol=True)

    async with TestClient(app) as client:

        async def chosen(path: str, *subprotocols: str) -> str | None:
            async with client.connect(path, subprotocols=subprotocols) as ws:
                return ws.subprotocol

        assert await chosen("/own", "v1", "v2") == "v2", "the server's order"
        assert await chosen("/route", "v2", "v1") == "v1"
        assert await chosen("/own", "v3") is None
        assert await chosen("/own") is None
        await client.assert_refused("/needed", 426)
        assert await chosen("/needed", "v1") == "v1"


async def test_options_of_app_and_route() -> None:
    app = App("*", 0, options=Options(max_message_size=10))
    app.route("/small", EchoServer())
    app.route("/large", EchoServer(), options=Options(max_message_size=100))
    async with TestClient(app) as client, client.connect("/small") as small, client.connect("/large") as large:
        small.send("x" * 50)
        await small.assert_closed(1009)
        large.send("x" * 50)
        assert await large.receive() == "x" * 50


async def test_health_check_without_a_host() -> None:
    app = App("*", 0)
    app.http("/health", lambda request: "ok")
    async with running(app):
        assert (await response_to(app, b"GET /health HTTP/1.0\r\n\r\n")).body == b"ok"


# -- methods and bodies of plain HTTP ----------------------------------------------------------------------------------


async def test_http_handler_reads_the_body_of_a_post() -> None:
    app = App("*", 0)

    @app.http("/hook", methods=["POST", "put"])
    async def hook(request: Request) -> str:
        return f"{request.method} {(await request.read(10)).decode()}"

    @app.http("/hook")
    def page(request: Request) -> str:
        return "page"

    async with TestClient(app) as client:
        assert (await client.post("/hook", body="hello")).text == "POST hello"
        assert (await client.request("PUT", "/hook")).text == "PUT "
        assert (await client.post("/hook", body="x" * 11)).status == 413
        assert (await client.get("/hook")).text == "page"
        refused = await client.request("DELETE", "/hook")
    assert (refused.status, refused.headers["allow"]) == (405, "POST, PUT, GET, HEAD")


async def test_http_handler_reads_a_body_that_comes_later() -> None:
    app = App("*", 0)

    @app.http("/hook", methods=["POST"])
    async def hook(request: Request) -> bytes:
        return await request.read()

    async with running(app), peer_of(app) as peer:
        await peer.send(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await until_blocked()
        await peer.send(b"def")
        assert (await peer.response()).body == b"abcdef"


# -- names of this machine ---------------------------------------------------------------------------------------------

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize("http_host", [*LOOPBACK, ["chat.example", "127.0.0.1"]])
async def test_names_of_this_machine_are_one_name(http_host: Any) -> None:
    app = App(http_host, 0)
    app.route("/", EchoServer())
    async with running(app):
        for host in LOOPBACK:
            for page in LOOPBACK:
                origin = f"http://{page}:{app.port}"
                assert await status(app, host=f"{host}:{app.port}", origin=origin) == 101, (host, page)
            assert await status(app, host=f"{host}:{app.port}", origin=f"http://{host}:{app.port + 1}") == 403
            assert await status(app, host=f"{host}:{app.port}", origin=f"http://evil.example:{app.port}") == 403
        assert await status(app, host="evil.example") == 404


async def test_pages_of_this_machine_are_no_pages_of_another_name() -> None:
    app = App("chat.example", 0)
    app.route("/", EchoServer())
    async with running(app):
        for page in LOOPBACK:
            assert await status(app, host=f"chat.example:{app.port}", origin=f"http://{page}:{app.port}") == 403
