"""What a component holds in its hand: its identity and state, sending, closing, pings, and how it is let go."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import (
    BINARY,
    CLOSE,
    GUARD,
    PING,
    PONG,
    TEXT,
    MemoryHost,
    Pipe,
    Recorder,
    close_frame,
    frame,
    message_frame,
    serving,
)

from pywsapp._outbox.pings import Pings
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import ConfigurationError, ConnectionClosed
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


# -- identity and state ------------------------------------------------------------------------------------------------


def test_an_id_is_never_used_again() -> None:
    seen: list[int] = []
    for _ in range(100):
        pipe = Pipe(Recorder())
        pipe.conn.ping()
        seen.append(pipe.conn.id)
        pipe.conn.abort()
    assert len(set(seen)) == 100
    assert seen == list(range(seen[0], seen[0] + 100))


def test_state_is_for_the_users_data() -> None:
    conn, other = Pipe(Recorder()).conn, Pipe(Recorder()).conn
    conn.state.name = "Ana"
    assert conn.state.name == "Ana"
    assert not hasattr(other.state, "name")


def test_there_are_no_free_attributes() -> None:
    conn = Pipe(Recorder()).conn
    with pytest.raises(AttributeError, match="Connection' object has no attribute 'name'"):
        conn.name = "Ana"  # type: ignore[attr-defined]
    assert not hasattr(conn, "__dict__")


async def test_its_text_names_what_matters_and_no_secrets() -> None:
    component = Recorder()
    async with (
        serving(component) as server,
        server.client("/rooms/1?token=secret", headers="Cookie: a=secret\r\n") as client,
    ):
        conn = component.conns[0]
        assert repr(conn) == f"<Connection {conn.id} /rooms/1 from 127.0.0.1 open>"
        assert conn.remote_address == "127.0.0.1"
        await client.close(3000)
        assert repr(conn) == f"<Connection {conn.id} /rooms/1 from 127.0.0.1 closed 3000>"


async def test_it_can_be_told_from_others_and_kept_in_sets() -> None:
    one, other = Pipe(Recorder()).conn, Pipe(Recorder()).conn
    assert one == one
    assert one != other
    assert {one, other, one} == {one, other}


# -- sending -----------------------------------------------------------------------------------------------------------


def test_sends_of_one_turn_leave_in_one_write() -> None:
    pipe = Pipe(Recorder())
    pipe.sink.writes.clear()
    for number in range(100):
        pipe.conn.send(str(number))
    assert pipe.sink.writes == []
    pipe.turn()
    assert len(pipe.sink.writes) == 1
    assert pipe.messages() == [str(number) for number in range(100)]


def test_replies_to_messages_of_one_read_leave_in_one_write_with_pongs_first() -> None:
    class Echo(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send(message)

    pipe = Pipe(Echo())
    pipe.sink.writes.clear()
    pipe.write(message_frame("1") + frame(PING, b"?") + message_frame("2") + message_frame(b"3"))
    assert len(pipe.sink.writes) == 1
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
def test_what_can_be_sent(message: Any, received: tuple[int, bytes]) -> None:
    pipe = Pipe(Recorder())
    pipe.conn.send(message)
    pipe.turn()
    assert pipe.client.frames == [received]


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        ({"a": 1}, TypeError, "a message is a str or bytes, not dict; encode it first, for instance with json.dumps"),
        (None, TypeError, "a message is a str or bytes, not NoneType"),
        (1, TypeError, "a message is a str or bytes, not int"),
        ("\ud800", ConfigurationError, "must be encodable as UTF-8"),
    ],
    ids=repr,
)
def test_what_cannot_be_sent(message: Any, error: type[Exception], text: str) -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(error, match=text):
        pipe.conn.send(message)
    pipe.conn.send("next")
    pipe.turn()
    assert pipe.messages() == ["next"]


def test_a_changed_buffer_does_not_change_what_was_sent() -> None:
    pipe = Pipe(Recorder())
    buffer = bytearray(b"before")
    pipe.conn.send(buffer)
    buffer[:] = b"after!"
    pipe.turn()
    assert pipe.messages() == [b"before"]


@pytest.mark.parametrize("how", ["close", "abort", "peer", "lost"])
async def test_sending_after_the_end_does_nothing(how: str) -> None:
    pipe = Pipe(Recorder())
    if how == "peer":
        pipe.write(close_frame())
    elif how == "lost":
        pipe.client.transport.abort()
        pipe.turn()
    else:
        getattr(pipe.conn, how)()
    assert not pipe.conn.is_open
    await pipe.conn.send("late")
    pipe.conn.send("late")
    pipe.turn()
    assert pipe.messages() == []


async def test_a_loop_that_sends_for_ever_lets_others_in_when_nobody_is_there_any_more() -> None:
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


# -- closing -----------------------------------------------------------------------------------------------------------


def test_what_was_sent_before_closing_still_leaves() -> None:
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
def test_codes_that_may_not_be_sent(code: Any) -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(ConfigurationError, match="may not be sent"):
        pipe.conn.close(code)
    assert pipe.conn.is_open


def test_a_reason_has_to_fit_into_the_frame() -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(ConfigurationError, match="takes 124 bytes; a close frame holds 123"):
        pipe.conn.close(1000, "é" * 62)
    pipe.conn.close(1000, "é" * 61 + "e")
    pipe.turn()
    assert pipe.client.frames == [(CLOSE, b"\x03\xe8" + ("é" * 61 + "e").encode())]


async def test_awaiting_close_waits_until_it_is_gone() -> None:
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


async def test_an_abort_in_the_turn_of_the_peers_close_is_an_abort() -> None:
    class Aborting(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.abort()

    component = Aborting()
    pipe = Pipe(component)
    pipe.write(message_frame("1") + close_frame(3000))
    assert component.calls == [("open",), ("close", 1006, "aborted", False)]
    assert pipe.client.frames == []


def test_a_close_in_the_turn_of_the_peers_close_gives_the_peers_code() -> None:
    class Closing(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send("last")
            conn.close(4000)

    component = Closing()
    pipe = Pipe(component)
    pipe.write(message_frame("1") + close_frame(3000, "bye"))
    assert component.calls == [("open",), ("close", 3000, "bye", True)]
    assert pipe.client.frames == [(TEXT, b"last"), (CLOSE, b"\x0b\xb8")] or pipe.codes() == [3000]


def test_closing_in_on_open_refuses_what_came_glued() -> None:
    class Closing(Recorder):
        def on_open(self, conn: Connection) -> None:
            conn.close(4000)

    component = Closing()
    pipe = Pipe(component, trailing=message_frame("1"))
    pipe.write(message_frame("2") + close_frame(4000))
    assert component.calls == [("close", 4000, "", True)]


@pytest.mark.parametrize("method", ["close", "abort", "send", "ping"])
async def test_everything_may_be_called_in_on_close(method: str) -> None:
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


# -- pings -------------------------------------------------------------------------------------------------------------


async def test_a_ping_gives_the_latency() -> None:
    class Asking(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("latency", await conn.ping())

    component = Asking()
    async with serving(component) as server, server.client() as client:
        await client.send("1")
        opcode, payload = await client.receive()
        assert opcode == PING
        await anyio.sleep(0.05)
        await client.send_frame(PONG, payload)
        await component.until_called("latency")
    [latency] = [call[1] for call in component.calls if call[0] == "latency"]
    assert 0.04 <= latency < GUARD


async def test_a_pong_answers_its_ping_and_those_before_it() -> None:
    pipe = Pipe(Recorder())
    pings = [pipe.conn.ping(name) for name in (b"1", b"2", b"3")]
    pipe.write(frame(PONG, b"2") + frame(PONG, b"2") + frame(PONG, b"unasked"))
    with anyio.fail_after(GUARD):
        assert 0 <= await pings[1] <= await pings[0]
    with anyio.move_on_after(0) as scope:
        await pings[2]
    assert scope.cancelled_caught
    assert pipe.client.frames == [(PING, b"1"), (PING, b"2"), (PING, b"3")]


def test_a_ping_does_not_overtake_what_was_sent_before_it() -> None:
    pipe = Pipe(Recorder())
    pipe.conn.send("first")
    pipe.conn.ping(b"then")
    pipe.conn.send("last")
    pipe.turn()
    assert pipe.client.frames == [(TEXT, b"first"), (PING, b"then"), (TEXT, b"last")]


async def test_a_ping_that_is_not_awaited_is_fine() -> None:
    pipe = Pipe(Recorder())
    pipe.conn.ping()
    pipe.conn.ping()
    pipe.turn()
    assert len({payload for opcode, payload in pipe.client.frames if opcode == PING}) == 2


@pytest.mark.parametrize("how", ["close", "abort", "peer", "lost"])
async def test_a_ping_ends_with_the_connection(how: str) -> None:
    pipe = Pipe(Recorder())
    ping = pipe.conn.ping()
    if how == "peer":
        pipe.write(close_frame())
    elif how == "lost":
        pipe.client.transport.abort()
        pipe.turn()
    else:
        getattr(pipe.conn, how)()
        pipe.write(close_frame())
    for awaitable in (ping, pipe.conn.ping()):
        with anyio.fail_after(GUARD), pytest.raises(ConnectionClosed, match="ended before the pong came"):
            await awaitable


def test_wrong_pings() -> None:
    pipe = Pipe(Recorder())
    with pytest.raises(ConfigurationError, match="at most 125 bytes, not 126"):
        pipe.conn.ping(b"1" * 126)
    pipe.conn.ping(b"1" * 125)
    with pytest.raises(ConfigurationError, match="still unanswered"):
        pipe.conn.ping(b"1" * 125)


# -- broadcasting ------------------------------------------------------------------------------------------------------


def audience(count: int) -> tuple[MemoryHost, list[Pipe]]:
    host = MemoryHost()
    return host, [Pipe(Recorder(), host=host) for _ in range(count)]


def test_a_broadcast_reaches_everybody_but_those_excluded() -> None:
    _, pipes = audience(4)
    conns = {pipe.conn for pipe in pipes}
    broadcast(conns, "to all")
    broadcast(conns, "to others", exclude=pipes[0].conn)
    broadcast(conns, "to some", exclude=(pipe.conn for pipe in pipes[1:3]))
    broadcast([], "to nobody")
    pipes[3].conn.close()
    broadcast(iter(conns), PreparedMessage("to the open ones"))
    for pipe in pipes:
        pipe.turn()
    assert pipes[0].messages() == ["to all", "to some", "to the open ones"]
    assert pipes[1].messages() == pipes[2].messages() == ["to all", "to others", "to the open ones"]
    assert pipes[3].messages() == ["to all", "to others", "to some"]


def test_a_broadcast_is_encoded_once() -> None:
    _, pipes = audience(50)
    broadcast([pipe.conn for pipe in pipes], "x" * 1000)
    for pipe in pipes:
        pipe.turn()
    frames = [pipe.sink.writes[-1] for pipe in pipes]
    assert all(written is frames[0] for written in frames)


def test_replies_and_broadcasts_of_one_turn_leave_in_one_write_each() -> None:
    class Chat(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            conn.send("heard")
            broadcast(conns, message)

    host = MemoryHost()
    pipes = [Pipe(Chat(), host=host) for _ in range(3)]
    conns = [pipe.conn for pipe in pipes]
    for pipe in pipes:
        pipe.sink.writes.clear()
    pipes[0].send("1", "2")
    assert [len(pipe.sink.writes) for pipe in pipes] == [1, 1, 1]
    for pipe in pipes[1:]:
        pipe.turn()
    assert pipes[0].messages() == ["heard", "1", "heard", "2"]
    assert pipes[1].messages() == pipes[2].messages() == ["1", "2"]


def test_a_broadcast_survives_a_set_that_changes() -> None:
    """A slow member that is closed on the way may be thrown out by the policy's log handler, or by anything else."""
    _, pipes = audience(3)
    conns = {pipe.conn for pipe in pipes}

    def leaving() -> Iterator[Connection]:
        for conn in list(conns):
            conns.discard(conn)
            yield conn

    broadcast(leaving(), "bye")
    assert conns == set()
    for pipe in pipes:
        pipe.turn()
        assert pipe.messages() == ["bye"]


