"""Workers that hang, or whose supervisor has ended: at the start, while they serve, and while they shut down."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import anyio
import pytest
from process.test_supervisor import Buses, importable, supervised  # noqa: F401 - a fixture
from support.program import BACKENDS, BlockingClient, Program, both_libraries
from support.serving import GUARD, TEXT, frame

from pywsapp._process import worker_process
from pywsapp._process.worker_limits import WorkerLimits

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")

#: Seconds; shorter than the limits of 30 seconds and more that a test could reach by mistake.
SOON = 25

#: An event loop beside which the bus is served; it returns each word, and then hangs or is suspended at some of them.
LOOP = """
async def serve():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(context.report_alive)
        while True:
            await anyio.wait_readable(context.bus)
            word = context.bus.recv(100)
            context.bus.sendall(word)
            if word == b"loop":
                loops()
            elif word == b"lock":
                sum(range(10**13))
            elif word == b"suspend":
                os.kill(os.getpid(), signal.SIGSTOP)

def loops():
    while True:
        pass

context.bus.sendall(f"{context.number} {os.getpid()}\\n".encode())
context.listening()
anyio.run(serve)
"""

APP = """
import os, sys, time
import anyio
from pywsapp import App, MessageComponent, Options
from pywsapp._process import worker_process

worker_process._STACK_SECONDS, worker_process._STACK_PAUSE = 20, 0.5

class Hangs(MessageComponent):
    def on_open(self, conn):
        conn.send(f"{app.worker} {os.getpid()}")
    def on_message(self, conn, message):
        print("begun")
        if message == "lock":
            sum(range(10**13))
        while True:
            pass

app = App("*", 0)
app.route("/", Hangs())
"""


# -- while it serves ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "word"),
    [("asyncio", b"loop"), ("asyncio", b"lock"), ("asyncio", b"suspend"), ("trio", b"loop")],
)
async def test_worker_that_hangs_is_replaced(
    word: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_process, "_LONGEST_INTERVAL", 0.02)
    if word != b"suspend":
        monkeypatch.setattr(worker_process, "_STACK_SECONDS", GUARD)
        monkeypatch.setattr(worker_process, "_STACK_PAUSE", 0.5)
    buses = Buses()
    async with supervised(buses, first=LOOP, limits=WorkerLimits(10)) as supervisor:
        first, second = await buses.of(1), await buses.of(2)
        await first.pid(), await second.pid()
        await first.ask(word)
        supervisor._slots[0].worker._limits = WorkerLimits(0.5)
        assert await first.ended()
        await (await buses.of(1, 2)).pid()
        await second.ask(b"still there")
        assert len(buses.all) == 3
    assert "hangs and is killed: its event loop has not run for 0.5 s" in caplog.text
    if word != b"suspend":
        assert "the stacks of worker 1 " in caplog.text
        assert f"in {'loops' if word == b'loop' else 'serve'}\n" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_time_in_which_the_supervisor_does_not_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_LONGEST_INTERVAL", 0.02)
    buses = Buses()
    async with supervised(buses, 1, first=LOOP, limits=WorkerLimits(10)) as supervisor:
        bus = await buses.of(1)
        pid = await bus.pid()
        supervisor._slots[0].worker._limits = WorkerLimits(2)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)  # noqa: ASYNC251 - blocks the supervisor as well
        os.kill(pid, signal.SIGCONT)
        await bus.ask(b"hello")
        await anyio.sleep(1)
        await bus.ask(b"still there")
        assert len(buses.all) == 1


def test_app_that_hangs_is_replaced_and_its_stack_is_logged() -> None:
    with Program(f"{APP}app.run(workers=2, worker_timeout=8)") as program, BlockingClient(program.port) as client:
        worker, pid = client.frame()[1].decode().split()
        client.sock.sendall(frame(TEXT))
        who = rf"worker {worker} \(process {pid}\)"
        program.until(rf"ERROR {who} hangs and is killed: its event loop has not run for 8 s")
        program.until(rf"(?s)the stacks of {who}:\n.*in on_message\n.*{who} was killed by SIGKILL; starting another")


def test_sigquit_logs_the_stacks_of_a_worker_that_goes_on() -> None:
    with Program(f"{APP}app.run(workers=2)") as program, BlockingClient(program.port) as client:
        worker, pid = client.frame()[1].decode().split()
        for times in (1, 2):
            os.kill(int(pid), signal.SIGQUIT)
            program.until(rf"(?s)(the stacks of worker {worker} \(process {pid}\):\n.*){{{times}}}")
        program.send(signal.SIGTERM)
        assert client.receive_close() == 1012
        assert program.end(SOON) == 0


# -- at the start ------------------------------------------------------------------------------------------------------


@both_libraries
def test_first_start_that_hangs_ends_in_time(run: str, tmp_path: Path) -> None:
    source = f"""{APP}
