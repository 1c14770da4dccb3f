"""What `lifecycle` promises: the order of calls, one on_close for each on_open, and errors that stay where they are."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from support.serving import (
    CLOSE,
    GUARD,
    PING,
    PONG,
    TEXT,
    Client,
    Pipe,
    Recorder,
    Serving,
    close_frame,
    frame,
    message_frame,
    serving,
)

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.websocket import WebSocket
from pywsapp.app import App
from pywsapp.component import MessageComponent, in_thread
from pywsapp.connection import Connection
from pywsapp.exceptions import ConnectionClosed, Refuse
from pywsapp.http import Request
from pywsapp.options import Deflate, Options

pytestmark = pytest.mark.anyio


class Async(Recorder):
    """A recorder whose handlers all suspend."""

    async def on_open(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_open(conn)

    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_message(conn, message)

    async def on_close(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_close(conn)

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_error(conn, exc)


class Threaded(Recorder):
    """A recorder whose handlers all run in threads; `note` is called in the loop's thread."""

    @in_thread
    def on_open(self, conn: Connection) -> None:
        anyio.from_thread.run_sync(super().on_open, conn)

    @in_thread
    def on_message(self, conn: Connection, message: Any) -> None:
        anyio.from_thread.run_sync(super().on_message, conn, message)

    @in_thread
    def on_close(self, conn: Connection) -> None:
        anyio.from_thread.run_sync(super().on_close, conn)

    @in_thread
    def on_error(self, conn: Connection, exc: Exception) -> None:
        anyio.from_thread.run_sync(super().on_error, conn, exc)


STYLES = pytest.mark.parametrize("style", [Recorder, Async, Threaded], ids=["def", "async", "thread"])


# -- the order of calls ------------------------------------------------------------------------------------------------


@STYLES
async def test_calls_come_in_order(style: type[Recorder]) -> None:
    component = style()
    sent = [f"message {n}" if n % 3 else bytes((n,)) for n in range(100)]
    async with serving(component) as server, server.client(trailing=message_frame("trailing")) as client:
        await client.send(*sent[:60])
        for message in sent[60:]:
            await client.send(message)
        assert await client.close() == 1000
        await component.until_called("close")
    assert component.calls == [
        ("open",),
        ("message", "trailing"),
        *(("message", message) for message in sent),
        ("close", 1000, "", True),
    ]


async def test_handlers_of_one_connection_never_overlap() -> None:
    running: list[str] = []
    overlaps: list[list[str]] = []

    class Slow(Recorder):
        async def step(self, name: str) -> None:
            running.append(name)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
                if len(running) > 1:
                    overlaps.append(list(running))
            running.remove(name)

        async def on_open(self, conn: Connection) -> None:
            await self.step("open")

        async def on_message(self, conn: Connection, message: Any) -> None:
            await self.step(message)
            self.record(message)

        async def on_close(self, conn: Connection) -> None:
            await self.step("close")
            self.record("close")

    component = Slow()
    sent = [str(n) for n in range(40)]
    async with serving(component) as server, server.client(trailing=message_frame("0")) as client:
        for message in sent[1:]:
            await client.send(message)
        await client.close()
        await component.until_called("close")
    assert component.names() == [*sent, "close"]
    assert overlaps == []