async def test_handlers_may_change_what_is_broadcast_to() -> None:
    class Chat(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.clients: set[Connection] = set()

        def on_open(self, conn: Connection) -> None:
            self.clients.add(conn)
            broadcast(self.clients, "joined")

        def on_message(self, conn: Connection, message: Any) -> None:
            broadcast(self.clients, message, exclude=conn)

        def on_close(self, conn: Connection) -> None:
            self.clients.discard(conn)
            broadcast(self.clients, "left")
            self.record("close")

    component = Chat()
    async with serving(component) as server, server.client() as ana:
        assert await ana.message() == "joined"
        async with server.client() as bo:
            assert await bo.message() == await ana.message() == "joined"
            await bo.send("hello")
            assert await ana.message() == "hello"
            await bo.reset()
        assert await ana.message() == "left"
        assert len(component.clients) == 1


@pytest.mark.parametrize("message", [1, None, ["x"]], ids=repr)
def test_what_cannot_be_broadcast_reaches_nobody(message: Any) -> None:
    _, pipes = audience(2)
    with pytest.raises(TypeError):
        broadcast([pipe.conn for pipe in pipes], message)
    assert all(pipe.conn.buffered == 0 for pipe in pipes)


# -- letting go --------------------------------------------------------------------------------------------------------


class Light(MessageComponent):
    """Keeps weak references to its connections."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Connection]] = []

    def on_open(self, conn: Connection) -> Any:
        conn.state.something = object()
        self.refs.append(weakref.ref(conn))

    def on_message(self, conn: Connection, message: Any) -> Any:
        if message == "crash":
            raise LookupError
        return conn.send(message)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        conn.close(1011)


class LightAsync(Light):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        await super().on_message(conn, message)
        if message == "ping":
            with anyio.move_on_after(0):
                await conn.ping()


@pytest.mark.parametrize("how", ["peer closes", "peer resets", "crash", "drain"])
@pytest.mark.parametrize("kind", [Light, LightAsync], ids=["def", "async"])
async def test_a_closed_connection_is_let_go(kind: type[Light], how: str, anyio_backend_name: str) -> None:
    component = kind()
    async with serving(component) as server:
        for _ in range(5):
            async with server.client() as client:
                await client.send("hello", "ping")
                assert await client.message() == "hello"
                assert await client.message() == "ping"
                if how == "peer closes":
                    await client.close()
                elif how == "peer resets":
                    await client.reset()
                elif how == "crash":
                    await client.send("crash")
                    while (await client.receive())[0] != CLOSE:
                        pass
                    await client.stream.send(close_frame(1011))
                    await client.read_to_end()
        if how == "drain":
            server.stop()
            await server.ended.wait()
        with anyio.move_on_after(GUARD):
            while any(ref() is not None for ref in component.refs):
                await anyio.lowlevel.checkpoint()
                gc.collect()
    assert len(component.refs) == 5
    assert [ref() for ref in component.refs if ref() is not None] == []


def test_in_memory_it_is_let_go_without_the_garbage_collector() -> None:
    component = Light()
    gc.disable()
    try:
        for how in ("peer", "close", "abort", "lost"):
            pipe = Pipe(component)
            pipe.send("hello")
            conn: Connection | None = pipe.conn
            if how == "peer":
                pipe.write(close_frame())
            elif how == "lost":
                pipe.client.transport.abort()
                pipe.turn()
            else:
                getattr(conn, how)()
                pipe.write(close_frame())
            assert conn is not None
            assert sys.getrefcount(conn) <= 5  # of the pipe, the lifecycle, its state machine, this test and the call
            del conn, pipe
        assert [ref() for ref in component.refs] == [None] * 4
    finally:
        gc.enable()


def has_one(kind: type, *holders: object) -> bool:
    return any(isinstance(held, kind) for held in gc.get_referents(*holders))


def test_nothing_is_made_before_it_is_needed() -> None:
    """An idle connection has to be small."""
    pipe = Pipe(Recorder())
    holders = (pipe.conn, pipe.conn.request, pipe.lifecycle, pipe.lifecycle.machine)
    assert [kind for kind in (SimpleNamespace, Pings, anyio.Event) if has_one(kind, *holders)] == []
    assert pipe.conn.state is pipe.conn.state
    assert has_one(SimpleNamespace, *holders)
    assert pipe.host.filled == []
    assert sys.getsizeof(pipe.conn) + sys.getsizeof(pipe.lifecycle) < 600


@pytest.mark.parametrize("size", [1 << 59, sys.maxsize, 1 << 63, 1 << 80])
def test_limits_may_be_as_large_as_one_likes(size: int) -> None:
    pipe = Pipe(Recorder(), Options(max_message_size=size, max_outbox=size, high_water=size, max_frame_size=size))
    pipe.send("1", b"2")
    pipe.conn.send("3")
    pipe.conn.close()
    pipe.turn()
    assert pipe.messages() == ["3"]
    assert pipe.codes() == [1000]
