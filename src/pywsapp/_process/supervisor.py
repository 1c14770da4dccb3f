"""Worker processes that share listening sockets, and the supervisor that keeps them running.

Theory

The supervisor opens the listening sockets and never accepts. Each worker has a number and, with it, a *slot*: sockets
that stay open while the process in the slot changes. Connections that come meanwhile wait in the socket's own queue, so
none is refused, whether a worker has crashed or is being replaced.

On Linux each slot has a socket of its own on the same port (SO_REUSEPORT) and the kernel spreads connections over them
by a hash. The other way, one socket from which all workers accept, gives the connection to whoever is awake first, and
a loop that accepts until the queue is empty takes all of a burst. 2,000 WebSockets over four workers on two cores gave,
as the smallest share of a worker in its largest:

                       one after the other       500 at once
                       own      one for all      own      one for all
    asyncio            0.87     0.97             0.94     0.42
    uvloop             0.93     0.34             0.93     0.11
    trio               0.95     0.34             0.89     0.35

A WebSocket stays for hours where it was accepted, so this is what counts. The price: what the hash gives to a slot
whose worker is not there waits for the next one. Unix sockets, sockets that were inherited, and other systems, whose
SO_REUSEPORT does not balance, have the one socket for all.

A process in a slot is one of these; only in the first two it is the slot's own:

    starting -> listening -> retired -> ended        SIGTERM, and SIGKILL when it takes too long
       |            |                    ^
       +------------+--------------------+           it crashed: another one is started, after a pause

A worker lives in a session of its own, so a Ctrl-C in the terminal is for the supervisor alone. It learns of the
supervisor's end, however it came, by the end of a socket.
"""

from __future__ import annotations

import functools
import logging
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

import anyio
from anyio.abc import Process, TaskGroup

from pywsapp._process.signals import run_until_signal
from pywsapp._process.worker_context import command_line, environment, has_begun, replace_worker
from pywsapp._server.bind import ListeningSocket, address_of, bind
from pywsapp.exceptions import ConfigurationError

logger = logging.getLogger("pywsapp")

#: Seconds until a crashed worker is followed by another, doubled each time it does not last.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
#: Seconds after which a worker has lasted.
_LASTING = 10.0
#: Seconds in which a replacement has to listen.
_START_TIMEOUT = 60.0
#: Seconds that a worker has when all leave at once.
_FORCED_SECONDS = 1.0

#: What a worker, and then its supervisor, may take beyond its time until it is ended.
_SPARE_SECONDS = 2.0

#: Takes the addresses that are listened on, and words about the workers.
Announce = Callable[[Sequence[tuple[ListeningSocket, str]], str], None]
#: Takes the number of a worker that is being started and the supervisor's end of its bus.
Attach = Callable[[int, socket.socket], None]


