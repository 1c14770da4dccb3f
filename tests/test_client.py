"""`run_client`: the client role against our own server, against `websockets`, and against servers that are no good."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from support.serving import GUARD, Recorder
from support.wire import Site, running
from websockets.sync.server import ServerConnection, serve

from pywsapp import (
    App,
    ConfigurationError,
    Connection,
    Deflate,
    HandshakeError,
    MessageComponent,
    Options,
    Refuse,
    run_client,
)

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
QUICK = Options(handshake_timeout=0.2)


class Asks(Recorder):
    """Sends messages, and closes when as many have come back."""

    def __init__(self, *messages: str | bytes) -> None:
        super().__init__()
        self.messages = messages
        self.answers: list[str | bytes] = []

    def on_open(self, conn: Connection) -> None:
        super().on_open(conn)
        for message in self.messages:
            conn.send(message)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        self.answers.append(message)
        if len(self.answers) == len(self.messages):
            conn.close(4000, "enough")


class Server(Recorder):
    """Echoes, and keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def on_handshake(self, request: Any) -> None:
        self.requests.append(request)
        if request.path == "/no":
            raise Refuse(403, body="not you")

    def on_message(self, conn: Connection, message: Any) -> None:
        conn.send(message)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def echoing(component: MessageComponent | None = None, **options: Any) -> AsyncIterator[App]:
    app = App("*", 0, **options)
    app.route("/{rest:path}", component or Server(), allowed_origins=["*"])
    async with running(app):
        yield app


