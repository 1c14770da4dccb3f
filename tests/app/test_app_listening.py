"""Where an App listens: ports, addresses, Unix sockets, inherited sockets and TLS."""

from __future__ import annotations

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
from support.app_client import status
from support.serving import GUARD, TEXT, frame
from support.wire import Peer, peer_of, running
from websockets.sync.client import connect as browser

from pywsapp import (
    App,
    ConfigurationError,
    Connection,
    EchoServer,
    MessageComponent,
)

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
