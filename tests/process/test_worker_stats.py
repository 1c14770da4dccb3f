"""The numbers of all workers together: over socket pairs in one process, and in real workers."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import anyio
import pytest
from support.program import BlockingClient, Program, both_libraries
from support.serving import GUARD, TEXT, frame
from support.waiting import until_blocked

from pywsapp._process import worker_stats as module
from pywsapp._process.stats_messages import NO_STATS
from pywsapp._process.worker_stats import JsonChannel, OwnStats, ReportingWorker, StatsOfWorkers
from pywsapp.stats import Stats

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers"), pytest.mark.once]


class Worker:
    """Both ends of one worker, in this process."""

    def __init__(self, supervisor: StatsOfWorkers) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.stats = replace(NO_STATS, handshakes=1, open_connections=1)
        self.own = OwnStats(self.theirs)
        self.supervisor = supervisor
        self.end: ReportingWorker = supervisor.add()
        self.end.is_asked = True

    async def collect(self) -> Stats:
        return self.stats

    @asynccontextmanager
    async def running(self, *, answers: bool = True) -> AsyncIterator[None]:
        with self.ours, self.theirs:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.end.run, self.ours, self.supervisor.ask)
                if answers:
                    tasks.start_soon(self.own.run, self.collect)
                await until_blocked()
                yield
                tasks.cancel_scope.cancel()
            self.supervisor.remove(self.end)


def counted(stats: Stats) -> tuple[int, int]:
    return stats.handshakes, stats.open_connections


@pytest.fixture(autouse=True)
def long_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANSWER_SECONDS", "_TOTAL_SECONDS"):
        monkeypatch.setattr(module, name, GUARD)


@pytest.mark.anyio
async def test_a_worker_asks_for_the_numbers_of_all() -> None:
    supervisor = StatsOfWorkers(2)
    first, second = Worker(supervisor), Worker(supervisor)
    async with anyio.create_task_group() as tasks, first.running(), second.running():
        tasks.start_soon(supervisor.run)
        second.stats = replace(NO_STATS, handshakes=10, open_connections=5)
        for worker in (first, second):
            total, workers, missing = await worker.own.ask(2)
            assert (counted(total), workers, missing) == ((11, 6), 2, 0)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_worker_that_does_not_answer_is_missing_with_its_last_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    supervisor = StatsOfWorkers(3)
    first, second = Worker(supervisor), Worker(supervisor)
    async with first.running(), second.running(answers=False):
        total, _, missing = await supervisor.total()
        assert (counted(total), missing) == ((1, 1), 2)  # the third one was never started
        second.own.report_last(replace(NO_STATS, handshakes=7, open_connections=3))
        await until_blocked()
        total, _, missing = await supervisor.total()
        assert (counted(total), missing) == ((8, 4), 2)


@pytest.mark.anyio
async def test_what_an_ended_worker_has_counted_stays() -> None:
    supervisor = StatsOfWorkers(1)
    first = Worker(supervisor)
    async with first.running():
        assert counted((await supervisor.total()).total) == (1, 1)
        first.stats = replace(NO_STATS, handshakes=5, open_connections=2)
        first.own.report_last(first.stats)
    assert await supervisor.total() == (replace(NO_STATS, handshakes=5), 1, 1)
    second = Worker(supervisor)
    async with second.running():
        assert counted((await supervisor.total()).total) == (6, 1)


@pytest.mark.anyio
async def test_without_an_answer_of_the_supervisor_the_others_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOTAL_SECONDS", 0.05)
    worker = Worker(StatsOfWorkers(4))  # whose `run` does not run
    async with worker.running():
        total, workers, missing = await worker.own.ask(4)
        assert (counted(total), workers, missing) == ((1, 1), 4, 3)


@pytest.mark.anyio
async def test_large_numbers_pass_a_full_socket() -> None:
    supervisor = StatsOfWorkers(1)
    worker = Worker(supervisor)
    worker.stats = replace(NO_STATS, limits={f"{number}" * 50: number for number in range(5_000)})
    async with worker.running():
        assert (await supervisor.total()).missing == 0
        assert worker.end.last == worker.stats


@pytest.mark.anyio
async def test_lines_that_are_no_numbers_are_skipped() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        worker = ReportingWorker()
        worker._channel = channel = JsonChannel(ours)
        theirs.sendall(b'{\n[1]\n["report", 0, 5]\n["report", 0, null]\n["other", 1]\n["report", 0')
        assert channel.read(worker._handle)
        assert worker.last is None
        theirs.close()
        assert not channel.read(worker._handle)


SOURCE = """
import os, time
from pywsapp import App, MessageComponent
from pywsapp.auth import public
from pywsapp._process import worker_stats
worker_stats.ANSWER_SECONDS, worker_stats._TOTAL_SECONDS = 3, 10