async def test_connections_do_not_wait_for_each_other() -> None:
    class Gate(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.opened = anyio.Event()

        async def on_message(self, conn: Connection, message: Any) -> None:
            if message == "wait":
                await self.opened.wait()
            await conn.send(message)

    component = Gate()
    async with serving(component) as server, server.client() as waiting, server.client() as other:
        await waiting.send("wait")
        await other.send("go")
        assert await other.message() == "go"
        component.opened.set()
        assert await waiting.message() == "wait"


async def test_no_message_before_on_open_has_returned() -> None:
    gate = anyio.Event()

    class Opening(Recorder):
        async def on_open(self, conn: Connection) -> None:
            self.record("opening")
            await gate.wait()
            self.record("opened")

    component = Opening()
    async with serving(component) as server, server.client(trailing=message_frame("1")) as client:
        await client.send("2")
        await client.send_frame(PING, b"?")
        assert await client.receive() == (PONG, b"?")  # so "2" has arrived
        assert component.calls == [("opening",)]
        gate.set()
        await component.until_called("message", 2)
    assert component.calls[:4] == [("opening",), ("opened",), ("message", "1"), ("message", "2")]


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_refused_handshake_calls_nothing_else(kind: str) -> None:
    class Refusing(Recorder):
        def on_handshake(self, request: Request) -> Any:
            self.record("handshake")
            if kind == "async":
                return self.later()
            raise Refuse(403)

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise Refuse(403)

    component = Refusing()
    async with serving(component) as server, server.client(trailing=message_frame("1"), expected=403):
        pass
    assert component.calls == [("handshake",)]


def crash() -> None:
    raise LookupError("on purpose")


def stray() -> None:
    raise asyncio.CancelledError("not of this task")


@pytest.mark.parametrize("kind", ["def", "async"])
@pytest.mark.parametrize("failure", [crash, stray])
async def test_a_failing_handshake_is_a_500(
    kind: str, failure: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Recorder):
        def on_handshake(self, request: Request) -> Any:
            if request.path == "/good":
                return None
            return self.later() if kind == "async" else failure()

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            failure()

    component = Failing()
    async with serving(component) as server:
        async with server.client(expected=500):
            pass
        assert component.calls == []
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        async with server.client("/good") as client:
            await client.close()


# -- one on_close for each on_open -------------------------------------------------------------------------------------


class Exit(BaseException):
    """What is no Exception."""


class Ends(Recorder):
    """Ends as its peer asks it to."""

    def on_open(self, conn: Connection) -> Any:
        super().on_open(conn)
        if conn.request.path == "/crash":
            crash()

    def on_message(self, conn: Connection, message: Any) -> Any:
        super().on_message(conn, message)
        if message == "close":
            conn.close(3001, "enough")
        elif message == "abort":
            conn.abort()
        elif message == "crash":
            crash()
        elif message == "stray":
            stray()
        elif message == "exit":
            raise Exit


class AsyncEnds(Ends):
    async def on_open(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_open(conn)

    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_message(conn, message)

    async def on_close(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_close(conn)


async def peer_closes(server: Serving, client: Client) -> None:
    assert await client.close(3000, "bye") == 3000


async def peer_closes_without_code(server: Serving, client: Client) -> None:
    assert await client.close(None) == 1005


async def peer_ends_the_stream(server: Serving, client: Client) -> None:
    await client.stream.send_eof()
    await client.read_to_end()


async def peer_resets(server: Serving, client: Client) -> None:
    await client.reset()


async def we_close(server: Serving, client: Client) -> None:
    await client.send("close")
    assert await client.receive() == (CLOSE, b"\x0b\xb9enough")
    await client.stream.send(close_frame(3001))
    await client.read_to_end()


async def we_close_and_get_no_answer(server: Serving, client: Client) -> None:
    await client.send("close")
    assert await client.receive_close() == 3001


async def we_abort(server: Serving, client: Client) -> None:
    await client.send("abort")
    assert await client.read_to_end() == []


async def a_handler_crashes(server: Serving, client: Client) -> None:
    await client.send("crash")
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1011))
    await client.read_to_end()


async def a_handler_raises_cancelled(server: Serving, client: Client) -> None:
    await client.send("stray")
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1011))
    await client.read_to_end()


async def a_handler_raises_no_exception(server: Serving, client: Client) -> None:
    await client.send("exit")
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1011))
    await client.read_to_end()


async def no_pong_comes(server: Serving, client: Client) -> None:
    assert await client.read_to_end() == [(PING, b"")]


async def a_message_is_too_big(server: Serving, client: Client) -> None:
    await client.send(b"1" * 1001)
    assert await client.receive_close() == 1009


async def the_peer_breaks_the_protocol(server: Serving, client: Client) -> None:
    await client.stream.send(b"\x81\x01?")  # not masked
    assert await client.receive_close() == 1002


async def serving_is_cancelled(server: Serving, client: Client) -> None:
    server.cancel()
    await server.ended.wait()


async def the_server_drains(server: Serving, client: Client) -> None:
    server.stop()
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1012))
    await client.read_to_end()


