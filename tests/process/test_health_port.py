"""The supervisor answers health checks for all workers on a port of its own, whatever happens to them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.program import BACKENDS, BlockingClient, Program, both_libraries
from support.serving import GUARD
from support.topic_bench import until as waiting_until

from pywsapp._process import health_port
from pywsapp.routing.health import Health

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers"),
    pytest.mark.once,
]

SOURCE = """
import os
from pywsapp import App, MessageComponent, Options
from pywsapp._process import health_port
health_port._REPORT_SECONDS, health_port._STALE_SECONDS = 0.1, 1.5

class Echo(MessageComponent):
    def on_open(self, conn):
        conn.send(f"{{app.worker}} {{os.getpid()}}")

app = App("*", 0, max_connections=50, options=Options(drain_delay={delay}))
app.route("/", Echo())
app.health(port=0)
app.run({run}, workers=2)
"""


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD)
    connection.request("GET", path)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # another process answers


def health_port_of(program: Program) -> int:
    return int(program.until(r"health checks on http://127.0.0.1:(\d+)/health")[1])


@both_libraries
def test_the_supervisor_answers_for_all_workers(run: str) -> None:
    with Program(SOURCE.format(run=run, delay=1)) as program, ExitStack() as opened:
        port, health = program.port, health_port_of(program)
        ready = {"status": "ok", "connections": 0, "max_connections": 50, "ready_workers": 2}
        until(lambda: ask(health, "/health") == (200, ready))
        pids: set[int] = set()
        while len(pids) < 2:
            client = opened.enter_context(BlockingClient(port))
            pids.add(int(client.frame()[1].split()[1]))
        for pid in pids:
            opened.callback(os.kill, pid, signal.SIGKILL)
        os.kill(pids.pop(), signal.SIGSTOP)  # its event loop answers nothing any more
        until(lambda: (answer := ask(health, "/health"))[0] == 200 and answer[1]["ready_workers"] == 1)
        assert ask(health, "/health/live")[0] == 200
        os.kill(pids.pop(), signal.SIGSTOP)
        until(lambda: ask(health, "/health")[0] == 503)
        assert ask(health, "/health/live")[0] == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 4000,
        b'["1", "ok", 1, 1, false]',
        b'[1, "ok", null, 1, false]',
        b'[1, "ok", 1, 1]',
        b"9" * 4000,
        b"x" * 9000,
    ],
)
async def test_what_is_no_report_ends_its_connection_only(report: bytes, tmp_path: Path) -> None:
    reports, path = health_port._Reports(), str(tmp_path / "health")
    async with anyio.create_task_group() as tasks:
        await tasks.start(reports.receive, path)
        async with await anyio.connect_unix(path) as good, await anyio.connect_unix(path) as bad:
            await good.send(b'[1, "ok", 2, 10, false]\n')
            await bad.send(report + b"\n")
            with anyio.fail_after(GUARD), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await bad.receive()
            await waiting_until(lambda: reports._last)
            assert reports.health() == Health("ok", 2, 10, {"ready_workers": 1})
        await waiting_until(lambda: not reports._last)
        tasks.cancel_scope.cancel()


def test_capacity_is_that_of_all_workers_together() -> None:
    source = SOURCE.format(run=BACKENDS["uvloop"], delay=0).replace("max_connections=50", "max_connections=4")
    with Program(source) as program, ExitStack() as opened:
        port, health = program.port, health_port_of(program)
        until(lambda: ask(health, "/health")[1].get("ready_workers") == 2)
        assert ask(health, "/health/capacity")[0] == ask(port, "/health/capacity")[0] == 200
        clients = [opened.enter_context(BlockingClient(port)) for _ in range(4)]
        assert all(client.frame() for client in clients)
        until(lambda: ask(health, "/health/capacity")[0] == 503)
        full = {"status": "full", "connections": 4, "max_connections": 4, "ready_workers": 2}
        assert ask(health, "/health/capacity") == (503, full)
        assert ask(port, "/health/capacity") == (503, {"status": "full"})
        assert ask(port, "/health")[0] == ask(health, "/health")[0] == 200
        clients[0].sock.close()
        until(lambda: ask(health, "/health/capacity")[0] == ask(port, "/health/capacity")[0] == 200)


@pytest.mark.anyio
async def test_workers_that_count_alone_add_their_numbers() -> None:
    reports = health_port._Reports()
    now = anyio.current_time()
    rows = [[1, "ok", 5, 9, True], [2, "ok", 6, 9, True], [3, "ok", 2, 9, False], [4, "stopping", 7, 9, True]]
    reports._last = {number: (now, row) for number, row in enumerate(rows)}
    assert reports.health() == Health("ok", 8, 18, {"ready_workers": 3})


def test_workers_that_stop_are_not_ready() -> None:
    with Program(SOURCE.format(run=BACKENDS["uvloop"], delay=3600)) as program:
        assert program.port
        health = health_port_of(program)
        until(lambda: ask(health, "/health")[1].get("ready_workers") == 2)
        program.send(signal.SIGTERM)
        # Until a report says it: before that, the workers can be too slow for any report.
        until(lambda: (answer := ask(health, "/health"))[0] == 503 and answer[1]["status"] == "stopping")
        program.send(signal.SIGTERM)
        assert program.end() == 130
    assert "Traceback" not in program.output


def test_while_workers_start_they_are_not_ready(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    source = SOURCE.format(run=BACKENDS["uvloop"], delay=0).replace(
        "app.run",
        f"""
import time
@app.on_startup
def wait():
    while not os.path.exists({str(asked)!r}):
        time.sleep(0.02)
app.run""",
    )
    with Program(source) as program:
        health = health_port_of(program)
        status, content = ask(health, "/health")
        assert (status, content["status"]) == (503, "starting")
        asked.touch()
        until(lambda: ask(health, "/health")[0] == 200)
