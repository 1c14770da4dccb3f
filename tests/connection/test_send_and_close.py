"""Sending messages and closing a connection."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from support.serving import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Pipe,
    Recorder,
    close_frame,
    frame,
    message_frame,
    serving,
)

from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, ConnectionClosed
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


def test_the_messages_of_one_turn_are_sent_in_one_write() -> None:
    pipe = Pipe(Recorder())
    pipe.writes.clear()
    for number in range(100):
        pipe.conn.send(str(number))
    assert pipe.writes == []
    pipe.turn()
    assert len(pipe.writes) == 1
    assert pipe.messages() == [str(number) for number in range(100)]


def test_the_replies_to_one_read_are_sent_in_one_write_after_the_pongs() -> None:
    class Echo(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(message)

    pipe = Pipe(Echo())
    pipe.writes.clear()
    pipe.write(message_frame("1") + frame(PING, b"?") + message_frame("2") + message_frame(b"3"))
    assert len(pipe.writes) == 1
    assert pipe.client.frames == [(PONG, b"?"), (TEXT, b"1"), (TEXT, b"2"), (BINARY, b"3")]


@pytest.mark.parametrize(
    ("message", "received"),
    [
        ("", (TEXT, b"")),
        ("héllo ☀", (TEXT, "héllo ☀".encode())),
        (b"", (BINARY, b"")),
        (b"\x00\xff", (BINARY, b"\x00\xff")),
        (bytearray(b"abc"), (BINARY, b"abc")),
        (memoryview(b"abcdef")[::2], (BINARY, b"ace")),
        (PreparedMessage("ready"), (TEXT, b"ready")),
        ("a" * 125, (TEXT, b"a" * 125)),
        ("b" * 126, (TEXT, b"b" * 126)),
        ("c" * 65535, (TEXT, b"c" * 65535)),
        (b"d" * 65536, (BINARY, b"d" * 65536)),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else type(value).__name__ + repr(value)[:9],
)
def test_valid_messages_are_sent(message: Any, received: tuple[int, bytes]) -> None:
    pipe = Pipe(Recorder())
    pipe.conn.send(message)
    pipe.turn()
    assert pipe.client.frames == [received]


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (
            {"a": 1},
            TypeError,
            "a message is a str or bytes, not dict; encode it, for instance with json.dumps, or give the route a codec",
        ),
        (None, TypeError, "a message is a str or bytes, not NoneType"),
        (1, TypeError, "a message is a str or bytes, not int"),
        ("\ud800", ConfigurationError, "must be encodable as UTF-8"),
    ],
    ids=repr,
)
def test_invalid_messages_are_refused(message: Any, error: type[Exception], text: str) -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(error, match=text):
        pipe.conn.send(message)
    pipe.conn.send("next")
    pipe.turn()
    assert pipe.messages() == ["next"]


def test_changing_a_buffer_does_not_change_the_message() -> None:
    pipe = Pipe(Recorder())
    buffer = bytearray(b"before")
    pipe.conn.send(buffer)
    buffer[:] = b"after!"
    pipe.turn()
    assert pipe.messages() == [b"before"]


@pytest.mark.parametrize("how", ["close", "abort", "peer", "lost"])
async def test_sending_after_the_end_does_nothing(how: str) -> None:
    pipe = Pipe(Recorder())
    pipe.end(how)
    assert not pipe.conn.is_open
    await pipe.conn.send("late")
    pipe.conn.send("late")
    pipe.turn()
    assert pipe.messages() == []


async def test_an_endless_loop_of_sends_to_a_lost_connection_lets_others_run() -> None:
    class Streaming(Recorder):
        async def on_open(self, conn: Connection) -> None:
            super().on_open(conn)
            while conn.request.path == "/stream":
                await conn.send("tick")

        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(message)

    async with serving(Streaming()) as server, server.client() as other:
        async with server.client("/stream") as streamed:
            assert await streamed.message() == "tick"
            await streamed.reset()
        await other.send("still served")
        assert await other.message() == "still served"


def test_messages_before_close_are_sent() -> None:
    pipe = Pipe(Recorder())
    for number in range(3):
        pipe.conn.send(str(number))
    pipe.conn.close(4000, "bye")
    pipe.conn.send("late")
    assert not pipe.conn.is_open
    pipe.turn()
    assert pipe.client.frames == [(TEXT, b"0"), (TEXT, b"1"), (TEXT, b"2"), (CLOSE, b"\x0f\xa0bye")]


def test_only_the_first_close_counts() -> None:
    component = Recorder()
    pipe = Pipe(component)
    pipe.conn.close(4000, "first")
    pipe.conn.close(4001, "second")
    pipe.write(close_frame(4000, "first"))
    pipe.conn.close(4002)
    pipe.conn.abort()
    assert component.calls == [("open",), ("close", 4000, "first", True)]
    assert pipe.codes() == [4000]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, 70_000, "1000", None, 1e3])
def test_a_reserved_code_is_refused(code: Any) -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(ConfigurationError, match="may not be sent"):
        pipe.conn.close(code)
    assert pipe.conn.is_open


def test_a_reason_must_fit_into_the_close_frame() -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(ConfigurationError, match="takes 124 bytes; a close frame holds 123"):
        pipe.conn.close(1000, "é" * 62)
    pipe.conn.close(1000, "é" * 61 + "e")
    pipe.turn()
    assert pipe.client.frames == [(CLOSE, b"\x03\xe8" + ("é" * 61 + "e").encode())]


async def test_awaiting_close_waits_for_the_end_of_the_connection() -> None:
    class Closing(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await conn.close(4000)
            self.record("gone", conn.was_clean)
            await conn.close()

    component = Closing()
    async with serving(component) as server, server.client() as client:
        await client.send("1")
        assert await client.receive() == (CLOSE, b"\x0f\xa0")
        assert component.names() == ["open"]
        await client.stream.send(close_frame(4000))
        await client.read_to_end()
        await component.until_called("close")
    assert component.calls == [("open",), ("gone", True), ("close", 4000, "", True)]


async def test_an_abort_before_the_peers_close_is_handled_aborts() -> None:
    class Aborting(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.abort()

    component = Aborting()
    pipe = Pipe(component)
    pipe.write(message_frame("1") + close_frame(3000))
    assert component.calls == [("open",), ("close", 1006, "aborted", False)]
    assert pipe.client.frames == []


def test_a_close_before_the_peers_close_is_handled_has_the_peers_code() -> None:
    class Closing(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send("last")
            conn.close(4000)

    component = Closing()
    pipe = Pipe(component)
    pipe.write(message_frame("1") + close_frame(3000, "bye"))
    assert component.calls == [("open",), ("close", 3000, "bye", True)]
    assert pipe.client.frames == [(TEXT, b"last"), (CLOSE, b"\x0b\xb8")]


def test_closing_in_on_open_discards_trailing_messages() -> None:
    class Closing(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.close(4000)

    component = Closing()
    pipe = Pipe(component, trailing=message_frame("1"))
    pipe.write(message_frame("2") + close_frame(4000))
    assert component.calls == [("close", 4000, "", True)]


@pytest.mark.parametrize("method", ["close", "abort", "send", "ping"])
async def test_every_method_can_be_called_in_on_close(method: str) -> None:
    class Late(Recorder):
        async def on_close(self, conn: Connection) -> None:
            arguments = ("late",) if method == "send" else ()
            result = getattr(conn, method)(*arguments)
            if method == "ping":
                with pytest.raises(ConnectionClosed):
                    await result
            elif method != "abort":
                await result
            self.record("close")

    component = Late()
    async with serving(component) as server, server.client() as client:
        await client.close()
        await component.until_called("close")


@pytest.mark.parametrize("size", [1 << 59, sys.maxsize, 1 << 63, 1 << 80])
def test_limits_can_be_larger_than_a_machine_word(size: int) -> None:
    pipe = Pipe(Recorder(), Options(max_message_size=size, max_outbox=size, high_water=size, max_frame_size=size))
    pipe.send("1", b"2")
    pipe.conn.send("3")
    pipe.conn.close()
    pipe.turn()
    assert pipe.messages() == ["3"]
    assert pipe.codes() == [1000]
