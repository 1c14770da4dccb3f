"""Where an App listens: ports, addresses, Unix sockets, inherited sockets and TLS."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trustme
import websocket
from support.app_client import response_to, status
from support.serving import GUARD, TEXT, frame
from support.wire import Peer, get, peer_of, running

from pywsapp import (
    App,
    ConfigurationError,
    Connection,
    EchoServer,
    MessageComponent,
    Request,
)
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


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


async def test_free_port_is_known_while_running() -> None:
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
        await peer.receive_close()
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
async def test_urls_contain_a_name_that_the_app_answers_to(host: Any, address: str, shown: str) -> None:
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
            await peer.open(trailing=frame(TEXT, b"over a file"))
            assert await peer.frame() == (TEXT, b"over a file")


async def test_rebind_before_it_runs(tmp_path: Path) -> None:
    app = App("*", unix_path=tmp_path / "socket")
    app.rebind(port=0)
    app.route("/", EchoServer())
    async with running(app):
        assert app.urls == [f"http://127.0.0.1:{app.port}"]
        assert await status(app) == 101
    app.rebind("localhost")
    async with running(app):
        assert app.urls[0].startswith("http://127.0.0.1:")
    with pytest.raises(ConfigurationError, match="from 0 to 65535"):
        app.rebind(port=-1)


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
    # Not websockets: its client reads and writes one TLS object in two threads, which can crash Python 3.11.
    page = websocket.create_connection(
        f"wss://localhost:{app.port}/",
        timeout=GUARD,
        sslopt={"context": context},
        origin=f"https://localhost:{app.port}",
    )
    with closing(page):
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
            return page.recv()

    async with running(app):
        assert app.urls == [f"https://localhost:{app.port}"]
        assert await anyio.to_thread.run_sync(exchange) == "x" * 200_000


async def test_rebind_to_a_socket_and_with_tls(files: tuple[str, str, str], tmp_path: Path) -> None:
    app = App("*", 0)
    app.route("/", EchoServer())
    app.rebind(tls=files[2])
    async with running(app):
        assert app.urls == [f"https://127.0.0.1:{app.port}"]
    app.rebind(unix_path=tmp_path / "socket")
    async with running(app):
        assert app.urls == [f"unix:{tmp_path}/socket"]
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    app.rebind(fd=sock.detach())
    async with running(app):
        assert app.urls == [f"https://127.0.0.1:{port}"]


async def test_configured_before_it_runs() -> None:
    app = App("old.example", 0)
    app.route("/", EchoServer())
    app.route("/fixed", EchoServer(), http_host="fixed.example")
    app.http("/who", lambda request: request.remote_address)
    app.configure(http_host="new.example", trusted_proxies=["127.0.0.1"], broker=MemoryBroker(), broker_key="secret")
    async with running(app):
        assert app.urls == [f"http://new.example:{app.port}"]
        assert await status(app, host="new.example") == 101
        assert await status(app, host="old.example") == 404
        assert await status(app, "/fixed", host="fixed.example") == 101
        who = b"GET /who HTTP/1.1\r\nHost: new.example\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
        assert (await response_to(app, who)).body == b"192.0.2.7"
        assert app.topics.stats.broker is not None
        with pytest.raises(ConfigurationError, match="running already"):
            app.configure(access_log=True)


def test_a_broker_without_history_cannot_replace_one_with_history() -> None:
    app = App()
    app.history("room:*")
    with pytest.raises(ConfigurationError, match="keeps no history"):
        app.configure(broker="nats://localhost")
    with pytest.raises(ConfigurationError, match="key is empty"):
        app.configure(broker_key="")


async def test_access_log_is_an_option(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pywsapp.access")
    for access_log in (False, True):
        caplog.clear()
        app = App("*", 0, access_log=access_log)
        app.http("/page", lambda request: "page")
        async with running(app):
            await response_to(app, get("/page"))
        assert any(record.name == "pywsapp.access" for record in caplog.records) is access_log


async def test_components_see_the_app() -> None:
    seen: list[Any] = []
    app = App("*", 0)

    @app.http("/page")
    def page(request: Request) -> str:
        seen.append(request.app)
        return "page"

    async with running(app):
        await response_to(app, get("/page"))
    assert seen == [app]
