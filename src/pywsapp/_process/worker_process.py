"""A worker process as its supervisor sees it.

States of a worker process

    state      next state   reason
    ---------  -----------  --------------------------------------------------------------------------------------
    starting   listening    it sent the supervisor the message that it listens
               retired      the supervisor stops, or the process did not listen in time as a replacement
               ended        it crashed; the supervisor starts another one after a pause
    listening  retired      the supervisor stops, or a replacement listens
               ended        it crashed; the supervisor starts another one after a pause
    retired    ended        it has drained, or SIGKILL ended it after a time limit
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import anyio
from anyio.abc import Process

from pywsapp._process.worker_context import environment, send_replaced, wait_listening

logger = logging.getLogger("pywsapp")

#: Seconds that a worker has to end when the supervisor is cancelled.
_FORCED_SECONDS = 1.0

#: Called with the number of a worker that starts, and the supervisor's end of its bus.
Attach = Callable[[int, socket.socket], None]


class WorkerProcess:
    """One worker process in a slot; `run` starts it.

    Args:
        number: the worker's number, from 1.

    Attributes:
        listens: whether it listens, or did before it ended.
        started: set when it listens, or when it has ended before that.
        ended: set when it has ended.
        pid: its process ID; 0 if it could not be started.
        status: its exit status, negative for a signal; None until it has ended.
        began: when it was started, in seconds of the event loop's clock.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.listens = False
        self.started = anyio.Event()
        self.ended = anyio.Event()
        self.pid = 0
        self.status: int | None = None
        self.began = anyio.current_time()
        self._retired = anyio.Event()
        self._replaced = False

    @property
    def retired(self) -> bool:
        """Whether the supervisor has told it to end."""
        return self._retired.is_set()

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"

    def retire(self, *, replaced: bool = False) -> None:
        """Make the process drain and end.

        Args:
            replaced: whether another process listens in its place.
        """
        self._replaced = replaced and self.listens
        self._retired.set()

    async def run(
        self, command: Sequence[str], sockets: Sequence[Sequence[socket.socket]], attach: Attach | None, limit: float
    ) -> None:
        """Start the process and wait until it has ended; a cancellation ends it at once.

        Args:
            command: the command line.
            sockets: for each listener its listening sockets.
            attach: called with the supervisor's end of the bus.
            limit: seconds that the process has to drain.
        """
        try:
            with ExitStack() as opened:
                notify, *inherited = (opened.enter_context(sock) for sock in socket.socketpair())
                notify.setblocking(False)
                if attach is not None:
                    bus, worker_bus = socket.socketpair()
                    inherited.append(opened.enter_context(worker_bus))
                    attach(self.number, bus)
                async with await self._start(command, sockets, *inherited) as process:
                    for sock in inherited:
                        sock.close()
                    await self._follow(process, notify, limit)
        except OSError as exc:
            logger.error("worker %d cannot be started: %s", self.number, exc)
        finally:
            self.ended.set()
            self.started.set()

    async def _start(
        self,
        command: Sequence[str],
        sockets: Sequence[Sequence[socket.socket]],
        notify: socket.socket,
        bus: socket.socket | None = None,
    ) -> Process:
        inherited = [sock for some in sockets for sock in some] + [notify] + ([bus] if bus is not None else [])
        return await anyio.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
            env=environment(self.number, sockets, notify, bus),
            start_new_session=True,
            pass_fds=[sock.fileno() for sock in inherited],
        )

    async def _follow(self, process: Process, notify: socket.socket, limit: float) -> None:
        self.pid = process.pid
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_start, notify)
                tasks.start_soon(self._end_when_retired, process, notify, limit)
                self.status = await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            if self.status is None:
                with anyio.CancelScope(shield=True):
                    await self._end_now(process)

    async def _watch_start(self, notify: socket.socket) -> None:
        self.listens = await wait_listening(notify)
        if self.listens:
            self.started.set()

    async def _end_when_retired(self, process: Process, notify: socket.socket, limit: float) -> None:
        await self._retired.wait()
        if self._replaced:
            send_replaced(notify)
        else:
            _signal(process, signal.SIGTERM)
        await anyio.sleep(limit)
        logger.error("%s does not end in time and is killed", self)
        _signal(process, signal.SIGKILL)

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
            return "was not started"
        if self.status < 0:
            return f"was killed by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
