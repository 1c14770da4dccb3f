"""`run_client` against our own server and against that of `websockets`."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.client_servers import Server, echoing, websockets_server
from support.serving import Recorder
from support.wire import Site
from websockets.sync.server import ServerConnection

from pywsapp import ConfigurationError, Connection, Deflate, HandshakeError, MessageComponent, Options, run_client

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


class Sender(Recorder):
    """Sends messages, and closes after as many answers."""

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


# -- our own server ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [None, Deflate(threshold=0)])
async def test_exchange_and_close_of_both_roles(deflate: Deflate | None) -> None:
    options = Options(deflate=deflate, max_message_size=2 * MIB, max_frame_size=2 * MIB, max_outbox=8 * MIB)
    messages = ("text", "grüße 👋", b"\x00\xff", b"", "x" * MIB)
    server, client = Server(), Sender(*messages)
    async with echoing(server, options=options) as app:
        conn = await run_client(client, f"ws://127.0.0.1:{app.port}/", options=options)
        assert client.answers == list(messages)
        assert (conn.close_code, conn.close_reason, conn.was_clean, not conn.is_open) == (4000, "enough", True, True)
        assert client.calls == [("open",), ("close", 4000, "enough", True)]
        await server.until_called("close")
        assert server.calls == [("open",), ("close", 4000, "enough", True)]


async def test_request_carries_the_arguments() -> None:
    class Two(Server):
        subprotocols = ("v2", "v1")

    server = Two()
    async with echoing(server) as app:
        conn = await run_client(
            Sender("x"),
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
    class Closer(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.send("bye")
            conn.close(4001, "leaving")

    client = Recorder()
    async with echoing(Closer()) as app:
        conn = await run_client(client, f"ws://127.0.0.1:{app.port}/")
    assert client.calls == [("open",), ("message", "bye"), ("close", 4001, "leaving", True)]
    assert (conn.close_code, conn.was_clean) == (4001, True)


@pytest.mark.parametrize("kind", [Recorder, lambda: Recorder()])
async def test_class_or_factory_makes_the_component(kind: Any) -> None:
    class Closer(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            conn.close()

    async with echoing(Closer()) as app:
        assert (await run_client(kind, f"ws://127.0.0.1:{app.port}/")).close_code == 1000


async def test_wss(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    server, client = Server(), Sender("x" * MIB)
    async with echoing(server, tls=server_tls, options=Options(max_outbox=2 * MIB)) as app:
        conn = await run_client(
            client, f"wss://localhost:{app.port}/", tls=client_tls, options=Options(max_outbox=2 * MIB)
        )
        assert client.answers == ["x" * MIB]
        assert (conn.close_code, conn.was_clean, conn.request.scheme) == (4000, True, "https")
        assert server.requests[0].scheme == "https"


async def test_url_with_a_blank_in_front_is_encrypted(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with echoing(tls=server_tls) as app:
        conn = await run_client(Sender("x"), f" WSS://localhost:{app.port}/", tls=client_tls)
        assert conn.request.scheme == "https"


async def test_unix_socket(tmp_path: Path) -> None:
    server = Server()
    async with echoing(server, unix_path=tmp_path / "socket"):
        conn = await run_client(Sender("x"), "ws://chat.example/room", unix_path=tmp_path / "socket")
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
async def test_cancelling_an_asyncio_task() -> None:
    client = Recorder()
    async with echoing() as app:
        task = asyncio.create_task(run_client(client, f"ws://127.0.0.1:{app.port}/"))
        await client.until_called("open")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert client.names() == ["open", "close"]


async def test_refused_component_gets_no_call() -> None:
    client = Recorder()
    async with echoing() as app:
        with pytest.raises(HandshakeError, match="403"):
            await run_client(client, f"ws://127.0.0.1:{app.port}/no")
    assert client.calls == []


async def test_only_components_are_run() -> None:
    for component in (int, object(), None):
        with pytest.raises(ConfigurationError, match="MessageComponent"):
            await run_client(component, "ws://localhost/")  # type: ignore[arg-type]


# -- the websockets library's server -----------------------------------------------------------------------------------


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
    client = Sender(*messages)
    async with websockets_server(echo, max_size=2 * MIB) as address:
        conn = await run_client(client, f"ws://{address}/", options=options)
    assert client.answers == list(messages)
    assert (conn.close_code, conn.was_clean) == (4000, True)
    assert extensions == ([] if deflate is None else ["permessage-deflate"])


async def test_websockets_chooses_a_subprotocol_and_closes_first() -> None:
    def close(connection: ServerConnection) -> None:
        connection.send(str(connection.subprotocol))
        connection.close(4001, "leaving")

    client = Recorder()
    async with websockets_server(close, subprotocols=["b", "a"]) as address:
        conn = await run_client(client, f"ws://{address}/", subprotocols=["a", "b"])
    assert client.calls == [("open",), ("message", "b"), ("close", 4001, "leaving", True)]
    assert conn.subprotocol == "b"


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