async def the_server_drains_and_gets_no_answer(server: Serving, client: Client) -> None:
    server.stop()
    assert await client.receive_close() == 1012


End = Callable[[Serving, Client], Awaitable[None]]
ENDS: list[tuple[End, tuple[int, str, bool]]] = [
    (peer_closes, (3000, "bye", True)),
    (peer_closes_without_code, (1005, "", True)),
    (peer_ends_the_stream, (1006, "connection lost", False)),
    (peer_resets, (1006, "connection lost", False)),
    (we_close, (3001, "enough", True)),
    (we_close_and_get_no_answer, (3001, "enough", False)),
    (we_abort, (1006, "aborted", False)),
    (a_handler_crashes, (1011, "internal error", True)),
    (a_handler_raises_cancelled, (1011, "internal error", True)),
    (a_handler_raises_no_exception, (1011, "internal error", True)),
    (no_pong_comes, (1006, "ping timeout", False)),
    (a_message_is_too_big, (1009, "the message is larger than 1000 bytes", False)),
    (the_peer_breaks_the_protocol, (1002, "", False)),
    (serving_is_cancelled, (1006, "", False)),
    (the_server_drains, (1012, "service restart", True)),
    (the_server_drains_and_gets_no_answer, (1012, "service restart", False)),
]


@pytest.mark.parametrize("component", [Ends, AsyncEnds], ids=["def", "async"])
@pytest.mark.parametrize(("end", "expected"), ENDS, ids=[end.__name__ for end, _ in ENDS])
async def test_on_close_comes_once_whatever_the_end(
    component: type[Ends], end: End, expected: tuple[int, str, bool]
) -> None:
    recorder = component()
    options = Options(
        max_message_size=1000,
        close_timeout=0.05 if "no_answer" in end.__name__ else GUARD,
        ping_interval=0.05 if end is no_pong_comes else None,
        ping_timeout=0.05 if end is no_pong_comes else GUARD,
    )
    async with serving(recorder, options=options) as server:
        async with server.client() as client:
            await client.send("first")
            await recorder.until_called("message")
            await end(server, client)
            await recorder.until_called("close")
        if not server.ended.is_set() and "drains" not in end.__name__:
            async with server.client() as client:
                assert await client.close() == 1000
            await recorder.until_called("close", 2)
            assert [call[0] for call in recorder.calls[-2:]] == ["open", "close"]
            del recorder.calls[-2:]
    assert recorder.names().count("open") == 1
    [(code, reason, was_clean)] = [call[1:] for call in recorder.calls if call[0] == "close"]
    assert (code, reason if expected[1] else "", was_clean) == expected
    assert recorder.names()[-1] == "close"


@pytest.mark.parametrize("component", [Ends, AsyncEnds], ids=["def", "async"])
async def test_on_close_comes_also_when_on_open_has_failed(component: type[Ends]) -> None:
    recorder = component()
    async with serving(recorder) as server, server.client("/crash", trailing=message_frame("1")) as client:
        assert (await client.receive())[0] == CLOSE
        await client.stream.send(close_frame(1011))
        await client.read_to_end()
        await recorder.until_called("close")
    assert recorder.calls == [("open",), ("error", "LookupError"), ("close", 1011, "internal error", True)]


async def test_on_close_comes_when_the_peer_left_while_on_open_waited() -> None:
    class Opening(Recorder):
        async def on_open(self, conn: Connection) -> None:
            self.record("opening")
            while conn.is_open:
                await anyio.lowlevel.checkpoint()
            self.record("opened")

    component = Opening()
    async with serving(component) as server:
        async with server.client() as client:
            await client.reset()
        await component.until_called("close")
    assert component.names() == ["opening", "opened", "close"]


