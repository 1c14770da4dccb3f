"""The last messages of a connection: those before the end are delivered and answered, those after it are not."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from support.components import AsyncRecorder, NeverEnding, every_kind
from support.serving import (
    CLOSE,
    PING,
    TEXT,
    Client,
    Pipe,
    Recorder,
    close_frame,
    message_frame,
    serving,
)

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.websocket import WebSocket
from pywsapp.app import App
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.options import Deflate, Options

pytestmark = pytest.mark.anyio


def test_queued_messages_are_sent_before_the_end_of_the_peers_stream_closes_the_transport() -> None:
    """The end can come in the turn of the message, before the outbox is flushed."""
    pipe = Pipe(Echoing())
    pipe.lifecycle.data_received(message_frame("one") + message_frame("two"))
    assert pipe.writes == []
    assert not pipe.lifecycle.eof_received()
    pipe.lifecycle.machine.outbox.transport.close()  # what the transport does for this result
    pipe.transport.pump()
    assert pipe.messages() == ["one", "two"]
    assert pipe.client.lost


class Echoing(MessageComponent):
    def on_message(self, conn: Connection, message: Any) -> None:
        conn.send(message)


@every_kind
async def test_messages_before_the_peers_close_are_delivered(recorder: type[Recorder]) -> None:
    component = recorder()
    sent = [str(n) for n in range(50)]
    async with serving(component) as server, server.client() as client:
        await client.stream.send(b"".join(map(message_frame, sent)) + close_frame(3000) + message_frame("late"))
        assert await client.receive_close() == 3000
        await component.until_called("close")
    assert [call[1] for call in component.calls if call[0] == "message"] == sent


@every_kind
async def test_messages_before_a_protocol_error_are_delivered(recorder: type[Recorder]) -> None:
    component = recorder()
    sent = [str(n) for n in range(10)]
    async with serving(component) as server, server.client() as client:
        await client.stream.send(b"".join(map(message_frame, sent)) + b"\x81\x01?" + message_frame("late"))
        assert await client.receive_close() == 1002
        await component.until_called("close")
    assert [call[1] for call in component.calls if call[0] == "message"] == sent
    assert component.calls[-1][1] == 1002


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_messages_before_the_peers_close_are_answered(kind: str) -> None:
    class Echo(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> Any:
            if kind == "async":
                return self.later(conn, message)
            return conn.send(message)

        async def later(self, conn: Connection, message: Any) -> None:
            await anyio.lowlevel.checkpoint()
            await conn.send(message)

    sent = [str(n) for n in range(50)]
    async with serving(Echo()) as server, server.client() as client:
        await client.stream.send(b"".join(map(message_frame, sent)) + close_frame(3000))
        assert await client.read_to_end() == [*((TEXT, message.encode()) for message in sent), (CLOSE, b"\x0b\xb8")]


async def test_the_answer_to_a_close_waits_for_a_handler_no_longer_than_close_timeout() -> None:
    component = NeverEnding()
    async with serving(component, options=Options(close_timeout=0.05)) as server, server.client() as client:
        await client.send("1")
        await component.until_called("begun")
        assert await client.close(3000, "bye") == 3000
        assert component.names() == ["open", "begun"]
        assert (component.conns[0].close_code, component.conns[0].was_clean) == (3000, True)


async def test_a_handler_can_await_close_after_the_peers_close() -> None:
    class Closing(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.closing = anyio.Event()

        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("message", message)
            await self.closing.wait()
            await conn.close(4000)
            self.record("gone")

    component = Closing()
    async with serving(component) as server, server.client() as client:
        await client.stream.send(message_frame("1") + message_frame("2") + close_frame(3000))
        await client.send_frame(PING, b"never answered")
        await component.until_called("message")
        component.closing.set()
        assert await client.receive_close() == 3000
        await component.until_called("close")
    assert component.calls == [("open",), ("message", "1"), ("gone",), ("close", 3000, "", True)]


@pytest.mark.parametrize("end", ["lost", "closed"])
@pytest.mark.parametrize("recorder", [Recorder, AsyncRecorder], ids=["def", "async"])
async def test_messages_not_yet_inflated_at_the_end(recorder: type[Recorder], end: str) -> None:
    """Those before a close frame are delivered; when the transport is lost, no more are inflated."""
    component = recorder()
    options = Options(max_message_size=1000, deflate=Deflate(threshold=0))
    deflate = DeflateParameters(True, True, 12, 12)
    sent = [str(number) * 900 for number in range(9)]
    peer = WebSocket(client=True, options=options, deflate=deflate)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, options, tasks, deflate=deflate)
        data = b"".join(map(peer.encode, sent))
        pipe.write(data + close_frame(3000) if end == "closed" else data)
        if end == "lost":
            pipe.transport.abort()  # as a transport does after a failed write
        await pipe.run_until_blocked()
        await component.until_called("close")
        assert pipe.host.discarded == 1
    delivered = [call[1] for call in component.calls if call[0] == "message"]
    assert delivered == (sent if end == "closed" else sent[: len(delivered)])
    if end == "lost" and recorder is AsyncRecorder:  # a def handler can get them all in the turn in which they came
        assert len(delivered) in range(1, 9)
    assert component.calls[-1][1] == (3000 if end == "closed" else 1006)


async def test_the_close_code_of_a_peer_that_disconnects_at_once_is_kept() -> None:
    component = NeverEnding()
    async with serving(component) as server, server.client() as client:
        await client.send("1")
        await component.until_called("begun")
        await client.stream.send(close_frame(3000, "bye"))
        await client.stream.send_eof()
        conn = component.conns[0]
        while conn.is_open:
            await anyio.lowlevel.checkpoint()
        assert (conn.close_code, conn.close_reason) == (3000, "bye")


@pytest.mark.parametrize("how", ["close", "abort"])
@every_kind
async def test_no_message_is_delivered_after_close_or_abort(recorder: type[Recorder], how: str) -> None:
    class Closing(recorder):  # type: ignore[valid-type,misc]
        def record(self, *call: Any) -> None:
            super().record(*call)
            if call == ("message", "2"):
                getattr(self.conns[0], how)()

    component = Closing()
    async with serving(component) as server, server.client() as client:
        await client.send("1", "2", "3", "4")
        if how == "close":
            assert (await client.receive())[0] == CLOSE
            await client.stream.send(message_frame("5") + close_frame())
        await client.read_to_end()
        await component.until_called("close")
    assert component.names() == ["open", "message", "message", "close"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_peer_that_is_still_sending_receives_the_close_frame(scheme: str, authority: trustme.CA) -> None:
    """The kernel resets a connection that is closed with unread input; the reset can overtake the close frame."""
    component = Recorder()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    app = App(port=0, tls=tls if scheme == "wss" else None, options=Options(max_message_size=1000))
    app.route("/", component)
    async with serving(app) as server:
        context = trusting if scheme == "wss" else None
        stream = (
            await anyio.connect_tcp(
                "127.0.0.1", server.port, tls_standard_compatible=False, ssl_context=context, tls_hostname="localhost"
            )
            if context
            else await anyio.connect_tcp("127.0.0.1", server.port)
        )
        async with stream:
            client = Client(stream)
            await client.handshake()
            with suppress(anyio.BrokenResourceError):
                await client.send(b"1" * 4 * 1024 * 1024)
            opcode, payload = await client.receive()
            assert (opcode, payload[:2]) == (CLOSE, b"\x03\xf1")
        await component.until_called("close")
    assert component.calls[1:] == [("close", 1009, "the message is larger than 1000 bytes", False)]
