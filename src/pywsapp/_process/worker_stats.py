"""The numbers of all workers together: any worker asks the supervisor, which asks all of them.

A worker and its supervisor exchange lines of JSON over a socket of their own:

    from the supervisor   ["report", NUMBER]            send your numbers
                          ["total", NUMBER, STATS, WORKERS, MISSING]   what you have asked for
    from a worker         ["report", NUMBER, STATS]     its numbers; NUMBER is 0 for its last ones, when it ends
                          ["ask", NUMBER]               send me the numbers of all workers

The supervisor keeps what each worker has reported last. The counts of a worker that has ended stay in the total.
So the total never decreases, also if a worker is killed: what it had counted since its last report is lost, but no
total has had that. A worker that does not answer in time is counted as missing, with its last report in the total.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._process.stats_messages import NO_STATS, added, from_json, to_json, without_gauges
from pywsapp.stats import Stats, WorkerStats

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

#: Seconds in which a worker must answer the supervisor, and in which the supervisor must answer a worker.
ANSWER_SECONDS = 1.0
_TOTAL_SECONDS = 2.5
#: Seconds in which a worker that ends can send its last numbers.
_LAST_SECONDS = 0.5
_READ_SIZE = 65536
_MAX_LINE = 16 * 1024 * 1024


class JsonChannel:
    """Lines of JSON over one end of a pair of stream sockets.

    Args:
        sock: the socket; it must not block.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()
        self._unsent = bytearray()
        self._filled = anyio.Event()

    def send(self, *values: Any) -> None:
        """Queue a line; `run` sends it. Never blocks."""
        self._unsent += json.dumps(values, separators=(",", ":")).encode() + b"\n"
        self._filled.set()

    async def run(self, handle: Callable[..., None]) -> None:
        """Send what is queued, and call a function with the values of each line, until the other side has ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send_queued)
            while self.read(handle):
                await anyio.wait_readable(self._sock)
            tasks.cancel_scope.cancel()

    def read(self, handle: Callable[..., None]) -> bool:
        """Call a function with the values of each line that has come; return whether more can come."""
        while True:
            try:
                data = self._sock.recv(_READ_SIZE)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._received += data
            lines = []
            if b"\n" in data:
                *lines, self._received = self._received.split(b"\n")
            for line in lines:
                try:
                    handle(*json.loads(line))
                except (
                    AttributeError,
                    KeyError,
                    TypeError,
                    ValueError,
                ) as exc:  # of a worker with other classes of numbers
                    logger.debug(
                        "numbers between processes cannot be read: %r",
                        exc,
                        extra=log_fields("stats.not_read", error=repr(exc)),
                    )
            if not data or len(self._received) > _MAX_LINE:
                return False

    async def _send_queued(self) -> None:
        while True:
            await self._filled.wait()
            while self._unsent:
                try:
                    del self._unsent[: self._sock.send(self._unsent)]
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                except OSError:
                    self._unsent.clear()
            self._filled = anyio.Event()

    def send_last(self, *values: Any) -> None:
        """Send a line behind what is queued, and wait for a moment until the other side has taken it; blocks."""
        self.send(*values)
        with suppress(OSError):
            self._sock.settimeout(_LAST_SECONDS)
            self._sock.sendall(self._unsent)
        self._unsent.clear()
        with suppress(OSError):
            self._sock.setblocking(False)


async def _no_stats() -> Stats:
    return NO_STATS


class OwnStats:
    """The worker's end: reports its numbers, and asks for those of all workers.

    Args:
        sock: the socket to the supervisor.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._channel = JsonChannel(sock)
        self._collect: Callable[[], Awaitable[Stats]] = _no_stats
        self._tasks: TaskGroup | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[anyio.Event, list[WorkerStats]]] = {}

    async def run(self, collect: Callable[[], Awaitable[Stats]]) -> None:
        """Answer the supervisor until cancelled.

        Args:
            collect: returns the numbers of this process.
        """
        self._collect = collect
        async with anyio.create_task_group() as self._tasks:
            await self._channel.run(self._handle)
            self._tasks.cancel_scope.cancel()

    async def _report(self, number: int) -> None:
        self._channel.send("report", number, to_json(await self._collect()))

    def _handle(self, kind: str, number: int, *values: Any) -> None:
        if kind == "report":
            assert self._tasks is not None
            self._tasks.start_soon(self._report, number)
        elif kind == "total" and number in self._asked:
            answered, answer = self._asked[number]
            stats, workers, missing = values
            answer.append(WorkerStats(from_json(stats), int(workers), int(missing)))
            answered.set()

    def report_last(self, stats: Stats) -> None:
        """Send the last numbers of this process, which ends; blocks for a moment."""
        self._channel.send_last("report", 0, to_json(stats))

    async def ask(self, workers: int) -> WorkerStats:
        """Return the numbers of all workers.

        If the supervisor does not answer, these are the numbers of this process alone, and all others are missing.

        Args:
            workers: the number of workers.
        """
        number, answered, answer = next(self._numbers), anyio.Event(), list[WorkerStats]()
        self._asked[number] = answered, answer
        try:
            self._channel.send("ask", number)
            with anyio.move_on_after(_TOTAL_SECONDS):
                await answered.wait()
        finally:
            del self._asked[number]
        return answer[0] if answer else WorkerStats(await self._collect(), workers, workers - 1)


