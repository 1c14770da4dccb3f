"""WebSockets of an App on ASGI servers: the promises of the own server, as far as the server lets them be kept."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import pytest
from support.asgi_servers import chat, exchange, hosted
from support.serving import GUARD
from support.wire import Peer, handshake

from pywsapp import (
    App,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    HandshakeError,
    MessageComponent,
    Options,
    Refuse,
    Request,
)

pytestmark = pytest.mark.anyio


class Chat(MessageComponent):
    """Does what a message says, and notes what is called."""

    subprotocols = ("two", "one")

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.ended = anyio.Event()

    def on_handshake(self, request: Request) -> None:
        if "secret" in request.query_params:
            raise Refuse(418, {"X-Why": "teapot"}, "no")

    def on_open(self, conn: Connection) -> None:
        self.calls.append("open")
        conn.subscribe("room")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        if message == "close":
            conn.close(4000, "enough")
        elif message == "fail":
            raise RuntimeError("a mistake")
        elif message == "ping":
            try:
                await conn.ping()
            except ConfigurationError as exc:
                conn.send(str(exc))
        elif message == "all":
            assert conn.app is not None
            conn.app.topic("room").broadcast("to all")
        else:
            await conn.send(message)

    def on_close(self, conn: Connection) -> None:
        self.calls.append(("close", conn.close_code))
        self.ended.set()


@pytest.fixture
def component() -> Chat:
    return Chat()


@pytest.fixture
def app(component: Chat) -> App:
    app = App(options=Options(max_message_size=100_000))
    app.route("/chat", component, allowed_origins=["*"])
    return app


async def end_of(conn: Any) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as caught, anyio.fail_after(GUARD):
        await conn.receive()
    return caught.value


async def test_messages_are_echoed(app: App, component: Chat) -> None:
    async with hosted(app) as port, chat(port) as conn:
        assert await exchange(conn, "hällo") == "hällo"
        assert await exchange(conn, b"\0\xff") == b"\0\xff"
        assert await exchange(conn, "x" * 90_000) == "x" * 90_000
    assert component.calls[0] == "open"


async def test_a_broadcast_reaches_all(app: App) -> None:
    async with hosted(app) as port, chat(port) as first, chat(port) as second:
        assert await exchange(second, "here") == "here"
        assert await exchange(first, "all") == "to all"
        with anyio.fail_after(GUARD):
            assert await second.receive() == "to all"


async def test_the_component_closes_with_a_code(app: App, component: Chat) -> None:
    async with hosted(app) as port, chat(port) as conn:
        await conn.send("close")
        end = await end_of(conn)
        with anyio.fail_after(GUARD):
            await component.ended.wait()
    assert (end.code, end.reason) == (4000, "enough")
    assert component.calls == ["open", ("close", 4000)]


async def test_the_peer_goes_away_without_a_close_frame(app: App, component: Chat) -> None:
    async with hosted(app) as port:
        peer = Peer(socket.create_connection(("127.0.0.1", port)))
        await peer.send(handshake("/chat"))
        assert (await peer.head())[0] == 101
        peer.reset()
        with anyio.fail_after(GUARD):
            await component.ended.wait()
    (_, code) = component.calls[-1]
    assert code in (1005, 1006)  # uvicorn reports a lost connection as one without a code


async def test_an_exception_of_a_handler_closes_with_1011(app: App, caplog: pytest.LogCaptureFixture) -> None:
    async with hosted(app) as port, chat(port) as conn:
        await conn.send("fail")
        assert (await end_of(conn)).code == 1011
    assert "a mistake" in caplog.text


async def test_a_refusal_keeps_its_status(app: App, component: Chat) -> None:
    async with hosted(app) as port, Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.send(handshake("/chat?secret=1"))
        response = await peer.response()
    assert (response.status, response.headers["x-why"], response.body) == (418, "teapot", b"no\n")
    assert component.calls == []


async def test_nothing_at_a_path(app: App) -> None:
    async with hosted(app) as port:
        with pytest.raises(HandshakeError) as caught:
            async with chat(port, "/other"):
                pass
    assert caught.value.status == 404


async def test_the_subprotocol_is_chosen_by_the_component(app: App) -> None:
    async with hosted(app) as port, chat(port, subprotocols=["one", "two"]) as conn:
        assert conn.subprotocol == "two"


async def test_a_message_that_is_too_large(app: App) -> None:
    async with hosted(app) as port, chat(port) as conn:
        await conn.send("x" * 100_001)
        assert (await end_of(conn)).code == 1009


async def test_pings_are_the_servers(app: App) -> None:
    async with hosted(app) as port, chat(port) as conn:
        assert "sends its own pings" in str(await exchange(conn, "ping"))


async def test_limits_of_connections(component: Chat) -> None:
    app = App(max_connections=1)
    app.route("/chat", component)
    async with hosted(app) as port, chat(port) as conn:
        assert await exchange(conn, "one") == "one"
        with pytest.raises(HandshakeError) as caught:
            async with chat(port):
                pass
        assert app.stats().limits["max_connections"] == 1
        assert app.stats().open_connections == 1
    assert caught.value.status == 503


async def test_a_decision_that_takes_too_long() -> None:
    class Slow(Chat):
        async def on_handshake(self, request: Request) -> None:  # type: ignore[override]
            await anyio.sleep_forever()

    app = App(options=Options(handshake_timeout=0.2))
    app.route("/chat", Slow())
    async with hosted(app) as port:
        with pytest.raises(HandshakeError) as caught:
            async with chat(port):
                pass
    assert caught.value.status == 503


async def test_a_page_of_another_origin(component: Chat) -> None:
    app = App()
    app.route("/chat", component)
    async with hosted(app) as port:
        with pytest.raises(HandshakeError) as caught:
            async with chat(port, origin="https://evil.example"):
                pass
        async with chat(port, origin=f"http://127.0.0.1:{port}") as conn:
            assert await exchange(conn, "same") == "same"
    assert caught.value.status == 403
