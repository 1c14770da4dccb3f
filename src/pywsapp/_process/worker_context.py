"""The settings that a supervisor passes to a worker process, and both ends of their communication.

A worker runs the program's command line again. One environment variable makes the process a worker. It has the numbers
of the inherited file descriptors: the listening sockets, the socket for messages between worker and supervisor, the
socket for stacks, and one end of the bus if there is one. The worker removes the variable from its environment, so that
a program which the worker starts is not a worker.

A thread reads what the supervisor sends, because the event loop can be blocked or not running yet. When the supervisor
has ended, the worker drains for a moment, and then the thread ends the process whatever the event loop does. It ends
the other workers as well: one that was suspended, or whose handler holds the interpreter lock, cannot do it itself.

`faulthandler` writes the stacks of all threads to the socket for stacks at SIGQUIT. It needs neither the event loop nor
the interpreter lock, so the supervisor gets the stack of every worker that hangs, except one that was suspended.
"""

from __future__ import annotations

import faulthandler
import functools
import itertools
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._process.connection_counts import ConnectionCount
from pywsapp._process.worker_limits import memory_used
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
from pywsapp._process.worker_stats import OwnStats
from pywsapp._server.admission import Counting
from pywsapp._server.bind import ListeningSocket
from pywsapp.brokers.local.broker import LocalBroker
from pywsapp.exceptions import ConfigurationError
from pywsapp.topics.registry import TopicRegistry

VARIABLE = "PYWSAPP_WORKER"

#: Seconds that a worker has to end when its supervisor has ended.
ORPHAN_SECONDS = 1.5
_runs = itertools.count()
logger = logging.getLogger("pywsapp")


def command_line() -> list[str]:
    """Return the command line that runs this program again, up to this call of `App.run`.

    Raises:
        ConfigurationError: the program came from a prompt or from stdin, or this is its second `run`.
    """
    if not sys.executable or sys.argv[:1] in ([], [""], ["-"]) or hasattr(sys, "ps1") or sys.flags.interactive:
        raise ConfigurationError(
            "workers run the program's command line again, but a prompt or a program from stdin has none; "
            "put the program into a file"
        )
    if next(_runs):
        raise ConfigurationError(
            "only the first run() of a program can have workers: they run its command line again, up to the first run()"
        )
    return [sys.executable, *sys.orig_argv[1:]]


def environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables of a new worker process.

    Args:
        settings: the argument of its `WorkerContext`.
    """
    return {**os.environ, VARIABLE: json.dumps(settings)}


class WorkerContext:
    """The settings and sockets of this worker process, from its supervisor; `worker_context` creates it.

    Args:
        settings: the decoded environment variable:
            protocol: `PROTOCOL` of the supervisor.
            number: the worker's number, from 1.
            sockets: for each listener of the App the file descriptors of its listening sockets.
            notify: the file descriptor of the worker's end of the socket between worker and supervisor.
            stacks: that of the worker's end of the socket for stacks.
            peers: that of the worker's end of the socket for messages between workers.
            bus: that of the worker's end of the bus, or None.
            stats: that of the worker's end of the socket for numbers.
            counts: that of the `ConnectionCounts` in a list, which can be empty, and the row of this process or None.
            workers: the number of workers.
            secret: a text that all workers of the supervisor share, and no client learns.
            interval: seconds between two messages that the worker's event loop runs.

    Attributes:
        number: the worker's number, from 1.
        sockets: for each listener of the App the file descriptors of its listening sockets.
        bus: the worker's end of the bus between workers, or None.
        workers: the number of workers.
        secret: a text that all workers of the supervisor share, and no client learns.
        count: the connections, counted together with the other workers; None if this process counts alone.
        replaced: set when this process ends because another worker has replaced it.
        orphaned: set when this process ends because its supervisor has ended.
        name: the name of this process for the other workers.
        receive: called with the words of each message of another worker.
        stats: reports the numbers of this process, and asks for those of all workers.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.number: int = settings["number"]
        self.bus = None if settings["bus"] is None else socket.socket(fileno=settings["bus"])
        self.replaced = threading.Event()
        self.orphaned = threading.Event()
        self.sockets: list[list[int]] = settings["sockets"]
        self._interval: float = settings["interval"]
        self._ends, self._thread_ends = socket.socketpair()
        self._ends.setblocking(False)
        self._processes: list[int] = []  # the process IDs of all workers
        self._thread = threading.Thread(target=self._follow, name="pywsapp supervisor", daemon=True)
        self._notify = socket.socket(fileno=settings["notify"])
        self._stacks = socket.socket(fileno=settings["stacks"])
        self._peers = socket.socket(fileno=settings["peers"])
        self._peers.setblocking(False)
        self.name = str(os.getpid())
        self.receive: Callable[[Sequence[str]], None] = lambda words: None
        self.workers: int = settings["workers"]
        self.secret: str = settings["secret"]
        stats = socket.socket(fileno=settings["stats"])
        stats.setblocking(False)
        self.stats = OwnStats(stats)
        counts_fds, place = settings["counts"]
        self.count = None if place is None else ConnectionCount(counts_fds[0], place)
        for fd in counts_fds:
            os.close(fd)
        own = (settings["notify"], settings["stacks"], settings["peers"], settings["stats"], settings["bus"])
        fds = (*own, *(fd for some in self.sockets for fd in some))
        for fd in fds:
            if fd is not None:
                os.set_inheritable(fd, False)

    def follow_supervisor(self) -> None:
        """Start to follow what the supervisor sends."""
        self._stacks.setblocking(False)  # the process must not wait for a supervisor that does not read
        if hasattr(faulthandler, "register"):  # PyPy has no such function
            faulthandler.register(signal.SIGQUIT, self._stacks.fileno())
            send(self._notify, BEGUN)
        self._thread.start()

    def adopt(self, listeners: Sequence[ListeningSocket]) -> list[ListeningSocket]:
        """Return the inherited listening sockets, in place of an App's own listeners.

        Raises:
            ConfigurationError: the supervisor listens on another number of addresses than the App.
        """
        if len(listeners) != len(self.sockets):
            raise ConfigurationError(
                f"the supervisor listens on {len(self.sockets)} addresses, but this App has {len(listeners)}; "
                "restart the supervisor, because SIGHUP does not change its addresses"
            )
        return [
            replace(listener, unix_path=None, fd=fd)
            for listener, fds in zip(listeners, self.sockets, strict=True)
            for fd in fds
        ]

    def counting(self) -> Counting:
        """Return what the limits of addresses and users count with: all workers, if they can share memory."""
        if self.count is None:
            return Counting(processes=self.workers)
        return Counting(self.count.addresses, self.count.users, self.workers, peers=self)

    def send(self, *words: object) -> None:
        """Send a message to all other workers; it is lost if they do not read."""
        send(self._peers, *words)

    def token(self, key: str) -> str:
        """Return the token of a user's key; see `pywsapp._server.user_limit.Peers`."""
        assert self.count is not None
        return self.count.users.token(key)

    async def follow_peers(self) -> None:
        """Receive the messages of the other workers, until cancelled."""
        reader = LineReader(self._peers)
        while True:
            await anyio.wait_readable(self._peers)
            with suppress(BlockingIOError):
                messages = reader.read()
                if messages is None:  # the supervisor has ended, and this process will
                    return
                for words in messages:
                    self.receive(words)

    def connect(self, topics: TopicRegistry) -> None:
        """Connect the topics of the App with those of the other workers, unless they have a broker."""
        if self.bus is not None and topics.broker is None:
            topics.broker = LocalBroker(self.bus)
            topics.fallback.use_secret(self.secret)

    def named(self, name: str) -> None:
        """Send the supervisor the name of this process on the broker."""
        send(self._notify, ORIGIN, name)

    def listening(self) -> None:
        """Send the supervisor the message that this worker listens."""
        send(self._notify, LISTENING)

    def stopping(self, seconds: float) -> None:
        """Send the supervisor the message that this worker shuts down.

        Args:
            seconds: the time that it needs at most.
        """
        send(self._notify, STOPPING, seconds)
        if self.orphaned.is_set():
            logger.error(
                "the supervisor has ended: this worker ends within %g s",
                ORPHAN_SECONDS,
                extra=log_fields("supervisor.lost", limit_seconds=ORPHAN_SECONDS),
            )

    async def report_alive(self, count: Callable[[], int] = int) -> None:
        """Send the supervisor a message again and again while the event loop runs, until cancelled.

        Args:
            count: returns how many connections this process has accepted.
        """
        while True:
            send(self._notify, ALIVE, count(), memory_used())
            await anyio.sleep(self._interval)

    async def follow_ends(self, handle: Callable[[str], None]) -> None:
        """Call a function with the name on the broker of each worker that ends, until cancelled."""
        reader = LineReader(self._ends)
        while True:
            await anyio.wait_readable(self._ends)
            with suppress(BlockingIOError):
                for words in reader.read() or ():
                    handle(words[0])

    def wait_for_end(self) -> None:
        """Block until the thread has ended this process, if it is an orphan."""
        if self.orphaned.is_set():
            self._thread.join()

    def _follow(self) -> None:
        """Follow what the supervisor sends, and its end; runs in a thread."""
        reader = LineReader(self._notify)
        while (messages := reader.read()) is not None:
            for kind, *words in messages:
                if kind == REPLACED:
                    self.replaced.set()
                    os.kill(os.getpid(), signal.SIGTERM)
                elif kind == PROCESSES:
                    self._processes = [int(pid) for pid in words]
                elif kind == GONE:
                    send(self._thread_ends, *words)  # to the event loop
        self.orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        for pid in self._processes:
            with suppress(OSError):
                # A worker leads its session. So this is not another process that has got the number of an ended one.
                if pid != os.getpid() and os.getsid(pid) == pid:
                    os.kill(pid, signal.SIGKILL)
        os._exit(1)


@functools.cache
def worker_context() -> WorkerContext | None:
    """Return the context of this worker process, or None if it is not a worker; further calls return the same.

    Raises:
        ConfigurationError: the supervisor runs a version of pywsapp whose messages are different.
    """
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    settings = json.loads(text)
    if settings.get("protocol") != PROTOCOL:
        raise ConfigurationError(
            "the supervisor runs another version of pywsapp than this worker; "
            "restart the program, because SIGHUP does not upgrade the supervisor"
        )
    context = WorkerContext(settings)
    context.follow_supervisor()
    return context
