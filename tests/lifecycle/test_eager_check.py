"""The check that first steps of coroutines work, on this interpreter and on one whose asyncio is different."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from asyncio import tasks

_enter, _leave = tasks._enter_task, tasks._leave_task

def fail(*args):
    raise SystemError

if "{kind}" == "absent":
    del tasks._enter_task, tasks._leave_task
elif "{kind}" == "empty":
    tasks._enter_task = tasks._leave_task = lambda loop, task: None
elif "{kind}" == "failing":
    tasks._enter_task = fail
elif "{kind}" == "without a check":
    tasks._enter_task = lambda loop, task: None if asyncio.current_task(loop) else _enter(loop, task)
    tasks._leave_task = lambda loop, task: _leave(loop, task)

import anyio
from pywsapp import MessageComponent, connect, App
from pywsapp import cli

class Async(MessageComponent):
    async def on_message(self, conn, message):
        await anyio.lowlevel.checkpoint()
        await conn.send(str(asyncio.current_task() is not None) + message)

async def main():
    app = App("localhost", 0)
    app.route("/", Async())
    async with anyio.create_task_group() as group:
        await group.start(app.serve)
        port = str(app.port)
        async with connect("ws://localhost:" + port + "/") as conn:
            await conn.send("hello")
            print(await conn.receive())
        app.stop()

anyio.run(main, backend_options=dict(use_uvloop={uvloop}))
cli.main(["--version"])
"""


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["as it is", "absent", "empty", "failing", "without a check"])
def test_handlers_run_in_a_task_on_any_interpreter(kind: str, uvloop: bool) -> None:
    program = PROGRAM.format(kind=kind, uvloop=uvloop)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "Truehello"
    assert second.endswith("async handlers start in their own task)") == (kind != "as it is")
