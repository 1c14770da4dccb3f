"""The App inside an event loop: what is routed on it, where it listens, its hooks and tasks, its end."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
from support.serving import GUARD, TEXT, Recorder, frame
from support.wire import Answer, Peer, get, handshake, peer_of, running
from websockets.sync.client import connect as browser

from pywsapp import (
    App,
    ConfigurationError,
    Connection,
    EchoServer,
    MessageComponent,
    Options,
    Request,
    Response,
)

pytestmark = pytest.mark.anyio


async def asked(app: App, request: bytes) -> Answer:
    async with peer_of(app) as peer:
        await peer.send(request)
        return await peer.answer()


async def status(app: App, path: str = "/", **fields: str) -> int:
    """Try a handshake."""
    async with peer_of(app) as peer:
        await peer.send(handshake(path, **fields))
        return (await peer.head())[0]


class Names(MessageComponent):
    """Greets with a name and what was in the path."""

    def __init__(self, name: str = "default") -> None:
        self.name = name

    def on_open(self, conn: Connection) -> None:
        parameters = " ".join(f"{key}={value!r}" for key, value in conn.request.path_params.items())
        conn.send(f"{self.name} {parameters}".strip())


async def greeting(app: App, path: str, **fields: Any) -> str:
    async with peer_of(app) as peer:
        await peer.open(path, **fields)
        return (await peer.frame())[1].decode()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[str, str, str]:
    """A certificate, its key, and both in one file."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    names = tuple(str(tmp_path / name) for name in ("cert.pem", "key.pem", "both.pem"))
    certificate.cert_chain_pems[0].write_to_path(names[0])
    certificate.private_key_pem.write_to_path(names[1])
    certificate.private_key_and_cert_chain_pem.write_to_path(names[2])
    return names  # type: ignore[return-value]


# -- routes ------------------------------------------------------------------------------------------------------------


async def test_routes_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "app.js").write_text("1")
    app, inner = App("*", 0), App("*")
    shared = app.route("/shared", Names("shared"))
    app.route("/rooms/{name}/{number:int}", Names("rooms"))
    app.route("/fresh", Names)

    @app.route("/decorated")
    class Decorated(Names):
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
    inner.route("/ws", Names("inner"))
    inner.http("/", lambda request: "inner page")
    app.mount("/inner", inner)

    assert isinstance(shared, Names)
    assert Decorated().name == "decorated"
    assert page(Request()) == "page"
    async with running(app):
        assert await greeting(app, "/shared") == "shared"
        assert await greeting(app, "/rooms/lobby/7") == "rooms name='lobby' number=7"
        assert await greeting(app, "/fresh") == "default"
        assert await greeting(app, "/decorated") == "decorated"
        assert await greeting(app, "/inner/ws") == "inner"
        assert (await asked(app, get("/page"))).body == b"page"
        assert (await asked(app, get("/items/7?q=x"))).body == b'{"number":7,"q":"x"}'
        assert (await asked(app, get("/teapot"))).status == 418
        assert (await asked(app, get("/files/app.js"))).body == b"1"
        assert (await asked(app, get("/inner/"))).body == b"inner page"
        assert (await asked(app, get("/nothing"))).status == 404


async def test_class_gives_every_connection_a_component_of_its_own() -> None:
    class Counts(MessageComponent):
        def __init__(self) -> None:
            self.count = 0

        def on_message(self, conn: Connection, message: str) -> None:
            self.count += 1
            conn.send(str(self.count))

    app = App("*", 0)
    app.route("/", Counts)
    async with running(app), peer_of(app) as one, peer_of(app) as two:
        await one.open()
        await two.open()
        await one.send(frame(TEXT) + frame(TEXT))
        await two.send(frame(TEXT))
        assert [(await peer.frame())[1] for peer in (one, one, two)] == [b"1", b"2", b"1"]