@contextmanager
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that reads a request, sends what it is told to, and ends."""
    with silent() as listening:

        def run() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):  # who has read enough goes away
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, run)
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"


# -- our own server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [None, Deflate(threshold=0)])
async def test_exchange_and_close_of_both_roles(deflate: Deflate | None) -> None:
    options = Options(deflate=deflate, max_message_size=2 * MIB, max_frame_size=2 * MIB, max_outbox=8 * MIB)
    messages = ("text", "grüße 👋", b"\x00\xff", b"", "x" * MIB)
    server, client = Server(), Asks(*messages)
    async with echoing(server, options=options) as app:
        conn = await run_client(client, f"ws://127.0.0.1:{app.port}/", options=options)
        assert client.answers == list(messages)
        assert (conn.close_code, conn.close_reason, conn.was_clean, conn.closed) == (4000, "enough", True, True)
        assert client.calls == [("open",), ("close", 4000, "enough", True)]
        await server.until_called("close")
        assert server.calls == [("open",), ("close", 4000, "enough", True)]


async def test_request_carries_what_is_asked_for() -> None:
    class Two(Server):
        subprotocols = ("v2", "v1")

    server = Two()
    async with echoing(server) as app:
        conn = await run_client(
            Asks("x"),
            f"ws://localhost:{app.port}/a%20b?c=d",
            subprotocols=["v1", "v2"],
            headers={"Authorization": "Bearer token", "Cookie": "a=b"},
            origin="https://page.example",
        )
        (request,) = server.requests
        assert (request.host, request.port, request.scheme) == ("localhost", app.port, "http")
    assert (request.path, request.query_params["c"], request.cookies) == ("/a b", "d", {"a": "b"})
    assert request.headers["authorization"] == "Bearer token"
    assert request.headers["origin"] == "https://page.example"
    assert request.subprotocols == ("v1", "v2")
    assert conn.subprotocol == "v2"
    assert (conn.request.path, conn.request.query_string, conn.request.scheme) == ("/a b", "c=d", "http")
    assert (conn.request.subprotocols, conn.remote_address) == (("v1", "v2"), "127.0.0.1")


async def test_server_closes_first() -> None:
    class Leaves(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.send("bye")
            conn.close(4001, "leaving")

    client = Recorder()
    async with echoing(Leaves()) as app:
        conn = await run_client(client, f"ws://127.0.0.1:{app.port}/")
    assert client.calls == [("open",), ("message", "bye"), ("close", 4001, "leaving", True)]
    assert (conn.close_code, conn.was_clean) == (4001, True)


@pytest.mark.parametrize("kind", [Recorder, lambda: Recorder()])
async def test_class_or_factory_makes_the_component(kind: Any) -> None:
    class Leaves(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.close()

    async with echoing(Leaves()) as app:
        assert (await run_client(kind, f"ws://127.0.0.1:{app.port}/")).close_code == 1000


async def test_wss(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    server, client = Server(), Asks("x" * MIB)
    async with echoing(server, tls=server_tls, options=Options(max_outbox=2 * MIB)) as app:
        conn = await run_client(
            client, f"wss://localhost:{app.port}/", tls=client_tls, options=Options(max_outbox=2 * MIB)
        )
        assert client.answers == ["x" * MIB]
        assert (conn.close_code, conn.was_clean, conn.request.scheme) == (4000, True, "https")
        assert server.requests[0].scheme == "https"


async def test_unix_socket(tmp_path: Path) -> None:
    server = Server()
    async with echoing(server, unix_path=tmp_path / "socket"):
        conn = await run_client(Asks("x"), "ws://chat.example/room", unix_path=tmp_path / "socket")
        assert conn.close_code == 4000
    assert (server.requests[0].host, server.requests[0].path, conn.remote_address) == ("chat.example", "/room", "")


async def test_cancelling_drops_the_connection_and_calls_on_close() -> None:
    server, client = Server(), Recorder()
    async with echoing(server) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(run_client, client, f"ws://127.0.0.1:{app.port}/")
        await client.until_called("open")
        tasks.cancel_scope.cancel()
    assert [call[:2] for call in client.calls] == [("open",), ("close", 1006)]
    await server.until_called("close")


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_cancelling_as_asyncio_does() -> None:
    client = Recorder()
    async with echoing() as app:
        task = asyncio.create_task(run_client(client, f"ws://127.0.0.1:{app.port}/"))
        await client.until_called("open")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.names() == ["open", "close"]


# -- refused, unreachable, too slow: always one plain exception, never a group ---------------------------------------


async def test_refused() -> None:
    client = Recorder()
    async with echoing() as app:
        with pytest.raises(HandshakeError, match="403") as caught:
            await run_client(client, f"ws://127.0.0.1:{app.port}/no")
    assert caught.value.status == 403
    assert client.calls == []


@pytest.mark.parametrize("url", ["ws://127.0.0.1:{}/", "wss://127.0.0.1:{}/"])
async def test_nobody_listens(url: str) -> None:
    with silent() as sock:
        port = sock.getsockname()[1]
    with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
        await run_client(Recorder(), url.format(port))


async def test_no_such_unix_socket(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await run_client(Recorder(), "ws://localhost/", unix_path=str(tmp_path / "nothing"))


async def test_certificate_of_a_stranger(server_tls: ssl.SSLContext) -> None:
    async with echoing(tls=server_tls) as app:
        with pytest.raises(ssl.SSLError):
            await run_client(Recorder(), f"wss://localhost:{app.port}/")


async def test_certificate_for_another_name(authority: trustme.CA, client_tls: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    async with echoing(tls=context) as app:
        with pytest.raises(ssl.SSLError):
            await run_client(Recorder(), f"wss://localhost:{app.port}/", tls=client_tls)


async def test_tls_to_a_server_without(client_tls: ssl.SSLContext) -> None:
    async with echoing() as app:
        with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
            await run_client(Recorder(), f"wss://localhost:{app.port}/", tls=client_tls)


async def test_server_that_does_not_answer() -> None:
    with silent() as sock, anyio.fail_after(GUARD), pytest.raises(HandshakeError, match="in time"):
        await run_client(Recorder(), f"ws://127.0.0.1:{sock.getsockname()[1]}/", options=QUICK)


async def test_server_that_does_not_even_connect() -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):  # more than the kernel keeps; on Linux connecting then hangs
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        with anyio.fail_after(GUARD), pytest.raises(TimeoutError, match=r"within 0\.2 seconds"):
            await run_client(Recorder(), f"ws://127.0.0.1:{full.getsockname()[1]}/", options=QUICK)


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (b"", None, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, "200 OK"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 101, "Accept"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", None, "status line"),
        (b"\x16\x03\x01", None, "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, None, "longer"),
    ],
    ids=["nothing", "page", "no accept", "ssh", "tls", "endless"],
)
async def test_server_that_is_no_websocket_server(answer: bytes, status: int | None, why: str) -> None:
    async with answering(answer) as url:
        with pytest.raises(HandshakeError, match=why) as caught:
            await run_client(Recorder(), url)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://localhost/", "looks like ws://"),
        ("localhost:8080", "looks like ws://"),
        ("ws:///path", "looks like ws://"),
        ("ws://localhost:99999/", "not a URL"),
        ("ws://[::1/", "not a URL"),
        ("ws://localhost/#part", "no #fragment"),
        ("ws://ana:secret@localhost/", "headers"),
        ("ws://local host/", "Host"),
        ("ws://localhost/ü", "percent-encoded"),
    ],
)
async def test_url_that_cannot_be(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        await run_client(Recorder(), url)


async def test_host_that_cannot_be() -> None:
    # Whether somebody looks at its length before it is looked up depends on the loop.
    with pytest.raises((ConfigurationError, OSError)):
        await run_client(Recorder(), f"ws://{'a' * 70}.example/")


async def test_url_with_a_blank_in_front_is_encrypted_all_the_same(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with echoing(tls=server_tls) as app:
        conn = await run_client(Asks("x"), f" WSS://localhost:{app.port}/", tls=client_tls)
        assert conn.request.scheme == "https"


async def test_arguments_that_cannot_be(client_tls: ssl.SSLContext) -> None:
    for component in (int, object(), None):
        with pytest.raises(ConfigurationError, match="MessageComponent"):
            await run_client(component, "ws://localhost/")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="wss://"):
        await run_client(Recorder(), "ws://localhost/", tls=client_tls)
    with pytest.raises(ConfigurationError, match="one line"):
        await run_client(Recorder(), "ws://localhost/", headers=[("A", "b\r\nc")])
    with pytest.raises(ConfigurationError, match="subprotocol"):
        await run_client(Recorder(), "ws://localhost/", subprotocols=["a b"])


# -- the websockets library's server -----------------------------------------------------------------------------------


@asynccontextmanager
async def websockets_server(handler: Any, **options: Any) -> AsyncIterator[str]:
    with serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with anyio.fail_after(GUARD):
                yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            await anyio.to_thread.run_sync(thread.join)


@pytest.mark.parametrize(
    "deflate", [None, Deflate(threshold=0), Deflate(threshold=0, server_no_context_takeover=False)]
)
async def test_exchange_with_websockets(deflate: Deflate | None) -> None:
    messages = ("text", b"\x00\xff", "grüße 👋" * 5, "x" * MIB)
    extensions: list[str] = []

    def echo(connection: ServerConnection) -> None:
        extensions.extend(extension.name for extension in connection.protocol.extensions)
        for message in connection:
            connection.send(message)

    options = Options(deflate=deflate, max_outbox=8 * MIB)
    client = Asks(*messages)
    async with websockets_server(echo, max_size=2 * MIB) as address:
        conn = await run_client(client, f"ws://{address}/", options=options)
    assert client.answers == list(messages)
    assert (conn.close_code, conn.was_clean) == (4000, True)
    assert extensions == ([] if deflate is None else ["permessage-deflate"])


async def test_websockets_chooses_a_subprotocol_and_closes_first() -> None:
    def leave(connection: ServerConnection) -> None:
        connection.send(str(connection.subprotocol))
        connection.close(4001, "leaving")

    client = Recorder()
    async with websockets_server(leave, subprotocols=["b", "a"]) as address:
        conn = await run_client(client, f"ws://{address}/", subprotocols=["a", "b"])
    assert client.calls == [("open",), ("message", "b"), ("close", 4001, "leaving", True)]
    assert conn.subprotocol == "b"


async def test_websockets_refuses() -> None:
    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(401, "who are you?\n")

    async with websockets_server(lambda connection: None, process_request=refuse) as address:
        with pytest.raises(HandshakeError, match="401") as caught:
            await run_client(Recorder(), f"ws://{address}/")
    assert caught.value.status == 401


async def test_messages_that_come_with_the_answer_are_kept() -> None:
    class Greets(Site):
        def on_open(self, conn: Connection) -> None:
            for number in range(3):
                conn.send(str(number))
            conn.close()

    client = Recorder()
    async with echoing(Greets()) as app:
        await run_client(client, f"ws://127.0.0.1:{app.port}/")
    assert [call[1] for call in client.calls if call[0] == "message"] == ["0", "1", "2"]