@app.on_startup
def hang():
    if app.worker == 1 and not os.path.exists({str(tmp_path / "hung")!r}):
        os.mkdir({str(tmp_path / "hung")!r})
        time.sleep(1000)
app.run({run}, workers=2, worker_timeout=8)
"""
    with Program(source) as program:
        program.until(r"worker 1 \(process \d+\) hangs and is killed: it has not begun to listen for 8 s")
        program.until(r"(?s)the stacks of worker 1 .*in hang\n")
        program.until(r"worker 1 \(process \d+\) was killed by SIGKILL; starting another one in 0\.1 s")
        program.until("2 workers on")
        program.send(signal.SIGTERM)
        assert program.end(SOON) == 0


@both_libraries
def test_sighup_while_the_first_workers_hang(run: str, tmp_path: Path) -> None:
    script = tmp_path / "chat.py"
    script.write_text(f"{APP}app.on_startup(lambda: (print('hangs'), time.sleep(1000)))\napp.run({run}, workers=2)")
    with Program([str(script)]) as program:
        program.until("(?s)hangs.*hangs")
        script.write_text(f"{APP}app.run({run}, workers=2)")
        program.send(signal.SIGHUP)
        program.until("2 workers on")
        with BlockingClient(program.port):
            pass


# -- without a supervisor ----------------------------------------------------------------------------------------------


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), GUARD).close()
    except ConnectionResetError:
        return True  # the socket was closed during the attempt: ask again
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("run", "message"),
    [
        *((BACKENDS["uvloop"], message) for message in (b"loop", b"lock", b"suspend", b"")),
        *((BACKENDS[name], b"") for name in ("asyncio", "trio")),
    ],
    ids=["loop", "lock", "suspend", "uvloop", "asyncio", "trio"],
)
def test_orphan_ends_whatever_it_does(run: str, message: bytes) -> None:
    """A message makes the worker hang; without one it would accept connections for another minute.

    A worker that hangs is ended from outside of its event loop, so the kind of the loop matters without a message only.
    """
    source = APP.replace('App("*", 0)', 'App("*", 0, options=Options(drain_delay=60))')
    with Program(f"{source}app.run({run}, workers=1 + 1)") as program, BlockingClient(program.port) as client:
        if message == b"suspend":
            os.kill(int(client.frame()[1].split()[1]), signal.SIGSTOP)
        elif message:
            client.sock.sendall(frame(TEXT, message))
            program.until("begun")
        killed_at = time.monotonic()
        program.process.kill()
        program.end()  # the end of the output, so all processes that write to it end
        while accepts(program.port):
            assert time.monotonic() - killed_at < GUARD
            time.sleep(0.02)
        assert time.monotonic() - killed_at < GUARD


def test_orphan_that_starts_ends() -> None:
    source = f"{APP}app.on_startup(lambda: (print('hangs'), time.sleep(1000)))\napp.run(workers=2)"
    with Program(source) as program:
        program.until("(?s)hangs.*hangs")
        killed_at = time.monotonic()
        program.process.kill()
        program.end()
        assert time.monotonic() - killed_at < GUARD
