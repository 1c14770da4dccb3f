"""Ratchet's HttpServer and its HttpRequestParser: the calls on a component for the bytes of a handshake.

Here the component gets no call before its handshake is accepted. These tests prove HttpRequestParser:

    HttpRequestParser 1  tests/protocol/test_http_head_buffer.py  test_ratchet_end_of_message
    HttpRequestParser 2  tests/protocol/test_http_head_buffer.py  test_ratchet_end_of_message
    HttpRequestParser 3  tests/protocol/test_http_head_buffer.py  test_ratchet_end_of_message
    HttpRequestParser 4  tests/protocol/test_http_head_buffer.py  test_ratchet_end_of_message
    HttpRequestParser 5  tests/protocol/test_http_head_buffer.py  test_ratchet_end_of_message
    HttpRequestParser 6  tests/protocol/test_http_head_buffer.py  test_ratchet_end_of_message
    HttpRequestParser 7  tests/protocol/test_http_head_buffer.py  test_ratchet_limit_of_an_unfinished_head
    HttpRequestParser 8  tests/protocol/test_http.py  test_ratchet_a_complete_head_becomes_a_request
    HttpRequestParser [src]  tests/protocol/test_http_head_buffer.py  test_empty_lines_before_the_request
"""

from __future__ import annotations

import pytest
from support.ratchet_peer import Recorder, connected, handshake, opened, serving
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from pywsapp import App, Request

pytestmark = pytest.mark.anyio


def routed(component: Recorder) -> App:
    app = App(port=0)
    app.route("/", component)
    return app


async def test_http_server_1_a_whole_head_opens_once() -> None:
    """HttpServer 1: a complete request head leads to one call of on_open, with a connection."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app), opened(app, "/?name=Ana"):
        await recorder.until_called("on_open")
        [(conn,)] = recorder.arguments_of("on_open")
        assert conn.request.query_params["name"] == "Ana"
        assert recorder.names == ["on_open"]


async def test_http_server_2_bytes_after_the_head_are_a_message() -> None:
    """HttpServer 2: a message after the request head reaches on_message once, with the same connection."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app), connected(app) as peer:
        frame = bytes(Connection(ConnectionType.CLIENT).send(TextMessage(data="trailing")))
        await peer.write(handshake() + frame)
        await recorder.until_called("on_message")
        assert recorder.arguments_of("on_message") == [(recorder.arguments_of("on_open")[0][0], "trailing")]


async def test_http_server_3_a_long_head_closes_the_connection() -> None:
    """HttpServer 3: Ratchet refuses 5,000 bytes with 413; here 16 KiB are accepted, and more are refused with 431."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app):
        async with opened(app, "/", "X: " + "a" * 5000):
            await recorder.until_called("on_open")
        async with connected(app) as peer:
            answer = await peer.handshake("/", "X: " + "a" * 16 * 1024)
            assert answer.status == 431
            await peer.shut_down_sending()
            assert await peer.read_to_end() == b""
        await recorder.until_called("on_close")
        assert recorder.names == ["on_open", "on_close"]


async def test_http_server_4_an_error_during_the_head_calls_nothing() -> None:
    """HttpServer 4: a connection that is lost before its request head is complete leads to no call."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app):
        async with connected(app) as peer:
            await peer.write(handshake()[:-4])
            await peer.reset()
        async with opened(app):
            await recorder.until_called("on_open")
    assert recorder.names == ["on_open", "on_close"]


async def test_http_server_4_an_exception_in_on_handshake_does_not_call_on_error() -> None:
    """HttpServer 4: an exception before on_open is answered with 500, and on_error is not called."""

    class Broken(Recorder):
        def on_handshake(self, request: Request) -> None:
            raise LookupError("no database")

    recorder = Broken()
    app = routed(recorder)
    async with serving(app), connected(app) as peer:
        answer = await peer.handshake()
        assert answer.status == 500
        assert "no database" not in answer.body
        assert await peer.read_to_end() == b""
    assert recorder.names == []


async def test_http_server_5_half_a_head_calls_nothing() -> None:
    """HttpServer 5: "GET / HTTP/1.1" alone leads to no call until the rest of the head arrives."""
    recorder = Recorder()
    app = routed(recorder)
    app.route("/late", recorder)
    head = handshake("/late")
    async with serving(app), connected(app) as late:
        await late.write(head[:20])
        async with opened(app):
            await recorder.until_called("on_open")
        await recorder.until_called("on_close")
        assert recorder.names == ["on_open", "on_close"]
        await late.write(head[20:])
        assert (await late.response()).status == 101
        await recorder.until_called("on_open", 2)
        assert recorder.arguments_of("on_open")[1][0].request.path == "/late"


async def test_http_server_6_an_open_connection_gets_on_close() -> None:
    """HttpServer 6: on_close is called for a connection that was open, and for no other (see 4)."""
    recorder = Recorder()
    app = routed(recorder)
    async with serving(app):
        async with opened(app):
            pass
        await recorder.until_called("on_close")
    assert recorder.arguments_of("on_close") == recorder.arguments_of("on_open")


async def test_http_server_7_on_error_gets_the_exception() -> None:
    """HttpServer 7: on_error gets the connection and the exception object."""
    failure = LookupError("no such room")

    class Failing(Recorder):
        def on_message(self, conn: object, message: object) -> None:
            raise failure

    recorder = Failing()
    app = routed(recorder)
    async with serving(app), opened(app) as peer:
        await peer.send("hello")
        await recorder.until_called("on_error")
        assert recorder.arguments_of("on_error") == [(recorder.arguments_of("on_open")[0][0], failure)]
