"""A worker process as its supervisor sees it.

States of a worker process

    state      next state   reason
    ---------  -----------  --------------------------------------------------------------------------------------
    starting   listening    it sent the supervisor the message that it listens
               leaving      the supervisor stops, a replacement listens, or it shuts down by itself
               ended        it crashed, or was killed because it did not listen in time
    listening  leaving      the supervisor stops, a replacement listens, or it shuts down by itself
               ended        it crashed, or was killed because its event loop did not run in time
    leaving    ended        it has drained, or was killed after a time limit

A process that ends, or leaves by itself, gets a successor from the supervisor.

Hanging

The event loop of a worker sends messages that it runs. The supervisor counts how many of its own checks in a row have
seen no message, and does not compare times. So a supervisor that was suspended with its workers does not kill them. A
worker that has said that it shuts down is no longer checked: its shutdown hooks may block, and it has another limit.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress

import anyio
from anyio.abc import Process

from pywsapp._log_fields import log_fields
from pywsapp._process.connection_counts import ConnectionCounts
from pywsapp._process.worker_context import environment
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp._process.worker_messages import (
    ALIVE,
    BEGUN,
    GONE,
    LISTENING,
    ORIGIN,
    PROCESSES,
    PROTOCOL,
    REPLACED,
    STOPPING,
    LineReader,
    send,
)
from pywsapp._process.worker_stats import StatsOfWorkers

logger = logging.getLogger("pywsapp")

#: Seconds that a worker has to end when the supervisor is cancelled.
_FORCED_SECONDS = 1.0
#: Seconds that a worker has to end after the time that it said.
_SPARE_SECONDS = 2.0
#: Checks of a worker within its time limit, and messages that its event loop sends within it.
_CHECKS = 10
#: Seconds between two messages at most.
_LONGEST_INTERVAL = 3.0
#: Seconds that a worker that hangs has to send its stack.
_STACK_SECONDS = 1.0
#: Seconds without further bytes after which a stack is complete.
_STACK_PAUSE = 0.1
#: All workers of this supervisor get it, and no client learns it.
_SECRET = secrets.token_hex(16)

#: Called with the number of a worker that starts, and the supervisor's end of its bus.
Attach = Callable[[int, socket.socket], None]


class WorkerProcess:
    """One worker process in a slot; `run` starts it.

    Args:
        number: the worker's number, from 1.
        limits: when it hangs, and when it has worked for long enough.
        stats: the numbers of all workers.

    Attributes:
        listens: whether it listens, or did before it ended.
        started: set when it listens, or when it never will.
        leaving: set when it leaves by itself, or has ended.
        ended: set when it has ended.
        pid: its process ID; 0 if it could not be started.
        status: its exit status, negative for a signal; None until it has ended.
        name: its name on the broker; None until it has sent it.
        began: when it was started, in seconds of the event loop's clock.
        worn_out: which of its limits it has reached, for a log; None if it has reached none.
        on_started: called when the process runs.
        on_worn_out: called when it has reached a limit, again and again.
        on_peer_message: called with the words of each message for the other workers.
    """

    def __init__(self, number: int, limits: WorkerLimits, stats: StatsOfWorkers) -> None:
        self.number = number
        self.listens = False
        self.started = anyio.Event()
        self.leaving = anyio.Event()
        self.ended = anyio.Event()
        self.pid = 0
        self.status: int | None = None
        self.began = anyio.current_time()
        self.name: str | None = None
        self.worn_out: str | None = None
        self.on_started: Callable[[], None] | None = None
        self.on_worn_out: Callable[[], None] | None = None
        self.on_peer_message: Callable[[list[str]], None] | None = None
        self._limits = limits.drawn()
        self._stats = stats
        self._reporting = stats.add()
        self._retired = False
        self._replaced = False
        self._stops = False  # it has said that it shuts down
        self._must_end = anyio.Event()  # set when it leaves, for whichever reason
        self._seconds: float | None = None  # that it needs to shut down, as it has said
        self._heard = False  # its event loop has run since the last check
        self._begun = False  # it can send its stack
        self._stack_logged = anyio.Event()
        self._notify: socket.socket | None = None
        self._peers: socket.socket | None = None

    @property
    def retired(self) -> bool:
        """Whether the supervisor has told it to end."""
        return self._retired

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    def retire(self, *, replaced: bool = False) -> None:
        """Make the process drain and end.

        Args:
            replaced: whether another process listens in its place.
        """
        self._retired = True
        self._replaced = replaced and self.listens
        self._must_end.set()
        self.started.set()

    def send_processes(self, pids: Iterable[int]) -> None:
        """Send the process the numbers of all worker processes, since it ends them if it becomes an orphan."""
        if self._notify is not None:
            send(self._notify, PROCESSES, *pids)

    def send_end_of(self, other: WorkerProcess) -> None:
        """Send the process the message that another one has ended, whose users are present no longer."""
        if self._notify is not None and other.name is not None:
            send(self._notify, GONE, other.name)

    def send_peer_message(self, words: Sequence[str]) -> None:
        """Send the process a message of another worker."""
        if self._peers is not None:
            send(self._peers, *words)

    async def run(
        self,
        command: Sequence[str],
        sockets: Sequence[Sequence[socket.socket]],
        counts: ConnectionCounts,
        attach: Attach | None,
        limit: float,
    ) -> None:
        """Start the process and wait until it has ended; a cancellation ends it at once.

        Args:
            command: the command line.
            sockets: for each listener its listening sockets.
            counts: the connections of all workers.
            attach: called with the supervisor's end of the bus.
            limit: seconds that the process has to drain, unless it says how many it needs.
        """
        place = counts.take()
        try:
            with ExitStack() as opened:
                notify, worker_notify = _pair(opened)
                stacks, worker_stacks = _pair(opened)
                peers, worker_peers = _pair(opened)
                stats, worker_stats = _pair(opened)
                inherited = [worker_notify, worker_stacks, worker_peers, worker_stats]
                worker_bus = None
                if attach is not None:
                    bus, worker_bus = socket.socketpair()
                    inherited.append(opened.enter_context(worker_bus))
                    attach(self.number, bus)
                settings = {
                    "protocol": PROTOCOL,
                    "number": self.number,
                    "sockets": [[sock.fileno() for sock in some] for some in sockets],
                    "notify": worker_notify.fileno(),
                    "stacks": worker_stacks.fileno(),
                    "peers": worker_peers.fileno(),
                    "stats": worker_stats.fileno(),
                    "bus": None if worker_bus is None else worker_bus.fileno(),
                    "counts": (counts.fds, place),
                    "workers": counts.workers,
                    "secret": _SECRET,
                    "interval": min(self._limits.timeout / _CHECKS, _LONGEST_INTERVAL),
                }
                fds = [sock.fileno() for sock in (*inherited, *(sock for some in sockets for sock in some))]
                async with await _start(command, environment(settings), [*fds, *counts.fds]) as process:
                    for sock in inherited:
                        sock.close()
                    self._peers = peers
                    await self._follow(process, notify, stacks, stats, limit)
        except OSError as exc:
            logger.error(
                "worker %d cannot be started: %s",
                self.number,
                exc,
                extra=log_fields("worker.not_started", worker_number=self.number, error=str(exc)),
            )
        finally:
            self._peers = None
            counts.release(place)
            self._stats.remove(self._reporting)
            self.ended.set()
            self.leaving.set()
            self.started.set()

    async def _follow(
        self, process: Process, notify: socket.socket, stacks: socket.socket, stats: socket.socket, limit: float
    ) -> None:
        self.pid = process.pid
        self._notify = notify
        if self.on_started is not None:
            self.on_started()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, notify)
                tasks.start_soon(self._pass_on)
                tasks.start_soon(self._reporting.run, stats, self._stats.ask)
                tasks.start_soon(self._log_stacks, stacks)
                tasks.start_soon(self._kill_if_it_hangs, process)
                tasks.start_soon(self._end_when_leaving, process, notify, limit)
                self.status = await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            if self.status is None:
                with anyio.CancelScope(shield=True):
                    await self._end_now(process)

    # -- messages ----------------------------------------------------------------------------------------------------

    async def _receive(self, notify: socket.socket) -> None:
        reader = LineReader(notify)
        messages: list[list[str]] | None = []
        while messages is not None:
            for kind, *words in messages:
                self._handle(kind, words)
            await anyio.wait_readable(notify)
            with suppress(BlockingIOError):
                messages = reader.read()

    async def _pass_on(self) -> None:
        """Pass the messages for the other workers on to them."""
        assert self._peers is not None
        reader = LineReader(self._peers)
        messages: list[list[str]] | None = []
        while messages is not None:
            for words in messages:
                if self.on_peer_message is not None:
                    self.on_peer_message(words)
            await anyio.wait_readable(self._peers)
            with suppress(BlockingIOError):
                messages = reader.read()

    def _handle(self, kind: str, words: Sequence[str]) -> None:
        if kind == ALIVE:
            self._heard = True
            self._check_limits(*map(int, words))
        elif kind == ORIGIN:
            self.name = words[0]
        elif kind == BEGUN:
            self._begun = True
        elif kind == LISTENING:
            self.listens = self._heard = self._reporting.is_asked = True
            self.started.set()
        elif kind == STOPPING:
            self._stops = True
            self._seconds = float(words[0])
            self._must_end.set()
            if not self._retired:
                self.leaving.set()

    def _check_limits(self, connections: int, memory: int) -> None:
        self.worn_out = self._limits.exceeded(anyio.current_time() - self.began, connections, memory)
        if self.worn_out is not None and self.on_worn_out is not None:
            self.on_worn_out()

    async def _log_stacks(self, stacks: socket.socket) -> None:
        """Log the stacks that the process writes at SIGQUIT."""
        while True:
            await anyio.wait_readable(stacks)
            text = b""
            with anyio.move_on_after(_STACK_PAUSE) as scope:
                while data := stacks.recv(65536):
                    text += data
                    scope.deadline = anyio.current_time() + _STACK_PAUSE
                    await anyio.wait_readable(stacks)
            if not text:
                return
            logger.error(
                "the stacks of %s:\n%s",
                self,
                text.decode(errors="replace").rstrip(),
                extra=log_fields("worker.stacks", worker_number=self.number, worker_pid=self.pid),
            )
            self._stack_logged.set()

    # -- ending ------------------------------------------------------------------------------------------------------

    async def _kill_if_it_hangs(self, process: Process) -> None:
        silent = 0
        while silent < _CHECKS:
            await anyio.sleep(self._limits.timeout / _CHECKS)
            if self._stops:
                return
            silent = 0 if self.listens and self._heard else silent + 1
            self._heard = False
        problem = "its event loop has not run" if self.listens else "it has not begun to listen"
        logger.error(
            "%s hangs and is killed: %s for %g s",
            self,
            problem,
            self._limits.timeout,
            extra=log_fields(
                "worker.hangs",
                worker_number=self.number,
                worker_pid=self.pid,
                reason=problem,
                limit_seconds=self._limits.timeout,
            ),
        )
        if self._begun:
            _signal(process, signal.SIGQUIT)
            with anyio.move_on_after(_STACK_SECONDS):
                await self._stack_logged.wait()
        _signal(process, signal.SIGKILL)

    async def _end_when_leaving(self, process: Process, notify: socket.socket, limit: float) -> None:
        await self._must_end.wait()
        began = anyio.current_time()
        if self._replaced:
            send(notify, REPLACED)
        elif self._retired:
            _signal(process, signal.SIGTERM)
        # The limit can change meanwhile, when the process says how long it needs.
        while (left := began + self._limit(limit) - anyio.current_time()) > 0:  # noqa: ASYNC110
            await anyio.sleep(left)
        logger.error(
            "%s does not end in time and is killed",
            self,
            extra=log_fields("worker.killed", worker_number=self.number, worker_pid=self.pid),
        )
        _signal(process, signal.SIGKILL)

    def _limit(self, limit: float) -> float:
        return limit if self._seconds is None else self._seconds + _SPARE_SECONDS

    async def _end_now(self, process: Process) -> None:
        if self.listens:  # SIGINT lets it call on_close and its shutdown hooks
            _signal(process, signal.SIGINT)
            with anyio.move_on_after(_FORCED_SECONDS):
                self.status = await process.wait()
                return
        _signal(process, signal.SIGKILL)
        self.status = await process.wait()

    @property
    def end(self) -> str:
        """How it ended, for a log."""
        if self.status is None:
            return "shuts down by itself" if self.pid else "was not started"
        if self.status < 0:
            return f"was killed by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


async def _start(command: Sequence[str], env: dict[str, str], fds: Sequence[int]) -> Process:
    return await anyio.open_process(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
        env=env,
        start_new_session=True,
        pass_fds=fds,
    )


def _pair(opened: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets: one that does not block, and one for a worker."""
    own, other = (opened.enter_context(sock) for sock in socket.socketpair())
    own.setblocking(False)
    return own, other


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