class WorkerProcess:
    """One process in a slot; `run` starts it.

    Args:
        number: the worker's, from 1.

    Attributes:
        listens: whether it has ever come so far.
        settled: set when it listens, or has ended before.
        ended: set when it has ended.
        pid: its process ID, 0 if it could not be started.
        status: how it ended; below 0 by a signal.
        began: when it was started, on the loop's clock.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.listens = False
        self.settled = anyio.Event()
        self.ended = anyio.Event()
        self.pid = 0
        self.status: int | None = None
        self.began = anyio.current_time()
        self._retired = anyio.Event()
        self._replaced = False

    @property
    def retired(self) -> bool:
        """Whether it was told to end."""
        return self._retired.is_set()

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    def retire(self, *, replaced: bool = False) -> None:
        """Let it drain and end.

        Args:
            replaced: another one listens in its place.
        """
        self._replaced = replaced and self.listens
        self._retired.set()

    async def run(
        self, command: Sequence[str], sockets: Sequence[Sequence[socket.socket]], attach: Attach | None, limit: float
    ) -> None:
        """Start it and return when it has ended; a cancellation ends it at once.

        Args:
            command: the command line.
            sockets: for each listener its listening sockets.
            attach: takes the supervisor's end of the bus.
            limit: seconds that it has to drain.
        """
        try:
            with ExitStack() as opened:
                notify, *handed = (opened.enter_context(sock) for sock in socket.socketpair())
                notify.setblocking(False)
                if attach is not None:
                    bus, theirs = socket.socketpair()
                    handed.append(opened.enter_context(theirs))
                    attach(self.number, bus)
                async with await self._start(command, sockets, *handed) as process:
                    for sock in handed:
                        sock.close()
                    await self._follow(process, notify, limit)
        except OSError as exc:
            logger.error("worker %d cannot be started: %s", self.number, exc)
        finally:
            self.ended.set()
            self.settled.set()

    async def _start(
        self,
        command: Sequence[str],
        sockets: Sequence[Sequence[socket.socket]],
        notify: socket.socket,
        bus: socket.socket | None = None,
    ) -> Process:
        handed = [sock for some in sockets for sock in some] + [notify] + ([bus] if bus is not None else [])
        return await anyio.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
            env=environment(self.number, sockets, notify, bus),
            start_new_session=True,
            pass_fds=[sock.fileno() for sock in handed],
        )

    async def _follow(self, process: Process, notify: socket.socket, limit: float) -> None:
        self.pid = process.pid
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_begin, notify)
                tasks.start_soon(self._end_when_retired, process, notify, limit)
                self.status = await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            if self.status is None:
                with anyio.CancelScope(shield=True):
                    await self._end_now(process)

    async def _watch_begin(self, notify: socket.socket) -> None:
        self.listens = await has_begun(notify)
        if self.listens:
            self.settled.set()

    async def _end_when_retired(self, process: Process, notify: socket.socket, limit: float) -> None:
        await self._retired.wait()
        if self._replaced:
            replace_worker(notify)
        else:
            _signal(process, signal.SIGTERM)
        await anyio.sleep(limit)
        logger.error("%s does not end and is killed", self)
        _signal(process, signal.SIGKILL)

    async def _end_now(self, process: Process) -> None:
        if self.listens:  # it may call on_close and its shutdown hooks
            _signal(process, signal.SIGINT)
            with anyio.move_on_after(_FORCED_SECONDS):
                self.status = await process.wait()
                return
        _signal(process, signal.SIGKILL)
        self.status = await process.wait()

    @property
    def end(self) -> str:
        """How it ended, for people."""
        if self.status is None:
            return "was not started"
        if self.status < 0:
            return f"was ended by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


class _Slot:
    """A worker's number with the sockets that belong to it, and the process that has them at present."""

    def __init__(self, number: int, sockets: list[list[socket.socket]]) -> None:
        self.number = number
        self.sockets = sockets
        self.worker: WorkerProcess
        self._failures = 0

    def pause(self) -> float:
        """Give the seconds until another worker is started, after the present one has crashed."""
        if self.worker.listens and anyio.current_time() - self.worker.began >= _LASTING:
            self._failures = 0
        pause: float = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        return pause * random.uniform(0.75, 1)