async def test_several_apps_on_one_port_by_host() -> None:
    app, blog, rest = App("shop.example", 0), App("blog.example"), App("*")
    app.route("/", Names("shop"))
    blog.route("/", Names("blog"))
    rest.route("/", Names("rest"))
    app.mount("", blog, http_host="blog.example")
    app.mount("", rest, http_host="*")
    app.route("/", Names("news"), http_host="news.example")
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
    async with running(app):
        tried = {
            "same, same": await status(app, "/same", host="here.example", origin="http://here.example"),
            "same, other": await status(app, "/same", host="here.example", origin="http://there.example"),
            "same, none": await status(app, "/same"),
            "any": await status(app, "/any", origin="http://there.example"),
            "some, it": await status(app, "/some", origin="https://page.example"),
            "some, other": await status(app, "/some", origin="https://other.example"),
            "page, none": await status(app, "/page"),
        }
    assert tried == {
        "same, same": 101,
        "same, other": 403,
        "same, none": 101,
        "any": 101,
        "some, it": 101,
        "some, other": 403,
        "page, none": 403,
    }


async def test_subprotocols() -> None:
    class Two(EchoServer):
        subprotocols = ("v2", "v1")

    app = App("*", 0)
    app.route("/own", Two())
    app.route("/route", Two(), subprotocols=["v1", "v2"])
    app.route("/needed", Two(), require_subprotocol=True)

    async def chosen(path: str, **fields: Any) -> str | None:
        async with peer_of(app) as peer:
            return (await peer.open(path, **fields)).get("sec-websocket-protocol")

    async with running(app):
        assert await chosen("/own", sec_websocket_protocol="v1, v2") == "v2", "the server's order"
        assert await chosen("/route", sec_websocket_protocol="v2, v1") == "v1"
        assert await chosen("/own", sec_websocket_protocol="v3") is None
        assert await chosen("/own") is None
        assert await status(app, "/needed") == 426
        assert await status(app, "/needed", sec_websocket_protocol="v1") == 101


async def test_options_of_app_and_route() -> None:
    app = App("*", 0, options=Options(max_message_size=10))
    app.route("/small", EchoServer())
    app.route("/large", EchoServer(), options=Options(max_message_size=100))
    async with running(app), peer_of(app) as small, peer_of(app) as large:
        await small.open("/small", glued=frame(TEXT, b"x" * 50))
        assert (await small.closing())[0] == 1009
        await large.open("/large", glued=frame(TEXT, b"x" * 50))
        assert await large.frame() == (TEXT, b"x" * 50)


async def test_health_check_without_a_host() -> None:
    app = App("*", 0)
    app.http("/health", lambda request: "ok")
    async with running(app):
        assert (await asked(app, b"GET /health HTTP/1.0\r\n\r\n")).body == b"ok"


# -- listening ---------------------------------------------------------------------------------------------------------


async def test_free_port_is_told() -> None:
    app = App(port=0)
    assert (app.port, app.urls) == (0, [])
    async with running(app):
        assert app.port > 0
        assert app.urls == [f"http://localhost:{app.port}"]
    assert app.urls == []


async def test_urls_while_draining() -> None:
    seen: list[Any] = []

    class Looks(MessageComponent):
        def on_close(self, conn: Connection) -> None:
            seen.append((app.port, app.urls))

    app = App(port=0)
    app.route("/", Looks())
    async with running(app), peer_of(app) as peer:
        port = app.port
        await peer.open()
        app.stop()
        await peer.closing()
    assert seen == [(port, [f"http://localhost:{port}"])]


@pytest.mark.parametrize(
    ("host", "address", "shown"),
    [
        ("chat.example", "0.0.0.0", "chat.example"),
        (["a.example", "b.example"], "127.0.0.1", "a.example"),
        ("*", "127.0.0.1", "127.0.0.1"),
        ("*.example", "127.0.0.1", "127.0.0.1"),
        ("::1", "127.0.0.1", "[::1]"),
    ],
)
async def test_urls_have_a_name_that_is_answered_to(host: Any, address: str, shown: str) -> None:
    app = App(host, 0, address)
    async with running(app):
        assert app.urls == [f"http://{shown}:{app.port}"]


async def test_several_listeners(files: tuple[str, str, str], tmp_path: Path) -> None:
    app = App("*", 0, "")  # all interfaces: with IPv6 two sockets
    app.listen("127.0.0.1", 0, tls=files[2])
    app.listen(unix_path=tmp_path / "socket")
    app.route("/", EchoServer())
    async with running(app):
        schemes = [url.partition("://")[0] for url in app.urls]
        assert schemes[-2:] == ["https", f"unix:{tmp_path}/socket"]
        assert set(schemes[:-2]) == {"http"}
        assert await status(app) == 101
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "socket"))
        async with Peer(sock) as peer:
            await peer.open(glued=frame(TEXT, b"over a file"))
            assert await peer.frame() == (TEXT, b"over a file")


