"""Ratchet's WsServer, which it does not test, and the handshake of its protocol library, rfc6455.

These tests prove the handshake:

    RequestVerifier 1  tests/protocol/test_handshake.py  test_ratchet_1_method
    RequestVerifier 2  tests/protocol/test_handshake.py  test_ratchet_2_http_version
    RequestVerifier 3  tests/protocol/test_handshake.py  test_ratchet_3_target
    RequestVerifier 4  tests/protocol/test_handshake.py  test_ratchet_4_host
    RequestVerifier 5  tests/protocol/test_handshake.py  test_ratchet_5_and_9_upgrade
    RequestVerifier 6  tests/protocol/test_handshake.py  test_ratchet_6_and_10_connection
    RequestVerifier 7  tests/protocol/test_handshake.py  test_ratchet_7_and_11_key
    RequestVerifier 8  tests/protocol/test_handshake.py  test_ratchet_8_and_12_version
    ServerNegotiator 9  tests/protocol/test_handshake.py  test_ratchet_5_and_9_upgrade
    ServerNegotiator 10  tests/protocol/test_handshake.py  test_ratchet_6_and_10_connection
    ServerNegotiator 11  tests/protocol/test_handshake.py  test_ratchet_7_and_11_key
    ServerNegotiator 12  tests/protocol/test_handshake.py  test_ratchet_8_and_12_version
    ServerNegotiator 13  tests/protocol/test_handshake.py  test_ratchet_13_and_15_a_required_subprotocol
    ServerNegotiator 14  tests/protocol/test_handshake.py  test_ratchet_14_choosing_a_subprotocol
    ServerNegotiator 15  tests/protocol/test_handshake.py  test_ratchet_13_and_15_a_required_subprotocol
    ResponseVerifier 35  tests/protocol/test_client_handshake.py  test_ratchet_35_subprotocol_of_a_response
    WsServer [src]  tests/protocol/test_handshake.py  test_extensions_must_be_well_formed
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.ratchet_peer import Closed, Recorder, connected, opened, serving
from wsproto.events import Ping, Pong

from pywsapp import App, Connection, Deflate, Options, Request
from pywsapp._protocol.frames import encode_masked_frame

pytestmark = pytest.mark.anyio


def routed(component: Recorder, options: Options | None = None, **route: Any) -> App:
    app = App(port=0, options=options)
    app.route("/", component, **route)
    return app


class Versioned(Recorder):
    subprotocols = ("v2", "v1")


@pytest.mark.parametrize(
    ("strict", "offered", "status", "chosen"),
    [
        (False, "v1, v2", 101, "v2"),  # the order of the server; Ratchet uses the order of the client
        (False, "v3", 101, None),
        (False, None, 101, None),
        (True, "v3, v1", 101, "v1"),
        (True, "v3", 426, "v2, v1"),
        (True, None, 426, "v2, v1"),
    ],
)
async def test_ws_server_src_subprotocols(strict: bool, offered: str | None, status: int, chosen: str | None) -> None:
    """WsServer [src]: Ratchet's strict check is require_subprotocol here, and is off by default."""
    recorder = Versioned()
    app = routed(recorder, require_subprotocol=strict)
    fields = [] if offered is None else [f"Sec-WebSocket-Protocol: {offered}"]
    async with serving(app), connected(app) as peer:
        answer = await peer.handshake("/", *fields)
        assert (answer.status, answer.fields.get("sec-websocket-protocol")) == (status, chosen)
        if status == 101:
            await recorder.until_called("on_open")
            assert recorder.arguments_of("on_open")[0][0].subprotocol == chosen


@pytest.mark.parametrize("deflate", [None, Deflate()])
async def test_ws_server_src_deflate(deflate: Deflate | None) -> None:
    """WsServer [src]: Ratchet never enables permessage-deflate; here an option enables it."""
    app = routed(Recorder(), Options(deflate=deflate))
    async with serving(app), connected(app) as peer:
        answer = await peer.handshake("/", "Sec-WebSocket-Extensions: permessage-deflate")
        assert answer.status == 101
        assert ("sec-websocket-extensions" in answer.fields) is (deflate is not None)


async def test_ws_server_src_the_answer_does_not_name_the_server() -> None:
    """WsServer [src]: Ratchet sends X-Powered-By with its version; here no field names the server."""
    app = routed(Recorder())
    async with serving(app), connected(app) as peer:
        accepted = await peer.handshake()
    assert set(accepted.fields) == {"upgrade", "connection", "sec-websocket-accept"}