async def test_a_running_handler_is_not_cancelled_when_the_peer_leaves() -> None:
    gate = anyio.Event()

    class Working(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            self.record("working")
            await gate.wait()
            self.record("worked", not conn.is_open)

    component = Working()
    async with serving(component) as server:
        async with server.client() as client:
            await client.send("1", "2")
            await component.until_called("working")
            await client.reset()
        while component.conns[0].is_open:
            await anyio.lowlevel.checkpoint()
        assert component.names() == ["open", "working"]
        gate.set()
        await component.until_called("close")
    assert component.calls == [
        ("open",),
        ("working",),
        ("worked", True),
        ("working",),
        ("worked", True),
        ("close", 1006, "connection lost", False),
    ]


class Endless(Recorder):
    """Its handlers end by cancellation only."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        self.record("begun")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.record("cancelled")
            raise

    async def on_close(self, conn: Connection) -> None:
        self.record("closing")
        await anyio.lowlevel.checkpoint()
        self.record("close", conn.close_code)


async def test_cancelled_serving_cancels_handlers_and_still_calls_on_close() -> None:
    component = Endless()
    async with serving(component) as server, server.client() as busy, server.client():
        await busy.send("1")
        await component.until_called("begun")
        server.cancel()
        await server.ended.wait()
        assert sorted(component.names()) == sorted(["open"] * 2 + ["begun", "cancelled"] + ["closing", "close"] * 2)
        assert component.names().index("cancelled") < component.names().index("close")


async def test_a_drain_waits_for_handlers_and_then_cancels_them() -> None:
    component = Endless()
    options = Options(drain_timeout=0.05, on_close_timeout=0.05)
    async with serving(component, options=options) as server, server.client() as client:
        await client.send("1")
        await component.until_called("begun")
        server.stop()
        assert await client.receive() == (CLOSE, b"\x03\xf4service restart")
        await client.stream.send(close_frame(1012))
        await client.read_to_end()
        with anyio.fail_after(GUARD):
            await server.ended.wait()
    assert component.calls == [("open",), ("begun",), ("cancelled",), ("closing",), ("close", 1012)]


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {})], ids=["uvloop", "asyncio"]
)
async def test_who_cancels_a_connections_task_ends_that_connection(
    busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tasks: list[asyncio.Task[Any]] = []

    class Naming(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            self.record("message", message)
            if busy:
                await anyio.sleep_forever()

    component = Naming()
    async with serving(component) as server:
        async with server.client() as client:
            await client.send("1")
            await component.until_called("message")
            await anyio.wait_all_tasks_blocked()
            tasks[0].cancel()
            frames = await client.read_to_end() if not busy else [await client.receive()]
        await component.until_called("close")
        async with server.client() as client:
            assert await client.close() == 1000
    assert frames == ([(CLOSE, b"\x03\xf3internal error")] if busy else [])
    assert component.calls[2] == ("close", 1011 if busy else 1006, "internal error" if busy else "aborted", False)
    assert len(problems(caplog)) == 1


@pytest.mark.parametrize("style", [Recorder, Async, Threaded], ids=["def", "async", "thread"])
async def test_no_task_is_left_behind(style: type[Recorder]) -> None:
    component = style()
    async with serving(component) as server:
        before = len(anyio.get_running_tasks())
        for number in range(1, 11):
            async with server.client() as client:
                await client.send("1", "2")
                if number % 2:
                    await client.close()
                else:
                    await client.reset()
            await component.until_called("close", number)
        with anyio.fail_after(GUARD):
            while len(anyio.get_running_tasks()) > before:
                await anyio.lowlevel.checkpoint()


async def test_an_on_close_that_does_not_end_is_cut_off_and_named(caplog: pytest.LogCaptureFixture) -> None:
    class Clinging(Recorder):
        async def on_close(self, conn: Connection) -> None:
            self.record("closing")
            await anyio.sleep_forever()

    component = Clinging()
    async with serving(component, options=Options(on_close_timeout=0.05)) as server, server.client():
        server.cancel()
        with anyio.fail_after(GUARD):
            await server.ended.wait()
    assert component.names() == ["open", "closing"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"on_close took longer than 0.05 s for {component.conns[0]!r} and was cancelled"
    ]


def test_cancelling_between_a_message_and_its_handler_still_ends_with_on_close() -> None:
    """The task is cancelled while it waits, and a message comes before it has noticed."""
    component = Async()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            pipe = Pipe(component, tasks=tasks)
            await pipe.run_until_blocked()
            tasks.cancel_scope.cancel()
            pipe.send("late")

    for backend in ("asyncio", "trio"):
        component.calls.clear()
        anyio.run(main, backend=backend)
        assert component.calls[0] == ("open",)
        assert component.calls[-1] == ("close", 1006, "aborted", False)
        assert component.names().count("close") == 1


# -- what is still delivered -------------------------------------------------------------------------------------------


@STYLES
async def test_what_came_before_the_peers_close_is_delivered(style: type[Recorder]) -> None:
    component = style()
    sent = [str(n) for n in range(50)]
    async with serving(component) as server, server.client() as client:
        await client.stream.send(b"".join(map(message_frame, sent)) + close_frame(3000) + message_frame("late"))
        assert await client.receive_close() == 3000
        await component.until_called("close")
    assert [call[1] for call in component.calls if call[0] == "message"] == sent


@STYLES
async def test_what_came_before_an_error_of_the_peer_is_delivered(style: type[Recorder]) -> None:
    component = style()
    sent = [str(n) for n in range(10)]
    async with serving(component) as server, server.client() as client:
        await client.stream.send(b"".join(map(message_frame, sent)) + b"\x81\x01?" + message_frame("late"))
        assert await client.receive_close() == 1002
        await component.until_called("close")
    assert [call[1] for call in component.calls if call[0] == "message"] == sent
    assert component.calls[-1][1] == 1002


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_what_came_before_the_peers_close_is_answered(kind: str) -> None:
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
    component = Endless()
    async with serving(component, options=Options(close_timeout=0.05)) as server, server.client() as client:
        await client.send("1")
        await component.until_called("begun")
        assert await client.close(3000, "bye") == 3000
        assert component.names() == ["open", "begun"]
        assert (component.conns[0].close_code, component.conns[0].was_clean) == (3000, True)


async def test_a_handler_may_await_the_end_that_the_peer_began() -> None:
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
@pytest.mark.parametrize("style", [Recorder, Async], ids=["def", "async"])
async def test_what_is_not_inflated_yet_when_the_peer_leaves_is_delivered(style: type[Recorder], end: str) -> None:
    component = style()
    options = Options(max_message_size=1000, deflate=Deflate(threshold=0))
    deflate = DeflateParameters(True, True, 12, 12)
    sent = [str(number) * 900 for number in range(5)]
    peer = WebSocket(client=True, options=options, deflate=deflate)
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, options, tasks, deflate=deflate)
        data = b"".join(map(peer.encode, sent))
        pipe.write(data + close_frame(3000) if end == "closed" else data)
        if end == "lost":
            pipe.transport.abort()  # as after a write that failed
        await pipe.run_until_blocked()
        await component.until_called("close")
        assert pipe.host.discarded == 1
    assert [call[1] for call in component.calls if call[0] == "message"] == sent
    assert component.calls[-1][1] == (3000 if end == "closed" else 1006)


async def test_a_peer_that_closes_and_leaves_at_once_leaves_its_code() -> None:
    component = Endless()
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
@STYLES
async def test_nothing_is_delivered_after_our_close(style: type[Recorder], how: str) -> None:
    class Closing(style):  # type: ignore[valid-type,misc]
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
async def test_who_is_still_sending_learns_what_was_wrong(scheme: str, authority: trustme.CA) -> None:
    """A socket that is closed with unread input sends a reset, which may overtake the close frame."""
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


# -- errors ------------------------------------------------------------------------------------------------------------


class Failing(Recorder):
    """Fails in the method that the path names, and in on_error too if the query says so."""

    def fail_in(self, name: str, conn: Connection) -> None:
        if conn.request.path == f"/{name}":
            crash()

    def on_open(self, conn: Connection) -> Any:
        super().on_open(conn)
        self.fail_in("on_open", conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        super().on_message(conn, message)
        self.fail_in("on_message", conn)

    def on_close(self, conn: Connection) -> Any:
        super().on_close(conn)
        self.fail_in("on_close", conn)


class AsyncFailing(Failing):
    async def on_open(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_open(conn)

    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_message(conn, message)

    async def on_close(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_close(conn)

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_error(conn, exc)


FAILING = pytest.mark.parametrize("failing", [Failing, AsyncFailing], ids=["def", "async"])
WHERE = pytest.mark.parametrize("where", ["on_open", "on_message", "on_close"])


def problems(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@FAILING
@WHERE
async def test_by_default_an_error_is_logged_and_closes(
    failing: type[Failing], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    component = failing()
    async with serving(component) as server, server.client() as bystander:
        async with server.client(f"/{where}") as client:
            await client.send("1", "2")
            if where == "on_close":
                assert await client.close() == 1000
            else:
                assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
                await client.stream.send(close_frame(1011))
                await client.read_to_end()
            await component.until_called("error")
            await component.until_called("close")
        await bystander.send("still here")
        await component.until(lambda: ("message", "still here") in component.calls)
        expected = {
            "on_open": ["open", "error", "close"],
            "on_message": ["open", "message", "error", "close"],
            "on_close": ["open", "message", "message", "close", "error"],
        }
        assert component.names() == ["open", *expected[where], "message"]
    [record] = problems(caplog)
    assert (record.name, record.levelname) == ("pywsapp", "ERROR")
    assert record.getMessage().startswith(
        f"{failing.__name__} failed for <Connection {component.conns[1].id} /{where} "
    )
    assert "in crash\n    raise LookupError" in caplog.text


@pytest.mark.parametrize("kind", ["def", "async"])
@FAILING
@WHERE
async def test_an_own_on_error_decides(
    failing: type[Failing], where: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Deciding(failing):  # type: ignore[valid-type,misc]
        def on_error(self, conn: Connection, exc: Exception) -> Any:
            if kind == "async":
                return self.later(conn, exc)
            self.record("error", repr(exc))
            return None

        async def later(self, conn: Connection, exc: Exception) -> None:
            await anyio.lowlevel.checkpoint()
            self.record("error", repr(exc))

    component = Deciding()
    async with serving(component) as server, server.client(f"/{where}") as client:
        await client.send("1", "2")
        await component.until_called("message", 2)
        assert await client.close() == 1000
        await component.until_called("close")
        await component.until_called("error")
    error = ("error", "LookupError('on purpose')")
    expected: dict[str, list[tuple[Any, ...]]] = {
        "on_open": [("open",), error, ("message", "1"), ("message", "2"), ("close", 1000, "", True)],
        "on_message": [("open",), ("message", "1"), error, ("message", "2"), error, ("close", 1000, "", True)],
        "on_close": [("open",), ("message", "1"), ("message", "2"), ("close", 1000, "", True), error],
    }
    assert component.calls == expected[where]
    assert problems(caplog) == []


@pytest.mark.parametrize("failure", [crash, stray])
@pytest.mark.parametrize("kind", ["def", "async"])
@FAILING
@WHERE
async def test_a_failing_on_error_is_called_once_logged_and_closes(
    failing: type[Failing], where: str, kind: str, failure: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    class Hopeless(failing):  # type: ignore[valid-type,misc]
        def on_error(self, conn: Connection, exc: Exception) -> Any:
            self.record("error", type(exc).__name__)
            return self.later() if kind == "async" else failure()

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            failure()

    component = Hopeless()
    async with serving(component) as server:
        async with server.client(f"/{where}") as client:
            await client.send("1")
            if where == "on_close":
                assert await client.close() == 1000
            else:
                assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
                await client.stream.send(close_frame(1011))
                await client.read_to_end()
            await component.until_called("close")
            await component.until_called("error")
        async with server.client() as client:
            assert await client.close() == 1000
        await component.until_called("close", 2)
    assert component.names().count("error") == 1
    [record] = problems(caplog)
    assert "Hopeless.on_error itself failed for <Connection" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("kind", ["def", "async"])
@pytest.mark.parametrize("where", ["on_open", "on_message", "on_close"])
async def test_what_is_no_exception_is_logged_and_ends_one_connection(
    where: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A CancelledError that is not ours comes from awaiting a task that somebody else cancelled."""

    class Stray(Recorder):
        def maybe(self, name: str, conn: Connection) -> Any:
            if conn.request.path == f"/{name}":
                return self.later() if kind == "async" else stray()
            return None

        async def later(self) -> None:
            await anyio.lowlevel.checkpoint()
            stray()

        def on_open(self, conn: Connection) -> Any:
            super().on_open(conn)
            return self.maybe("on_open", conn)

        def on_message(self, conn: Connection, message: Any) -> Any:
            super().on_message(conn, message)
            return self.maybe("on_message", conn)

        def on_close(self, conn: Connection) -> Any:
            super().on_close(conn)
            return self.maybe("on_close", conn)

    component = Stray()
    async with serving(component) as server, server.client() as bystander:
        async with server.client(f"/{where}") as client:
            await client.send("1")
            if where == "on_close":
                assert await client.close() == 1000
            else:
                assert await client.receive() == (CLOSE, b"\x03\xf3internal error")
                await client.stream.send(close_frame(1011))
                await client.read_to_end()
            await component.until_called("close")
        await bystander.send("still here")
        await component.until(lambda: ("message", "still here") in component.calls)
        server.stop()
        assert (await bystander.receive())[0] == CLOSE
        await bystander.stream.send(close_frame(1012))
        await bystander.read_to_end()
        await server.ended.wait()
    assert component.names().count("error") == 0
    assert component.names().count("close") == 2
    [record] = problems(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is asyncio.CancelledError


@pytest.mark.parametrize("exit_with", [KeyboardInterrupt, SystemExit])
def test_leaving_the_program_is_not_held_up(exit_with: type[BaseException]) -> None:
    """Ctrl+C may come in the middle of a handler."""

    class Leaving(Recorder):
        def on_message(self, conn: Connection, message: Any) -> None:
            raise exit_with

    pipe = Pipe(Leaving())
    with pytest.raises(exit_with):
        pipe.send("1")


# -- time --------------------------------------------------------------------------------------------------------------


def pings(pipe: Pipe) -> int:
    return [opcode for opcode, _ in pipe.client.frames].count(PING)


def tick(pipe: Pipe, now: float) -> None:
    pipe.lifecycle.tick(now)
    pipe.turn()


def test_a_ping_goes_out_at_each_interval() -> None:
    pipe = Pipe(Recorder(), Options(ping_interval=20, ping_timeout=20))
    tick(pipe, 1000)
    tick(pipe, 1019)
    assert pings(pipe) == 0
    tick(pipe, 1020)
    assert pings(pipe) == 1
    pipe.write(frame(PONG))
    tick(pipe, 1039)
    assert pings(pipe) == 1
    tick(pipe, 1040)
    assert pings(pipe) == 2


def test_without_an_interval_no_ping_goes_out() -> None:
    pipe = Pipe(Recorder(), Options(ping_interval=None))
    for now in range(0, 10_000, 100):
        tick(pipe, now)
    assert pings(pipe) == 0
    assert pipe.conn.is_open


def test_a_peer_that_gives_no_sign_of_life_is_dropped() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10))
    tick(pipe, 0)
    tick(pipe, 20)
    tick(pipe, 29)
    assert component.names() == ["open"]
    tick(pipe, 30)
    assert component.calls == [("open",), ("close", 1006, "ping timeout", False)]
    assert pipe.client.lost
    assert pipe.codes() == []
    assert pipe.host.discarded == 1