async def test_moved_before_it_runs(tmp_path: Path) -> None:
    app = App("*", unix_path=tmp_path / "socket")
    app.move(port=0)
    app.route("/", EchoServer())
    async with running(app):
        assert app.urls == [f"http://127.0.0.1:{app.port}"]
        assert await status(app) == 101
    app.move("localhost")
    async with running(app):
        assert app.urls[0].startswith("http://127.0.0.1:")
    with pytest.raises(ConfigurationError, match="from 0 to 65535"):
        app.move(port=-1)


async def test_unix_socket_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    app = App("*", unix_path=path)
    app.route("/", EchoServer())
    async with running(app):
        assert app.urls == [f"unix:{path}"]
        assert path.is_socket()
    assert not path.exists()


async def test_inherited_socket() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    app = App("*", fd=sock.detach())
    app.route("/", EchoServer())
    async with running(app):
        assert await status(app) == 101


@contextmanager
def page_of(app: App, authority: trustme.CA) -> Iterator[Any]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options: Any = {"ssl": context, "origin": f"https://localhost:{app.port}"}
    with browser(f"wss://localhost:{app.port}/", **options) as page:
        yield page


@pytest.mark.parametrize("kind", ["pair", "path", "one file", "context"])
async def test_tls(kind: str, files: tuple[str, str, str], authority: trustme.CA) -> None:
    certificate, key, both = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    tls: Any = {"pair": (certificate, key), "path": Path(both), "one file": both, "context": context}[kind]
    app = App(port=0, tls=tls)
    app.route("/", EchoServer())
    app.http("/scheme", lambda request: request.scheme)

    def exchange() -> Any:
        with page_of(app, authority) as page:
            page.send("x" * 200_000)
            return page.recv(timeout=GUARD)

    async with running(app):
        assert app.urls == [f"https://localhost:{app.port}"]
        assert await anyio.to_thread.run_sync(exchange) == "x" * 200_000


# -- hooks and tasks ---------------------------------------------------------------------------------------------------


async def test_hooks_in_their_order() -> None:
    calls: list[str] = []
    component = Recorder()
    app = App("*", 0)
    app.route("/", component)

    @app.on_startup
    def first() -> None:
        calls.append(f"first {app.urls}")

    @app.on_startup
    async def second() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("second")

    @app.on_shutdown
    async def third() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append(f"third {component.names()}")

    @app.on_shutdown
    def fourth() -> None:
        calls.append("fourth")

    async with running(app), peer_of(app) as peer:
        assert calls == ["first []", "second"]
        await peer.open()
        app.stop()
        await peer.closing()
    assert calls[2:] == ["third ['open', 'close']", "fourth"]


async def test_failing_startup_ends_everything_with_its_own_exception() -> None:
    calls: list[str] = []
    app = App("*", 0)

    @app.on_startup
    async def fail() -> None:
        raise LookupError("no database")

    app.on_startup(lambda: calls.append("never"))
    app.on_shutdown(lambda: calls.append("shutdown"))
    with pytest.raises(LookupError, match="no database"):
        await app.serve()
    assert calls == ["shutdown"]


