"""Async handlers do the same whether their first step runs in a callback or in the handler task."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.handler_tasks import call_from, checkpoints, current_name, wait_until_idle
from support.serving import GUARD, Pipe, Recorder

from pywsapp.connection import Connection

WAITS = ("yield", "event", "child", "group", "timeout", "shield", "thread", "shielded")
STEPS = (*WAITS, "send", "send") * 2 + ("fail", "close")
PROGRAMS = st.lists(st.lists(st.sampled_from(STEPS), max_size=4), max_size=8)


class Interpreter(Recorder):
    """Performs the steps that its messages list."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        for step in json.loads(message):
            self.record(step, current_name.get())
            await self.do(conn, step)
        self.record("end", not conn.is_open)

    def on_error(self, conn: Connection, exc: Exception) -> None:
        self.record("error", repr(exc))

    async def do(self, conn: Connection, step: str) -> None:
        current_name.set(step)
        if step in ("send", "close"):
            conn.send("sent") if step == "send" else conn.close(4000)
        elif step == "fail":
            raise LookupError(step)
        elif step in ("timeout", "shield"):
            with anyio.move_on_after(0) as scope, anyio.CancelScope(shield=step == "shield"):
                await checkpoints()
                self.record("not cut off")
            self.record("cut off", scope.cancelled_caught)
        else:
            await self.wait(step)

    async def wait(self, step: str) -> None:
        if step == "event":
            event = anyio.Event()
            event.set()
            await event.wait()
        elif step == "thread":
            await anyio.to_thread.run_sync(current_name.get)
        elif step in ("child", "group"):
            async with anyio.create_task_group() as group:
                group.start_soon(checkpoints if step == "child" else anyio.sleep_forever)
                if step == "group":
                    group.cancel_scope.cancel()
        elif step == "shielded":
            await anyio.lowlevel.cancel_shielded_checkpoint()
        else:
            await anyio.lowlevel.checkpoint()


async def interpret(origin: str, programs: list[list[str]], at_once: int) -> tuple[list[Any], list[Any]]:
    component = Interpreter()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, tasks=tasks)
        pipe.send("[]")
        await wait_until_idle(pipe)
        messages = [json.dumps(program) for program in programs]
        for start in range(0, len(messages), at_once):
            await call_from(origin, pipe.send, *messages[start : start + at_once])
        await wait_until_idle(pipe)
        pipe.client.transport.abort()
        await call_from(origin, pipe.turn)
        await component.until_called("close")
        with anyio.fail_after(GUARD):
            while not pipe.host.discarded:
                await anyio.lowlevel.checkpoint()
    return component.calls, pipe.client.frames


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@settings(max_examples=60, deadline=None)
@given(PROGRAMS, st.integers(1, 8))
def test_a_first_step_in_a_callback_changes_nothing(backend: str, programs: list[list[str]], at_once: int) -> None:
    slow = anyio.run(interpret, "task", programs, at_once)
    options = {"use_uvloop": True} if backend == "uvloop" else {}
    name = "trio" if backend == "trio" else "asyncio"
    assert anyio.run(interpret, "callback", programs, at_once, backend=name, backend_options=options) == slow
