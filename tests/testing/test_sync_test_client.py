"""`SyncTestClient`: tests without async."""

from __future__ import annotations

from typing import Any

import pytest

from pywsapp import App, Connection, ConnectionClosed, Deflate, EchoServer, HandshakeError, MessageComponent, Options
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import SyncTestClient, VirtualClock

LOOPS: dict[str, dict[str, Any]] = {"asyncio": {}, "uvloop": {"uvloop": True}, "trio": {"backend": "trio"}}


class Commands(MessageComponent):
    def on_message(self, conn: Connection, message: Any) -> None:
        if message == "fail":
            raise ValueError("the handler fails")
        conn.close(4000, message)


@pytest.fixture
def app() -> App:
    app = App(options=Options(deflate=Deflate()))
    app.route("/echo", EchoServer())
    app.route("/commands", Commands())
    app.http("/page", lambda request: "page")
    return app


@pytest.mark.parametrize("loop", LOOPS)
def test_messages_pages_and_refusals(app: App, loop: str) -> None:
    with SyncTestClient(app, **LOOPS[loop]) as client:
        with client.connect("/echo") as ws:
            ws.send("hello")
            assert ws.receive() == "hello"
            ws.send_json([1])
            assert ws.receive_json() == [1]
            ws.send(b"\1")
            assert ws.receive_bytes() == b"\1"
            ws.assert_silent()
            ws.ping()
            assert not ws.has_compression
            assert ws.is_open
        assert (ws.is_open, ws.close_code) == (False, 1000)
        with client.connect("/echo", compression=True) as ws:
            ws.send("hello" * 1000)
            assert ws.receive() == "hello" * 1000
            assert ws.has_compression
        assert client.assert_refused("/no", 404).status == 404
        with pytest.raises(HandshakeError), client.connect("/no"):
            pass
        assert client.get("/page").text == "page"
        with client.connect("/commands") as ws:
            ws.send("bye")
            ws.assert_closed(4000, "bye")
            with pytest.raises(ConnectionClosed):
                ws.receive()
        assert client.call(app.stats).handshakes == 3


@pytest.mark.parametrize("loop", LOOPS)
def test_event_streams(app: App, loop: str) -> None:
    app.history("news")
    app.events("/news", topic="news")
    topic = app.topic("news")
    with SyncTestClient(app, **LOOPS[loop]) as client:
        with client.events("/news") as stream:
            client.call(topic.broadcast, "one")
            assert stream.receive().data == "one"
            stream.assert_silent()
            assert stream.is_open
            assert (stream.headers["content-type"], stream.comments) == ("text/event-stream", 0)
            assert stream.retry is not None
        client.call(topic.broadcast, "two")
        with client.events("/news", last_event_id=stream.last_event_id) as stream:
            assert next(iter(stream)).data == "two"
            client.call(lambda: [conn.close() for conn in topic])
            assert list(stream) == []
            stream.assert_ended()
        with pytest.raises(HandshakeError), client.events("/no"):
            pass


def test_exceptions_of_handlers(app: App) -> None:
    with SyncTestClient(app) as client, client.connect("/commands") as ws:
        ws.send("fail")
        with pytest.raises(ValueError, match="the handler fails"):
            ws.receive()

    def fail_unnoticed() -> None:
        with SyncTestClient(app) as client, client.connect("/commands") as ws:
            ws.send("fail")
            ws.assert_closed(1011)

    with pytest.raises(ValueError, match="the handler fails"):
        fail_unnoticed()


def test_a_virtual_clock(app: App) -> None:
    calls: list[int] = []
    app.every(60)(lambda: calls.append(1))
    with SyncTestClient(app, clock=VirtualClock()) as client:
        client.advance(200)
    assert calls == [1, 1, 1]


def test_a_hook_that_fails(app: App) -> None:
    @app.on_startup
    def fail() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"), SyncTestClient(app):
        pass


def test_mistakes_are_explained(app: App) -> None:
    with pytest.raises(ConfigurationError, match="write `with SyncTestClient"):
        SyncTestClient(app).get("/page")
    with SyncTestClient(app) as client, pytest.raises(TypeError, match="no argument 'compress'"):
        client.connect("/echo", compress=True).__enter__()  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="backend must be"):
        SyncTestClient(app, backend="curio")