class Supervisor:
    """Keeps a number of workers running on shared listeners.

    Args:
        listeners: where to listen.
        workers: how many.
        command: the command line of a worker; it has to find its `worker_context()`.
        limit: seconds that a worker has to drain before it is killed.
        attach: called for each worker that is started, replacements included, with its number and the supervisor's end
            of a stream socket, whose other end is the worker's `WorkerContext.bus`. That ends with the worker. None for
            no bus.

    Attributes:
        addresses: where it listens, each as `host:port` or `unix:path`.
    """

    def __init__(
        self,
        listeners: Sequence[ListeningSocket],
        workers: int,
        command: Sequence[str],
        *,
        limit: float,
        attach: Attach | None = None,
    ) -> None:
        self.addresses: list[tuple[ListeningSocket, str]] = []
        self._listeners = listeners
        self._count = workers
        self._command = command
        self._limit = limit
        self._attach = attach
        self._slots: list[_Slot] = []
        self._living: set[WorkerProcess] = set()
        self._keeping: anyio.CancelScope | None = None
        self._processes: TaskGroup
        self._replace: anyio.Event
        self._came_up = True

    async def run(self, started: Callable[[], None]) -> None:
        """Run the workers until `stop` is called and they have drained; a cancellation ends them at once.

        Args:
            started: called when the first workers listen.

        Raises:
            ConfigurationError: listening is not possible.
            SystemExit: with 1, no worker came so far as to listen.
        """
        self._replace = anyio.Event()
        with ExitStack() as opened:
            self._open(opened)
            async with anyio.create_task_group() as self._processes:
                for slot in self._slots:
                    slot.worker = self._start(slot)
                with anyio.CancelScope() as self._keeping:
                    await self._keep_all(started)
                opened.close()  # first: who comes now is refused, and does not wait for workers that will not come
                for worker in self._living:
                    worker.retire()
        if not self._came_up:
            sys.exit(1)

    def stop(self) -> None:
        """Let all workers drain; `run` returns when they have."""
        if self._keeping is not None:
            self._keeping.cancel()

    def replace(self) -> None:
        """Replace the workers one by one, each when its successor listens."""
        self._replace.set()

    def _open(self, opened: ExitStack) -> None:
        shares = []
        for listener in self._listeners:
            shares.append(sockets := share(listener, self._count))
            for sock in (sock for some in sockets for sock in some):
                opened.callback(sock.close)
            self.addresses += [(listener, address_of(sock)) for sock in sockets[0]]
        self._slots = [_Slot(number + 1, [share[number] for share in shares]) for number in range(self._count)]

    def _start(self, slot: _Slot) -> WorkerProcess:
        worker = WorkerProcess(slot.number)
        self._living.add(worker)
        self._processes.start_soon(self._run, worker, slot)
        return worker

    async def _run(self, worker: WorkerProcess, slot: _Slot) -> None:
        try:
            await worker.run(self._command, slot.sockets, self._attach, self._limit)
        finally:
            self._living.discard(worker)
        if worker.retired and worker.listens and worker.status:
            logger.warning("%s %s and not in good order", worker, worker.end)

    async def _keep_all(self, started: Callable[[], None]) -> None:
        async with anyio.create_task_group() as keepers:
            first = [slot.worker for slot in self._slots]
            for slot in self._slots:
                keepers.start_soon(self._keep, slot)
            for worker in first:
                await worker.settled.wait()
            if not any(worker.listens for worker in first):
                logger.error("no worker came so far as to listen; what they wrote is above")
                self._came_up = False
                keepers.cancel_scope.cancel()
                return
            started()
            await self._replace_when_told()

    async def _keep(self, slot: _Slot) -> None:
        """Start another worker whenever the slot's own has ended without being told to."""
        while True:
            worker = slot.worker
            await worker.ended.wait()
            if slot.worker is not worker:
                continue
            pause = slot.pause()
            logger.error("%s %s: starting another in %g s", worker, worker.end, round(pause, 1))
            await anyio.sleep(pause)
            if slot.worker is worker:
                slot.worker = self._start(slot)

    async def _replace_when_told(self) -> None:
        while True:
            await self._replace.wait()
            self._replace = anyio.Event()
            logger.info("replacing %d workers one by one", self._count)
            for slot in self._slots:
                if not await self._replace_one(slot):
                    break
            else:
                logger.info("all workers are replaced")

    async def _replace_one(self, slot: _Slot) -> bool:
        new = self._start(slot)
        with anyio.move_on_after(_START_TIMEOUT):
            await new.settled.wait()
        if not new.listens or new.ended.is_set():
            new.retire()
            what = new.end if new.ended.is_set() else f"does not listen after {_START_TIMEOUT:g} s"
            logger.error("the new %s %s; the present workers go on, mend it and send SIGHUP again", new, what)
            return False
        old, slot.worker = slot.worker, new
        old.retire(replaced=True)
        await old.ended.wait()
        return True


async def supervise(
    listeners: Sequence[ListeningSocket], workers: int, announce: Announce, limit: float, attach: Attach | None = None
) -> bool:
    """Run the program's command line as workers until signals end it: the second one cancels, SIGHUP replaces them.

    Args:
        listeners: where to listen.
        workers: how many.
        announce: told the addresses and the number of workers, for people, when they listen.
        limit: seconds after which a worker that drains has ended by itself.
        attach: as for `Supervisor`.

    Returns:
        whether it was cancelled.

    Raises:
        ConfigurationError: listening is not possible, or there is no command line to run again.
        SystemExit: with 1, no worker came so far as to listen.
    """
    supervisor = Supervisor(listeners, workers, command_line(), limit=limit + _SPARE_SECONDS, attach=attach)

    def started() -> None:
        announce(supervisor.addresses, f": {workers} workers")

    return await run_until_signal(
        functools.partial(supervisor.run, started),
        supervisor.stop,
        limit + 2 * _SPARE_SECONDS,
        reload=supervisor.replace,
    )


def share(listener: ListeningSocket, count: int) -> list[list[socket.socket]]:
    """Open listening sockets on one address for a number of processes: for each its own, or the same for all.

    Raises:
        ConfigurationError: it cannot be listened there.
    """
    sockets = bind(listener)
    if sys.platform != "linux" or listener.fd is not None or listener.unix_path is not None:
        return [sockets] * count
    # That was to see whether the port is free: with SO_REUSEPORT it would be shared with a stranger's, unnoticed.
    port = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    return [bind(replace(listener, port=port, reuse_port=True)) for _ in range(count)]


def check_workers(workers: int | None) -> int:
    """Give the number of workers asked for.

    Raises:
        ConfigurationError: there cannot be so many here.
    """
    if workers is None:
        return 1
    if type(workers) is not int or workers < 1:
        raise ConfigurationError(f"workers is a number of processes from 1 up, not {workers!r}")
    if workers > 1 and sys.platform == "win32":
        raise ConfigurationError("several workers need a system with Unix signals; leave workers out on Windows")
    if workers > 1 and threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("several workers need the main thread, which gets the signals; run the App there")
    return workers


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