async def test_ws_server_src_messages_after_a_close_are_dropped() -> None:
    """WsServer [src]: on_message is not called after close(), not even for messages of the same read."""

    class Closing(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            super().on_message(conn, message)
            conn.close()

    recorder = Closing()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            await peer.send("one", "two", "three")
            assert await peer.receive() == Closed(1000, "")
            await peer.write(encode_masked_frame(0x81, b"four"))
            await peer.close()
            assert await peer.read_to_end() == b""
        await recorder.until_called("on_close")
    assert recorder.names == ["on_open", "on_message", "on_close"]


async def test_ws_server_src_no_on_close_without_a_handshake() -> None:
    """WsServer [src]: a refused handshake leads to neither on_open nor on_close."""
    recorder = Versioned()
    app = routed(recorder, require_subprotocol=True)
    async with serving(app):
        async with connected(app) as peer:
            assert (await peer.handshake()).status == 426
            assert await peer.read_to_end() == b""
        async with opened(app, "/", "Sec-WebSocket-Protocol: v1"):
            await recorder.until_called("on_open")
    assert recorder.names == ["on_open", "on_close"]


async def test_ws_server_src_text_is_str_and_binary_is_bytes() -> None:
    """WsServer [src]: in Ratchet send(string) sends text, and binary needs a Frame; here the type decides."""

    class Sending(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.send("text")
            conn.send(b"binary")
            conn.send(bytearray(b"too"))
            with pytest.raises(TypeError):
                conn.send({"type": "hello"})

    app = routed(Sending())
    async with serving(app), opened(app) as peer:
        assert [await peer.receive() for _ in range(3)] == ["text", b"binary", b"too"]


async def test_ws_server_src_send_and_close_after_close_do_nothing() -> None:
    """WsServer [src]: send after close does nothing, and the first close counts; here close has a reason too.

    The server also waits for the peer's close frame; Ratchet ends TCP at once.
    """

    class Closing(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.close(4002, "moved")
            conn.close(4003, "twice")
            conn.send("late")
            super().on_open(conn)

        def on_close(self, conn: Connection) -> None:
            conn.send("later")
            conn.close()
            super().on_close(conn)

    recorder = Closing()
    app = routed(recorder)
    async with serving(app):
        async with opened(app) as peer:
            assert await peer.receive() == Closed(4002, "moved")
            await recorder.until_called("on_open")
            assert recorder.names == ["on_open"]
            await peer.close(4002)
            assert await peer.read_to_end() == b""
        await recorder.until_called("on_close")
    [(conn,)] = recorder.arguments_of("on_close")
    assert (conn.close_code, conn.close_reason, conn.was_clean) == (4002, "moved", True)


async def test_ws_server_src_a_peer_that_answers_no_ping_is_dropped() -> None:
    """WsServer [src]: Ratchet closes with 1000 after an unanswered ping; here the connection is dropped with 1006."""
    recorder = Recorder()
    app = routed(recorder, Options(ping_interval=0.05, ping_timeout=0.05))
    async with serving(app), opened(app) as peer:
        assert isinstance(await peer.receive(), Ping)
        await recorder.until_called("on_close")
    [(conn,)] = recorder.arguments_of("on_close")
    assert (conn.close_code, conn.close_reason, conn.was_clean) == (1006, "ping timeout", False)


async def test_ws_server_src_a_ping_is_answered_while_a_handler_is_busy() -> None:
    """WsServer [src]: a ping is answered with its payload; here also while an async handler runs."""
    done = anyio.Event()

    class Slow(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("on_message", conn, message)
            await done.wait()
            conn.send("done")

    recorder = Slow()
    app = routed(recorder)
    async with serving(app), opened(app) as peer:
        await peer.send("work")
        await recorder.until_called("on_message")
        await peer.ping(b"there?")
        pong = await peer.receive()
        assert isinstance(pong, Pong)
        assert bytes(pong.payload) == b"there?"
        done.set()
        assert await peer.receive() == "done"


async def test_ws_server_src_the_request_decides_before_the_handshake() -> None:
    """WsServer [src]: Ratchet accepts first, and the component can only close; here on_handshake decides before."""

    class Guarded(Recorder):
        async def on_handshake(self, request: Request) -> str:
            self.record("on_handshake", request.cookies.get("token"))
            return "v1"

    recorder = Guarded()
    app = routed(recorder)
    async with serving(app), opened(app, "/", "Cookie: token=abc", "Sec-WebSocket-Protocol: v0, v1"):
        await recorder.until_called("on_open")
        assert recorder.arguments_of("on_handshake") == [("abc",)]
        assert recorder.arguments_of("on_open")[0][0].subprotocol == "v1"