async def test_failing_shutdown_is_logged_and_the_next_one_is_called(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    app = App("*", 0)

    @app.on_shutdown
    def fail() -> None:
        raise LookupError("too late")

    app.on_shutdown(lambda: calls.append("second"))
    async with running(app):
        pass
    assert calls == ["second"]
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "fail failed" in record.getMessage()


async def test_shutdown_hook_that_hangs_is_left_behind() -> None:
    app = App("*", 0, options=Options(drain_timeout=0.1))
    app.on_shutdown(anyio.sleep_forever)
    async with running(app):
        pass


async def test_every_goes_on_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    enough = anyio.Event()
    app = App("*", 0)

    @app.every(0.01)
    def plain() -> None:
        calls.append("plain")
        raise LookupError("again")

    @app.every(0.01)
    async def later() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("later")
        if calls.count("later") > 2 and calls.count("plain") > 2:
            enough.set()

    async with running(app):
        await enough.wait()
    assert sum("plain failed" in message for message in caplog.messages) > 2
    count = len(calls)
    await anyio.sleep(0.05)
    assert len(calls) == count, "it ends with the app"


async def test_every_does_not_catch_up() -> None:
    began: list[float] = []
    enough = anyio.Event()
    app = App("*", 0)

    @app.every(0.05)
    async def slow() -> None:
        began.append(anyio.current_time())
        if len(began) == 1:
            await anyio.sleep(0.2)
        if len(began) == 3:
            enough.set()

    async with running(app):
        await enough.wait()
    assert began[1] - began[0] >= 0.19
    assert began[2] - began[1] >= 0.04


@pytest.mark.parametrize("seconds", [0, -1])
def test_every_takes_a_positive_time(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="greater than 0"):
        App().every(seconds)


async def test_start_soon_before_and_while_running(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0)
    calls: list[Any] = []
    both, ended = anyio.Event(), anyio.Event()

    async def background(name: str) -> None:
        calls.append((name, bool(app.urls)))
        if len(calls) == 2:
            both.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def fail() -> None:
        raise LookupError("one task alone")

    app.start_soon(background, "before")
    async with running(app):
        app.start_soon(fail)
        app.start_soon(background, "while")
        await both.wait()
        assert await status(app) == 404
    assert calls == [("before", True), ("while", True)]
    assert ended.is_set()
    assert "fail failed" in caplog.text


async def test_task_of_a_startup_hook_runs_once_each_time() -> None:
    app = App("*", 0)
    calls: list[str] = []

    async def permanent() -> None:
        calls.append("permanent")

    async def own() -> None:
        calls.append("own")

    app.start_soon(permanent)
    app.on_startup(lambda: app.start_soon(own))
    for _ in range(2):
        calls.clear()
        async with running(app):
            await anyio.wait_all_tasks_blocked()
        assert sorted(calls) == ["own", "permanent"]


async def test_task_may_use_connections_until_they_are_drained() -> None:
    component = Recorder()
    app = App("*", 0)
    app.route("/", component)

    async def greet() -> None:
        await component.until_called("open")
        await component.conns[0].send("hello")
        app.stop()

    app.start_soon(greet)
    async with running(app), peer_of(app) as peer:
        await peer.open()
        assert await peer.frame() == (TEXT, b"hello")
        assert (await peer.closing())[0] == 1012


# -- running -----------------------------------------------------------------------------------------------------------


async def test_app_runs_once_at_a_time_and_again() -> None:
    app = App("*", 0)
    app.route("/", EchoServer())
    for _ in range(2):
        async with running(app):
            with pytest.raises(ConfigurationError, match="running already"):
                await app.serve()
            assert await status(app) == 101, "the first one does not mind"


async def test_app_cannot_run_again_before_its_shutdown_is_over() -> None:
    app = App("*", 0)
    failures: list[Exception] = []

    @app.on_shutdown
    async def again() -> None:
        try:
            await app.serve()
        except ConfigurationError as exc:
            failures.append(exc)

    async with running(app):
        pass
    assert "running already" in str(failures)


async def test_stop_during_startup() -> None:
    app = App("*", 0)
    calls: list[str] = []
    started = anyio.Event()

    @app.on_startup
    async def hang() -> None:
        started.set()
        await anyio.sleep_forever()

    app.on_shutdown(lambda: calls.append("shutdown"))
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            await started.wait()
            app.stop()
    assert calls == ["shutdown"]


async def test_stop_in_a_startup_hook() -> None:
    app = App("*", 0)
    app.on_startup(app.stop)
    with anyio.fail_after(GUARD):
        await app.serve()


async def test_stop_before_running_is_forgotten() -> None:
    app = App("*", 0)
    app.route("/", EchoServer())
    app.stop()
    async with running(app):
        assert await status(app) == 101


async def test_cancelling_serve() -> None:
    component = Recorder()
    calls: list[str] = []
    app = App("*", 0)
    app.route("/", component)

    @app.on_shutdown
    async def shutdown() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("shutdown")

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            async with peer_of(app) as peer:
                await peer.open()
                await component.until_called("open")
                tasks.cancel_scope.cancel()
    assert component.names() == ["open", "close"]
    assert calls == ["shutdown"]


async def test_address_in_use_is_one_plain_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigurationError, match="in use; stop the other server") as caught:
            await App("*", taken.getsockname()[1]).serve()
        assert "\n" not in str(caught.value)


