"""The component gets one on_close for each on_open, however a connection ends, and no handler task outlives it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.components import (
    AsyncRecorder,
    NeverEnding,
    Suspending,
    crash,
    every_kind,
    logged_problems,
    raise_cancelled,
)
from support.serving import (
    CLOSE,
    GUARD,
    PING,
    Client,
    Pipe,
    Recorder,
    Serving,
    close_frame,
    message_frame,
    serving,
)
from support.waiting import until_blocked

from pywsapp.connection import Connection
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


class Exit(BaseException):
    """An exception that is not derived from Exception."""


class EndingOnRequest(Recorder):
    """Ends the connection in the way that a message names."""

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
        elif message == "raise_cancelled":
            raise_cancelled()
        elif message == "exit":
            raise Exit


class AsyncEndingOnRequest(Suspending, EndingOnRequest):
    """The same in async handlers."""


async def the_peer_closes(server: Serving, client: Client) -> None:
    assert await client.close(3000, "bye") == 3000


async def the_peer_closes_without_code(server: Serving, client: Client) -> None:
    assert await client.close(None) == 1005


async def the_peer_ends_the_stream(server: Serving, client: Client) -> None:
    await client.stream.send_eof()
    await client.read_to_end()


async def the_peer_resets(server: Serving, client: Client) -> None:
    await client.reset()


async def the_server_closes(server: Serving, client: Client) -> None:
    await client.send("close")
    assert await client.receive() == (CLOSE, b"\x0b\xb9enough")
    await client.stream.send(close_frame(3001))
    await client.read_to_end()


async def the_server_closes_and_gets_no_answer(server: Serving, client: Client) -> None:
    await client.send("close")
    assert await client.receive_close() == 3001


async def the_server_aborts(server: Serving, client: Client) -> None:
    await client.send("abort")
    assert await client.read_to_end() == []


async def a_handler_crashes(server: Serving, client: Client) -> None:
    await client.send("crash")
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1011))
    await client.read_to_end()


async def a_handler_raises_cancelled(server: Serving, client: Client) -> None:
    await client.send("raise_cancelled")
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1011))
    await client.read_to_end()


async def a_handler_raises_a_base_exception(server: Serving, client: Client) -> None:
    await client.send("exit")
    assert (await client.receive())[0] == CLOSE
    await client.stream.send(close_frame(1011))
    await client.read_to_end()


async def the_peer_sends_no_pong(server: Serving, client: Client) -> None:
    assert await client.read_to_end() == [(PING, b"")]


async def a_message_is_too_big(server: Serving, client: Client) -> None:
    await client.send(b"1" * 1001)
    assert await client.receive_close() == 1009


async def the_peer_breaks_the_protocol(server: Serving, client: Client) -> None:
    await client.stream.send(b"\x81\x01?")  # a frame without a mask
    assert await client.receive_close() == 1002


async def the_server_is_cancelled(server: Serving, client: Client) -> None:
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
    (the_peer_closes, (3000, "bye", True)),
    (the_peer_closes_without_code, (1005, "", True)),
    (the_peer_ends_the_stream, (1006, "connection lost", False)),
    (the_peer_resets, (1006, "connection lost", False)),
    (the_server_closes, (3001, "enough", True)),
    (the_server_closes_and_gets_no_answer, (3001, "enough", False)),
    (the_server_aborts, (1006, "aborted", False)),
    (a_handler_crashes, (1011, "internal error", True)),
    (a_handler_raises_cancelled, (1011, "internal error", True)),
    (a_handler_raises_a_base_exception, (1011, "internal error", True)),
    (the_peer_sends_no_pong, (1006, "ping timeout", False)),
    (a_message_is_too_big, (1009, "the message is larger than 1000 bytes", False)),
    (the_peer_breaks_the_protocol, (1002, "", False)),
    (the_server_is_cancelled, (1006, "", False)),
    (the_server_drains, (1012, "service restart", True)),
    (the_server_drains_and_gets_no_answer, (1012, "service restart", False)),
]


@pytest.mark.parametrize("component", [EndingOnRequest, AsyncEndingOnRequest], ids=["def", "async"])
@pytest.mark.parametrize(("end", "expected"), ENDS, ids=[end.__name__ for end, _ in ENDS])
async def test_on_close_is_called_once_after_every_kind_of_end(
    component: type[EndingOnRequest], end: End, expected: tuple[int, str, bool]
) -> None:
    recorder = component()
    options = Options(
        max_message_size=1000,
        close_timeout=0.05 if "no_answer" in end.__name__ else GUARD,
        ping_interval=0.05 if end is the_peer_sends_no_pong else None,
        ping_timeout=0.5 if end is the_peer_sends_no_pong else GUARD,
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


@pytest.mark.parametrize("component", [EndingOnRequest, AsyncEndingOnRequest], ids=["def", "async"])
async def test_on_close_is_called_after_a_failed_on_open(component: type[EndingOnRequest]) -> None:
    recorder = component()
    async with serving(recorder) as server, server.client("/crash", trailing=message_frame("1")) as client:
        assert (await client.receive())[0] == CLOSE
        await client.stream.send(close_frame(1011))
        await client.read_to_end()
        await recorder.until_called("close")
    assert recorder.calls == [("open",), ("error", "LookupError"), ("close", 1011, "internal error", True)]


async def test_on_close_is_called_when_the_peer_disconnects_during_on_open() -> None:
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


async def test_a_running_handler_is_not_cancelled_when_the_peer_disconnects() -> None:
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


async def test_cancelling_the_server_cancels_handlers_and_calls_on_close() -> None:
    component = NeverEnding()
    async with serving(component) as server, server.client() as busy, server.client():
        await busy.send("1")
        await component.until_called("begun")
        server.cancel()
        await server.ended.wait()
        assert sorted(component.names()) == sorted(["open"] * 2 + ["begun", "cancelled"] + ["closing", "close"] * 2)
        assert component.names().index("cancelled") < component.names().index("close")


async def test_a_drain_waits_for_handlers_and_then_cancels_them() -> None:
    component = NeverEnding()
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
async def test_cancelling_a_handler_task_ends_its_connection(busy: bool, caplog: pytest.LogCaptureFixture) -> None:
    tasks: list[asyncio.Task[Any]] = []

    class TaskRecorder(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            self.record("message", message)
            if busy:
                await anyio.sleep_forever()

    component = TaskRecorder()
    async with serving(component) as server:
        async with server.client() as client:
            await client.send("1")
            await component.until_called("message")
            await until_blocked()
            tasks[0].cancel()
            frames = await client.read_to_end() if not busy else [await client.receive()]
        await component.until_called("close")
        async with server.client() as client:
            assert await client.close() == 1000
    assert frames == ([(CLOSE, b"\x03\xf3internal error")] if busy else [])
    assert component.calls[2] == ("close", 1011 if busy else 1006, "internal error" if busy else "aborted", False)
    assert len(logged_problems(caplog)) == 1


@every_kind
async def test_every_handler_task_ends_with_its_connection(recorder: type[Recorder]) -> None:
    component = recorder()
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


async def test_an_on_close_that_never_ends_is_cancelled_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class NeverClosing(Recorder):
        async def on_close(self, conn: Connection) -> None:
            self.record("closing")
            await anyio.sleep_forever()

    component = NeverClosing()
    async with serving(component, options=Options(on_close_timeout=0.05)) as server, server.client():
        server.cancel()
        with anyio.fail_after(GUARD):
            await server.ended.wait()
    assert component.names() == ["open", "closing"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"on_close took longer than 0.05 s for {component.conns[0]!r} and was cancelled"
    ]


def test_on_close_is_called_when_the_task_is_cancelled_before_a_message() -> None:
    """The task is cancelled while it waits, and a message arrives before the task has handled the cancellation."""
    component = AsyncRecorder()

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