def test_a_timeout_longer_than_the_interval_is_waited_for() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=5, ping_timeout=20))
    for now in range(25):
        tick(pipe, now)
    assert component.names() == ["open"]
    assert pings(pipe) == 1
    tick(pipe, 25)
    assert component.names() == ["open", "close"]


@pytest.mark.parametrize("sign", [frame(PONG, b"other"), message_frame("hi"), b"\x81", frame(PING)], ids=repr)
def test_any_byte_is_a_sign_of_life(sign: bytes) -> None:
    pipe = Pipe(Recorder(), Options(ping_interval=20, ping_timeout=10))
    tick(pipe, 0)
    tick(pipe, 20)
    pipe.write(sign)
    tick(pipe, 35)
    assert pipe.conn.is_open


async def test_no_ping_goes_out_and_nobody_is_dropped_while_reading_is_paused() -> None:
    gate = anyio.Event()

    class Busy(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await gate.wait()

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Busy(), Options(ping_interval=20, ping_timeout=10, max_queue=2), tasks)
        tick(pipe, 0)
        tick(pipe, 20)
        assert pings(pipe) == 1
        pipe.send("1", "2", "3")
        pipe.client.transport.write(frame(PONG))
        await pipe.run_until_blocked()
        assert pipe.lifecycle.machine.pause_causes
        for now in range(21, 200):
            tick(pipe, now)
        assert pings(pipe) == 1
        gate.set()
        await anyio.wait_all_tasks_blocked()
        pipe.lifecycle.tick(200)  # before the pong, which waited all the time, is read
        assert pipe.conn.is_open
        await pipe.run_until_blocked()
        tick(pipe, 218)
        assert pings(pipe) == 1
        tick(pipe, 219)
        assert pings(pipe) == 2
        tasks.cancel_scope.cancel()