async def test_running_is_logged(caplog: pytest.LogCaptureFixture, anyio_backend: Any) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    app = App(port=0)
    async with running(app):
        loop = "uvloop" if anyio_backend[1].get("use_uvloop") else anyio_backend[0]
        assert f"on {loop}: http://localhost:{app.port}" in caplog.text


async def test_run_inside_a_loop_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"use `await app.serve\(\)` instead"):
        App("*", 0).run()


# -- mistakes ----------------------------------------------------------------------------------------------------------


class WrongMessage(MessageComponent):
    def on_message(self, conn: Connection) -> None:  # type: ignore[override]
        """Takes too little."""


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        pytest.param(
            lambda app: [app.route("/twice", EchoServer()) for _ in range(2)], "route twice: '/twice'", id="route twice"
        ),
        pytest.param(
            lambda app: [app.http("/twice", lambda request: "") for _ in range(2)],
            "route twice: '/twice'",
            id="page twice",
        ),
        pytest.param(
            lambda app: app.route("/", WrongMessage()),
            r"WrongMessage\.on_message must take \(self, conn, message\)",
            id="handler of an instance",
        ),
        pytest.param(
            lambda app: app.route("/", WrongMessage),
            r"WrongMessage\.on_message must take \(self, conn, message\)",
            id="handler of a class",
        ),
        pytest.param(lambda app: app.route("/", 7), "needs a MessageComponent", id="no component"),
        pytest.param(lambda app: app.route("/", dict), "subclass of MessageComponent", id="no component class"),
        pytest.param(
            lambda app: app.route("/", EchoServer(), "*"),
            r"allowed_origins is a list: write \['\*'\]",
            id="origins as str",
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), ["https://a.example/"]),
            "without a slash at the end",
            id="origin with a slash",
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), subprotocols="chat"),
            r"subprotocols is a list: write \['chat'\]",
            id="subprotocols as str",
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), http_host="http://a"), "without scheme", id="host with a scheme"
        ),
        pytest.param(
            lambda app: app.route("/", EchoServer(), options={}), "options must be an Options", id="options as dict"
        ),
        pytest.param(lambda app: app.route("no-slash", EchoServer()), "slash", id="path without slash"),
        pytest.param(lambda app: app.http("/", lambda: ""), r"must take \(request\)", id="http handler"),
        pytest.param(lambda app: app.mount("/", app), "mounted on itself", id="mount on itself"),
        pytest.param(lambda app: app.static("/", "/no/such/folder"), "/no/such/folder", id="no folder"),
        pytest.param(lambda app: app.listen(port=70000), "from 0 to 65535, not 70000", id="port too high"),
        pytest.param(lambda app: app.listen(port="8080"), "from 0 to 65535, not '8080'", id="port as str"),
        pytest.param(
            lambda app: app.listen(tls=("missing.pem", "key.pem")),
            r"certificate file 'missing\.pem' does not exist",
            id="no certificate",
        ),
        pytest.param(lambda app: app.listen(tls=7), "tls must be an SSLContext, a PEM file or", id="no tls"),
        pytest.param(lambda app: App(max_connections=0), "max_connections must be 1 or more", id="no room"),
        pytest.param(lambda app: App(http_host=()), "answer to nobody", id="no host"),
        pytest.param(
            lambda app: app.run(backend="gevent"), '"asyncio" or "trio", not \'gevent\'', id="unknown backend"
        ),
        pytest.param(lambda app: app.run(backend="uvloop"), "uvloop=True", id="uvloop as backend"),
        pytest.param(lambda app: app.run(backend="trio", uvloop=True), "remove uvloop=True", id="uvloop on trio"),
    ],
)
def test_mistake_is_explained(mistake: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        mistake(App("*", 0))


async def test_message_that_is_none_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send({"not": "a message"})  # type: ignore[arg-type]

    app = App("*", 0)
    app.route("/", Wrong())
    async with running(app), peer_of(app) as peer:
        await peer.open(glued=frame(TEXT))
        assert (await peer.closing())[0] == 1011
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "str or bytes" in str(record.exc_info[1] if record.exc_info else "")
