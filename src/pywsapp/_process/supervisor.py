"""Worker processes that share listening sockets, and the supervisor that keeps them running.

Sockets

The supervisor opens the listening sockets and never accepts connections. Each worker has a number and a *slot*. A slot
has listening sockets that stay open when the process in the slot changes. While a worker restarts, new connections wait
in the queue of its socket, so none is refused.

On Linux each slot has its own socket on the same port (SO_REUSEPORT), and the kernel distributes connections over these
sockets by a hash. The alternative is one socket from which all workers accept. It gives each connection to the first
worker that wakes up, and an event loop that accepts until the queue is empty gets all connections of a burst. The table
is for 2,000 WebSockets over four workers on two cores. It shows the smallest number of connections of a worker, divided
by the largest:

                       one after the other       500 at once
                       own      shared           own      shared
    asyncio            0.87     0.97             0.94     0.42
    uvloop             0.93     0.34             0.93     0.11
    trio               0.95     0.34             0.89     0.35

A WebSocket stays in the process that accepted it, often for hours, so an even distribution matters. The disadvantage of
own sockets: connections for a slot without a running worker wait for the next worker. Unix sockets, inherited sockets
and other systems, whose SO_REUSEPORT does not balance, use one shared socket.

Each worker is in its own session, so Ctrl-C in the terminal only reaches the supervisor. A worker sees the end of its
supervisor, even after SIGKILL, because the socket between them closes.
"""

from __future__ import annotations

import functools
import logging
import random
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup

from pywsapp._log_fields import log_fields
from pywsapp._process.background import tasks_of_block
from pywsapp._process.connection_counts import ConnectionCounts
from pywsapp._process.file_watch import FileWatch
from pywsapp._process.service_manager import ServiceManager
from pywsapp._process.signals import run_until_signal
from pywsapp._process.worker_context import command_line
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp._process.worker_process import Attach, WorkerProcess
from pywsapp._process.worker_stats import StatsOfWorkers
from pywsapp._server.bind import ListeningSocket, address_of, bind
from pywsapp.exceptions import ConfigurationError

logger = logging.getLogger("pywsapp")

#: Seconds until a crashed worker is started again; doubled with each crash that follows soon.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
#: After so many seconds of running, the pause of a worker is `FIRST_PAUSE` again.
_STABLE_SECONDS = 10.0
#: Seconds that a worker has after its time limit until it is killed.
_SPARE_SECONDS = 2.0

#: Called with the listening addresses, and a text about the workers for the start-up line.
Announce = Callable[[Sequence[tuple[ListeningSocket, str]], str], None]


class _Slot:
    """A worker's number and listening sockets, and the process that has them now."""

    def __init__(self, number: int, sockets: list[list[socket.socket]]) -> None:
        self.number = number
        self.sockets = sockets
        self.worker: WorkerProcess
        self.next_attempt = 0.0  # to replace a worker that has reached a limit, in seconds of the event loop's clock
        self._failures = 0

    def pause(self) -> float:
        """Return the seconds to wait before a crashed worker is started again, and count the crash."""
        if self.worker.listens and anyio.current_time() - self.worker.began >= _STABLE_SECONDS:
            self._failures = 0
        pause: float = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        return pause * random.uniform(0.75, 1)