def clog(pipe: Pipe, size: int = 3000) -> None:
    """Let the peer stop reading, and fill what is between."""
    pipe.client.transport.pause_reading()
    pipe.conn.send(b"1" * size)
    pipe.turn()
    assert not pipe.lifecycle.machine.outbox.is_writable


def test_a_peer_that_takes_nothing_is_dropped() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10, high_water=1000))
    tick(pipe, 0)
    clog(pipe)
    tick(pipe, 1)
    tick(pipe, 30)
    assert component.names() == ["open"]
    tick(pipe, 31)
    assert component.calls == [("open",), ("close", 1006, "send timeout", False)]


def test_sending_more_to_it_does_not_keep_it() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10, high_water=1000))
    clog(pipe)
    for now in range(32):
        pipe.conn.send("more")
        tick(pipe, now)
    assert component.names() == ["open", "close"]


def test_a_peer_that_takes_a_little_is_kept() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(ping_interval=20, ping_timeout=10, high_water=1000))
    for now in range(0, 200, 25):
        clog(pipe)
        tick(pipe, now)
        pipe.client.transport.resume_reading()
        pipe.turn()
    assert component.names() == ["open"]


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
def test_a_peer_that_does_not_answer_our_close_is_cut_off(reads: bool) -> None:
    component = Recorder()
    pipe = Pipe(component, Options(close_timeout=5, high_water=1000))
    tick(pipe, 0)
    if not reads:
        clog(pipe)
    pipe.conn.close(3000, "bye")
    tick(pipe, 10)
    tick(pipe, 14)
    assert component.names() == ["open"]
    tick(pipe, 15)
    assert component.calls == [("open",), ("close", 3000, "bye", False)]
    assert pipe.codes() == ([3000] if reads else [])


