"""Errors in the handler task, and the end of the task and its connection."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.handler_tasks import (
    LOOPS,
    Scripted,
    call_from,
    checkpoints,
    current_name,
    opened,
    wait_until_idle,
)
from support.serving import CLOSE, GUARD, Pipe, close_frame, serving

from pywsapp.component import MessageComponent
from pywsapp.connection import Connection

pytestmark = pytest.mark.anyio


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("on_error", ["def", "async", "waits"])
@pytest.mark.parametrize("waits", [False, True])
async def test_on_error_is_called_once_and_the_next_message_is_handled(origin: str, waits: bool, on_error: str) -> None:
    class Failing(Scripted):
        def on_error(self, conn: Connection, exc: Exception) -> Any:
            return self.record("error", type(exc)) if on_error == "def" else self.later(exc)

        async def later(self, exc: Exception) -> None:
            if on_error == "waits":
                await checkpoints()
            self.record("error", type(exc))

    async def crash(conn: Connection) -> None:
        if waits:
            await checkpoints()
        raise LookupError

    async def send(conn: Connection) -> None:
        await conn.send("open")

    component = Failing(crash=crash, send=send)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "crash", "send", "crash")
        await wait_until_idle(pipe)
        await call_from(origin, pipe.send, "send")
        await wait_until_idle(pipe)
        assert pipe.messages() == ["open"] * 2
        assert component.calls[1:] == [("error", LookupError), ("done", "send")] * 2


@pytest.mark.parametrize("waits", [False, True])
async def test_a_def_on_error_runs_in_the_task_and_context_of_the_handler(origin: str, waits: bool) -> None:
    """What on_error logs can include the context variables that the handler has set."""
    tasks: list[anyio.TaskInfo] = []

    class Failing(Scripted):
        def on_error(self, conn: Connection, exc: Exception) -> None:
            tasks.append(anyio.get_current_task())
            self.record("error", current_name.get())

    async def crash(conn: Connection) -> None:
        tasks.append(anyio.get_current_task())
        current_name.set("crash")
        if waits:
            await checkpoints()
        raise LookupError

    component = Failing(crash=crash)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "crash")
        await wait_until_idle(pipe)
        assert component.calls[1:] == [("error", "crash")]
        assert tasks[0] == tasks[1]


async def test_an_exception_has_no_context_from_earlier_exceptions(origin: str) -> None:
    contexts: list[BaseException | None] = []

    class Failing(Scripted):
        def on_error(self, conn: Connection, exc: Exception) -> None:
            contexts.append(exc.__context__)

    async def crash(conn: Connection) -> None:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        raise LookupError

    async with opened(Failing(crash=crash)) as pipe:
        await call_from(origin, pipe.send, "crash")
        await wait_until_idle(pipe)
        assert contexts == [None]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("exc", [asyncio.CancelledError, BaseException])
async def test_a_base_exception_ends_the_connection(
    origin: str, waits: bool, exc: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def raise_it(conn: Connection) -> None:
        if waits:
            await checkpoints()
        raise exc("on purpose")

    component = Scripted(raise_it=raise_it)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "raise_it", "2")
        await wait_until_idle(pipe)
        assert pipe.codes() == [1011]
        await call_from(origin, pipe.write, close_frame(1011))
        await component.until_called("close")
    assert component.calls == [("open",), ("close", 1011, "internal error", True)]
    assert len(errors_in(caplog)) == 1


@pytest.mark.parametrize("exc", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_keyboard_interrupt_and_system_exit_leave_a_first_step(exc: type[BaseException]) -> None:
    async def leave(conn: Connection) -> None:
        raise exc

    component = Scripted(leave=leave)
    async with opened(component) as pipe:
        with pytest.raises(exc):
            await call_from("callback", pipe.send, "leave")
        assert component.names() == ["open"]
        assert not pipe.lifecycle.is_busy


@pytest.mark.parametrize("step", ["first", "waits"])
@pytest.mark.parametrize("end", ["cancelled", "lost", "aborted", "closed", "closed by us"])
async def test_on_close_is_called_once_when_the_connection_ends_during_a_handler(
    origin: str, step: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = anyio.Event()
    calls: list[tuple[Any, ...]] = []

    class Waiting(Scripted):
        async def on_close(self, conn: Connection) -> None:
            await checkpoints()
            self.record("close", conn.close_code)

    async def wait(conn: Connection) -> None:
        try:
            await gate.wait()
        finally:
            calls.append(("end",))

    def stop(pipe: Pipe) -> None:
        ends: dict[str, Callable[[], object]] = {
            "cancelled": tasks.cancel_scope.cancel,
            "lost": pipe.client.transport.abort,
            "aborted": pipe.conn.abort,
            "closed by us": lambda: pipe.conn.close(3000),
        }
        if end in ends:
            ends[end]()
        if "closed" in end:
            pipe.client.transport.write(close_frame(3000))
        pipe.turn()

    def receive(pipe: Pipe) -> None:
        pipe.send("wait")
        if step == "first":
            stop(pipe)

    component = Waiting(wait=wait)
    component.calls = calls
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, tasks=tasks)
        await wait_until_idle(pipe)
        pipe.send("warm up")
        await wait_until_idle(pipe)
        await call_from(origin, receive, pipe)
        if step == "waits":
            await checkpoints()
            await call_from(origin, stop, pipe)
        gate.set()
        await wait_until_idle(pipe)
        await component.until_called("close")
    code = 3000 if "closed" in end else 1006
    assert calls in [[("open",), ("end",), *done, ("close", code)] for done in ([("done", "wait")], [])]
    assert ("done", "wait") in calls or end == "cancelled"
    assert pipe.host.discarded == 1
    del pipe, component
    gc.collect()
    assert errors_in(caplog) == []


@pytest.mark.parametrize("how", ["cancel", "stop"])
async def test_a_server_can_end_while_a_handler_runs(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def wait(conn: Connection) -> None:
        component.record("waiting")
        getattr(server, how)()
        while conn.is_open:
            await anyio.lowlevel.checkpoint()

    component = Scripted(wait=wait)
    async with serving(component) as server, server.client() as client, server.client() as other:
        for one in (client, other):
            await one.send("warm up")
        await client.send("wait")
        await component.until_called("waiting")
        if how == "stop":
            for one in (client, other):
                assert (await one.receive())[0] == CLOSE
                await one.stream.send(close_frame(1012))
                await one.read_to_end()
        with anyio.fail_after(GUARD):
            await server.ended.wait()
    gc.collect()
    assert component.names().count("close") == 2
    assert errors_in(caplog) == []


async def test_on_close_without_a_handler_task_runs_in_a_coroutine_of_python() -> None:
    ended = []

    class Late(MessageComponent):
        async def on_close(self, conn: Connection) -> None:
            ended.append(conn.close_code)

    async with anyio.create_task_group() as tasks:
        pipe = Pipe(Late(), tasks=tasks)
        pipe.lifecycle.connection_lost(None)
    assert ended == [1006]