class Supervisor:
    """Keep a number of worker processes running on shared listening sockets.

    Args:
        listeners: the addresses to listen on.
        workers: the number of workers.
        command: the command line of a worker; the process must call `worker_context()`.
        limit: seconds that a worker has to drain before it is killed, unless it says how many it needs.
        limits: when a worker hangs, and when it has worked for long enough.
        attach: called for each worker process that starts, with the worker's number and the supervisor's end of a
            stream socket. The other end is the worker's `WorkerContext.bus`; it closes when the worker ends. None for
            no bus.
        stats: the numbers of all workers.

    Attributes:
        addresses: the listening addresses, each as `host:port` or `unix:path`.
        on_replaced: called when an attempt to replace all workers has ended.
        remedy: what a developer can do after such an attempt has failed, for the log.
    """

    def __init__(
        self,
        listeners: Sequence[ListeningSocket],
        workers: int,
        command: Sequence[str],
        *,
        limit: float,
        limits: WorkerLimits,
        attach: Attach | None = None,
        stats: StatsOfWorkers | None = None,
    ) -> None:
        self.addresses: list[tuple[ListeningSocket, str]] = []
        self._listeners = listeners
        self._counts = ConnectionCounts(workers)
        self._stats = StatsOfWorkers(workers) if stats is None else stats
        self._count = workers
        self._command = command
        self._limit = limit
        self._limits = limits
        self._attach = attach
        self._slots: list[_Slot] = []
        self._living: set[WorkerProcess] = set()
        self._keep_scope: anyio.CancelScope | None = None
        self._replace_scope: anyio.CancelScope | None = None
        self._processes: TaskGroup
        self._replace: anyio.Event
        self._replace_all = False  # the workers of all slots
        self._worn_out: dict[_Slot, None] = {}  # slots whose worker has reached a limit
        self._any_listened = True
        self.on_replaced: Callable[[], None] = lambda: None
        self.remedy = "fix the program and send SIGHUP again"

    async def run(self, started: Callable[[], None]) -> None:
        """Run the workers until `stop` is called and they have drained; a cancellation ends them at once.

        Args:
            started: called when the first workers listen.

        Raises:
            ConfigurationError: an address cannot be used; the message says why.
            SystemExit: with status 1, if no worker listens.
        """
        self._replace = anyio.Event()
        with self._counts, ExitStack() as opened:
            self._open(opened)
            async with anyio.create_task_group() as self._processes:
                for slot in self._slots:
                    slot.worker = self._start(slot)
                with anyio.CancelScope() as self._keep_scope:
                    await self._keep_all(started)
                opened.close()  # first, so that new clients are refused and do not wait for workers that never start
                for worker in self._living:
                    worker.retire()
        if not self._any_listened:
            sys.exit(1)

    def stop(self) -> None:
        """Make all workers drain; `run` returns when they have ended."""
        if self._keep_scope is not None:
            self._keep_scope.cancel()

    def replace(self) -> None:
        """Replace the workers: they end when all of their replacements listen. An attempt that is under way ends."""
        self._replace_all = True
        self._replace.set()
        if self._replace_scope is not None:
            self._replace_scope.cancel()

    def _open(self, opened: ExitStack) -> None:
        shares: list[list[list[socket.socket]]] = []
        for listener in self._listeners:
            shares.append(sockets := share(listener, self._count))
            for sock in (sock for some in sockets for sock in some):
                opened.callback(sock.close)
            self.addresses += [(listener, address_of(sock)) for sock in sockets[0]]
        self._slots = [_Slot(number + 1, [share[number] for share in shares]) for number in range(self._count)]

    def _start(self, slot: _Slot) -> WorkerProcess:
        worker = WorkerProcess(slot.number, self._limits, self._stats)
        worker.on_started = self._send_processes
        worker.on_peer_message = functools.partial(self._pass_on, worker)
        worker.on_worn_out = functools.partial(self._replace_worn_out, slot, worker)
        self._living.add(worker)
        self._processes.start_soon(self._run, worker, slot)
        return worker

    def _send_processes(self) -> None:
        pids = [worker.pid for worker in self._living if worker.pid]
        for worker in self._living:
            worker.send_processes(pids)

    def _pass_on(self, sender: WorkerProcess, words: Sequence[str]) -> None:
        for worker in self._living:
            if worker is not sender:
                worker.send_peer_message(words)

    async def _run(self, worker: WorkerProcess, slot: _Slot) -> None:
        try:
            await worker.run(self._command, slot.sockets, self._counts, self._attach, self._limit)
        finally:
            self._living.discard(worker)
            self._send_processes()
            for other in self._living:
                other.send_end_of(worker)
        if (slot.worker is not worker or worker.retired) and worker.listens and worker.status:
            logger.warning(
                "%s was stopped, and %s",
                worker,
                worker.end,
                extra=log_fields("worker.ended", worker_number=worker.number, worker_pid=worker.pid, reason=worker.end),
            )

    async def _keep_all(self, started: Callable[[], None]) -> None:
        async with anyio.create_task_group() as keepers:
            first = [slot.worker for slot in self._slots]
            for slot in self._slots:
                keepers.start_soon(self._keep, slot)
            keepers.start_soon(self._replace_on_request)
            for worker in first:
                await worker.started.wait()
            if not any(slot.worker.listens for slot in self._slots):
                logger.error("no worker listens; their output above says why", extra=log_fields("worker.none_listens"))
                self._any_listened = False
                keepers.cancel_scope.cancel()
                return
            started()
            await anyio.sleep_forever()

    async def _keep(self, slot: _Slot) -> None:
        """Start another worker when the worker of the slot has ended, or begins to leave, by itself."""
        while True:
            worker = slot.worker
            await worker.leaving.wait()
            if slot.worker is not worker:
                continue
            pause = slot.pause()
            if worker.ended.is_set():
                logger.error(
                    "%s %s; starting another one in %g s",
                    worker,
                    worker.end,
                    round(pause, 1),
                    extra=log_fields(
                        "worker.ended",
                        worker_number=worker.number,
                        worker_pid=worker.pid,
                        reason=worker.end,
                        retry_seconds=round(pause, 1),
                    ),
                )
            else:
                logger.info(
                    "%s shuts down by itself; another one takes its place",
                    worker,
                    extra=log_fields("worker.stopping", worker_number=worker.number, worker_pid=worker.pid),
                )
            await anyio.sleep(pause)
            if slot.worker is worker:
                slot.worker = self._start(slot)

    def _replace_worn_out(self, slot: _Slot, worker: WorkerProcess) -> None:
        """Have a worker replaced that has reached a limit, unless that failed a short while ago."""
        if slot.worker is worker and anyio.current_time() >= slot.next_attempt:
            self._worn_out[slot] = None
            self._replace.set()

    async def _replace_on_request(self) -> None:
        while True:
            await self._replace.wait()
            self._replace = anyio.Event()
            with anyio.CancelScope() as self._replace_scope:
                await self._replace_due()
            self._replace_scope = None

    async def _replace_due(self) -> None:
        if self._replace_all:
            self._replace_all = False
            logger.info(
                "replacing %s", _count(self._count), extra=log_fields("worker.replacing_all", count=self._count)
            )
            if await self._replace_in(self._slots, self.remedy):
                logger.info("all workers are replaced", extra=log_fields("worker.replaced_all", count=self._count))
            self.on_replaced()
        while self._worn_out:
            slot = next(iter(self._worn_out))
            del self._worn_out[slot]
            if slot.worker.worn_out is not None:
                logger.info(
                    "replacing %s: %s",
                    slot.worker,
                    slot.worker.worn_out,
                    extra=log_fields(
                        "worker.replacing",
                        worker_number=slot.worker.number,
                        worker_pid=slot.worker.pid,
                        reason=slot.worker.worn_out,
                    ),
                )
                if not await self._replace_in([slot], f"trying again in {LONGEST_PAUSE:g} s"):
                    slot.next_attempt = anyio.current_time() + LONGEST_PAUSE

    async def _replace_in(self, slots: Sequence[_Slot], advice: str) -> bool:
        """Start replacements; when all of them listen, retire the old workers at the same time and wait for their end.

        So each client is closed once, and the clients that come back find all of the new workers.

        Args:
            slots: where to replace the workers.
            advice: what to do if a replacement does not listen, for the log.

        Returns:
            Whether the workers are replaced.
        """
        new = [self._start(slot) for slot in slots]
        old: list[WorkerProcess] = []
        try:
            for worker in new:
                await worker.started.wait()
                if not worker.listens or worker.leaving.is_set():
                    logger.error(
                        "the new %s %s; the old workers stay, %s",
                        worker,
                        worker.end,
                        advice,
                        extra=log_fields(
                            "worker.not_replaced", worker_number=worker.number, worker_pid=worker.pid, reason=worker.end
                        ),
                    )
                    return False
            old = [slot.worker for slot in slots]
            for slot, worker in zip(slots, new, strict=True):
                slot.worker = worker
        finally:
            for worker in old or new:
                worker.retire(replaced=True)
        for worker in old:
            await worker.ended.wait()
        return True