def test_a_peer_that_closes_and_does_not_read_the_answer_is_cut_off() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(close_timeout=5, high_water=1000))
    clog(pipe)
    pipe.client.transport.write(close_frame(3000))
    pipe.transport.resume_reading()
    pipe.turn()
    tick(pipe, 0)
    tick(pipe, 5)
    assert component.calls == [("open",), ("close", 3000, "", False)]


def test_an_unfinished_message_ends_in_time() -> None:
    component = Recorder()
    pipe = Pipe(component, Options(message_timeout=30, ping_interval=None))
    pipe.write(frame(TEXT, b"never ", fin=False))
    tick(pipe, 0)
    tick(pipe, 29)
    assert component.names() == ["open"]
    tick(pipe, 30)
    assert pipe.codes() == [1008]
    assert component.calls == [("open",), ("close", 1008, "a message stayed unfinished for too long", False)]


def test_pings_are_answered_in_one_write_with_what_is_sent() -> None:
    pipe = Pipe(Recorder())
    pipe.write(frame(PING, b"1") + frame(PING, b"2"))
    assert pipe.client.frames == [(PONG, b"1"), (PONG, b"2")]
    assert len(pipe.sink.writes) == 1


async def test_pings_are_answered_while_a_handler_is_busy() -> None:
    component = Endless()
    async with serving(component) as server, server.client() as client:
        await client.send("1")
        await component.until_called("begun")
        for payload in (b"1", b"2", b"3"):
            await client.send_frame(PING, payload)
            assert await client.receive() == (PONG, payload)


async def test_waiting_pings_and_sends_end_with_the_connection() -> None:
    class Asking(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            try:
                await conn.ping()
            except ConnectionClosed:
                self.record("no pong")

    component = Asking()
    async with serving(component) as server, server.client() as client:
        await client.send(b"1")
        assert (await client.receive())[0] == PING
        await client.reset()
        await component.until_called("close")
    assert component.names() == ["open", "no pong", "close"]