class Echo(MessageComponent):
    def on_open(self, conn):
        conn.send(f"{{app.worker}} {{os.getpid()}}")
    def on_message(self, conn, message):
        conn.send(message)

app = App("*", 0)
app.route("/room/{{name}}", Echo())
app.metrics(guard=public)
app.metrics(port=0)
app.run({run}, workers=2)
"""


class Workers:
    """A program with two workers, and clients of both."""

    def __init__(self, program: Program, opened: ExitStack) -> None:
        self.port = program.port
        self.metrics_port = int(program.until(r"metrics on http://127.0.0.1:(\d+)/metrics")[1])
        self.opened = opened
        self.clients: dict[int, tuple[BlockingClient, int]] = {}
        self.handshakes = 0

    def connect(self) -> None:
        """Connect until both workers have a client; the others stay open too."""
        while len(self.clients) < 2:
            client = self.opened.enter_context(BlockingClient(self.port, path=f"/room/{self.handshakes}"))
            self.handshakes += 1
            number, pid = map(int, client.frame()[1].split())
            if number in self.clients:
                client.sock.close()
            else:
                self.clients[number] = client, pid

    def echo(self, times: int) -> None:
        for client, _ in self.clients.values():
            client.sock.sendall(frame(TEXT, b"hello") * times)
            for _ in range(times):
                client.frame()

    def scrape(self, port: int | None = None) -> dict[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=GUARD)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return {name: float(value) for name, value in re.findall(r"^([^#].*) (\S+)$", text, re.MULTILINE)}

    def until(self, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        deadline = time.monotonic() + GUARD
        while not condition(found := self.scrape()):
            assert found[RECEIVED] >= 200
            assert time.monotonic() < deadline, found
            time.sleep(0.05)  # other processes change it
        return found


RECEIVED = 'pywsapp_messages_received_total{route="/room/{name}"}'
SENT = 'pywsapp_messages_sent_total{route="/room/{name}"}'
HANDSHAKES = 'pywsapp_handshakes_total{route="/room/{name}"}'
OPEN = 'pywsapp_connections{route="/room/{name}"}'


def counters(found: dict[str, float]) -> dict[str, float]:
    """Return the values that must never decrease."""
    return {name: value for name, value in found.items() if re.match(r"\w+_(total|bucket|count|sum)\b", name)}


@both_libraries
def test_one_scrape_sees_all_workers_whatever_happens_to_them(run: str) -> None:
    with Program(SOURCE.format(run=run)) as program, ExitStack() as opened:
        workers = Workers(program, opened)
        workers.connect()
        workers.echo(100)
        for port in (workers.port, workers.port, workers.port, workers.metrics_port):
            found = workers.scrape(port)
            assert (found[RECEIVED], found[SENT]) == (200, 200 + workers.handshakes)
            assert (found[HANDSHAKES], found["pywsapp_workers"]) == (workers.handshakes, 2)
            assert found["pywsapp_workers_missing"] == 0
        assert workers.until(lambda found: found[OPEN] == 2)

        os.kill(workers.clients.pop(1)[1], signal.SIGKILL)
        found = workers.until(lambda found: found["pywsapp_workers_missing"] == 0 and found[OPEN] == 1)
        assert (found[RECEIVED], found[HANDSHAKES], found[OPEN]) == (200, workers.handshakes, 1)
        workers.connect()
        workers.echo(10)
        assert workers.scrape()[RECEIVED] == 220

        os.kill(workers.clients[2][1], signal.SIGSTOP)
        found = workers.scrape(workers.metrics_port)
        assert (found["pywsapp_workers_missing"], found[RECEIVED], found[OPEN]) == (1, 220, 2)
        os.kill(workers.clients[2][1], signal.SIGCONT)

        workers.until(lambda found: found["pywsapp_workers_missing"] == 0)
        workers.echo(5)
        before = counters(workers.scrape())
        program.send(signal.SIGHUP)
        for client, _ in workers.clients.values():
            client.receive_close()
        program.until("all workers are replaced")
        found = workers.scrape()
        assert (found[RECEIVED], found[OPEN], found["pywsapp_workers_missing"]) == (230, 0, 0)
        assert found['pywsapp_closed_connections_total{code="1012",route="/room/{name}"}'] == 2
        after = counters(found)
        assert {name: value for name, value in before.items() if after.get(name, 0) < value} == {}
        assert after["pywsapp_broker_connects_total"] == before["pywsapp_broker_connects_total"] + 2