class ReportingWorker:
    """The supervisor's end of one worker process.

    Attributes:
        last: its last numbers.
        is_asked: whether it must answer, since it listens.
    """

    def __init__(self) -> None:
        self.last: Stats | None = None
        self.is_asked = False
        self._channel: JsonChannel | None = None
        self._answered: dict[int, anyio.Event] = {}
        self._on_ask: Callable[[int, ReportingWorker], None] = lambda number, worker: None

    async def run(self, sock: socket.socket, on_ask: Callable[[int, ReportingWorker], None]) -> None:
        """Serve the worker until cancelled, or until it has ended.

        Args:
            sock: the socket to the worker.
            on_ask: called when the worker asks for the numbers of all workers.
        """
        self._on_ask = on_ask
        self._channel = channel = JsonChannel(sock)
        try:
            await channel.run(self._handle)
        finally:
            channel.read(self._handle)  # its last numbers
            self._channel = None

    def _handle(self, kind: str, number: int, stats: Any = None) -> None:
        if kind == "report":
            self.last = from_json(stats)
            if number in self._answered:
                self._answered[number].set()
        elif kind == "ask":
            self._on_ask(number, self)

    def answer(self, number: int, stats: WorkerStats) -> None:
        """Send the worker the numbers that it has asked for."""
        if self._channel is not None:
            self._channel.send("total", number, to_json(stats.total), stats.workers, stats.missing)

    async def report(self, number: int) -> bool:
        """Request the numbers of the worker; return whether it has answered in time."""
        if self._channel is None:
            return False
        self._answered[number] = answered = anyio.Event()
        try:
            self._channel.send("report", number)
            with anyio.move_on_after(ANSWER_SECONDS):
                await answered.wait()
        finally:
            del self._answered[number]
        return answered.is_set()


class StatsOfWorkers:
    """The numbers of all workers; the supervisor has one.

    Args:
        workers: how many workers there should be.
        histories: returns how many topics the supervisor keeps, and their bytes.
    """

    def __init__(self, workers: int, histories: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> None:
        self._workers = workers
        self._histories = histories
        self._living: dict[ReportingWorker, None] = {}
        self._ended: Stats | None = None
        self._numbers = itertools.count(1)
        self._waiting: list[tuple[int, ReportingWorker]] = []
        self._has_question = anyio.Event()

    def add(self) -> ReportingWorker:
        """Return the end for a new worker process."""
        worker = ReportingWorker()
        self._living[worker] = None
        return worker

    def remove(self, worker: ReportingWorker) -> None:
        """Keep what a worker that has ended has counted."""
        del self._living[worker]
        if worker.last is not None:
            self._ended = added([self._ended, without_gauges(worker.last)])

    def ask(self, number: int, worker: ReportingWorker) -> None:
        """Note the question of a worker, which `run` answers."""
        self._waiting.append((number, worker))
        self._has_question.set()

    async def run(self) -> None:
        """Answer the questions of workers until cancelled: all that wait with one total."""
        while True:
            await self._has_question.wait()
            self._has_question = anyio.Event()
            waiting, self._waiting = self._waiting, []
            total = await self.total()
            for number, worker in waiting:
                worker.answer(number, total)

    async def total(self) -> WorkerStats:
        """Return the numbers of all workers; blocks until they have answered, for `ANSWER_SECONDS` at most."""
        asked = [worker for worker in self._living if worker.is_asked]
        answers: list[bool] = []

        async def ask(worker: ReportingWorker) -> None:
            answers.append(await worker.report(next(self._numbers)))

        async with anyio.create_task_group() as tasks:
            for worker in asked:
                tasks.start_soon(ask, worker)
        missing = answers.count(False) + max(0, self._workers - len(asked))
        return WorkerStats(self._sum(self._living), self._workers, missing)

    def _sum(self, workers: Iterable[ReportingWorker]) -> Stats:
        histories, size = self._histories()
        own = replace(NO_STATS, topics=NO_STATS.topics._replace(histories=histories, history_bytes=size))
        total: Stats = added([own, self._ended, *(worker.last for worker in workers)])
        return total