async def supervise(
    listeners: Sequence[ListeningSocket],
    workers: int,
    announce: Announce,
    limit: float,
    limits: WorkerLimits,
    attach: Attach | None = None,
    stats: StatsOfWorkers | None = None,
    manager: ServiceManager | None = None,
    watch: FileWatch | None = None,
) -> bool:
    """Run worker processes with the program's command line until a signal ends the program.

    The first SIGINT or SIGTERM drains the workers, the second one ends them at once. SIGHUP replaces them.

    Args:
        listeners: the addresses to listen on.
        workers: the number of workers.
        announce: called when the workers listen.
        limit: seconds that a worker needs to drain at most, unless it says how many it needs; the supervisor kills it
            some seconds later.
        limits: see `Supervisor`.
        attach: see `Supervisor`.
        stats: see `Supervisor`.
        manager: is told about the start, reloads and the end.
        watch: the workers are replaced after each change of its files.

    Returns:
        Whether a second signal cancelled it.

    Raises:
        ConfigurationError: an address cannot be used, or there is no command line to run again.
        SystemExit: with status 1, if no worker listens.
    """
    service = manager or ServiceManager()
    supervisor = Supervisor(
        listeners, workers, command_line(), limit=limit + _SPARE_SECONDS, limits=limits, attach=attach, stats=stats
    )

    def started() -> None:
        announce(supervisor.addresses, f": {_count(workers)}")
        service.ready()

    def stop() -> None:
        service.stopping()
        supervisor.stop()

    def reload() -> None:
        service.reloading()
        supervisor.replace()

    async def run() -> None:
        async with tasks_of_block() as tasks:
            tasks.start_soon(service.keep_alive)
            if watch is not None:
                supervisor.remedy = "fix the program and save it"
                tasks.start_soon(watch.follow, reload)
            await supervisor.run(started)

    supervisor.on_replaced = service.ready
    return await run_until_signal(run, stop, None, reload=reload)


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def share(listener: ListeningSocket, count: int) -> list[list[socket.socket]]:
    """Open the listening sockets of one listener for a number of processes: each its own, or the same for all.

    Raises:
        ConfigurationError: the address cannot be used; the message says why.
    """
    sockets = bind(listener)
    if sys.platform != "linux" or listener.fd is not None or listener.unix_path is not None:
        return [sockets] * count
    # The first call finds out whether the port is free; with SO_REUSEPORT another program could share it.
    port = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    return [bind(replace(listener, port=port, reuse_port=True)) for _ in range(count)]


def check_workers(workers: int | None) -> int:
    """Return the number of workers, 1 for None.

    Raises:
        ConfigurationError: it is not a number from 1 up, or this system or thread cannot have several workers.
    """
    if workers is None:
        return 1
    if type(workers) is not int or workers < 1:
        raise ConfigurationError(f"workers must be a number of processes of at least 1, not {workers!r}")
    if workers > 1 and sys.platform == "win32":
        raise ConfigurationError("several workers need Unix signals, which Windows does not have; remove workers=")
    if workers > 1 and threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "several workers need the main thread, because only it gets signals; call run() in the main thread"
        )
    return workers
