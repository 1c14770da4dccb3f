"""What a supervisor hands over to a worker, and what the worker tells it: both ends.

A worker is the program's own command line, run again. What makes a worker of it is one environment variable with the
numbers of descriptors it inherits: the listening sockets, a socket on which it says that it listens, and perhaps one
end of the bus. The variable is taken out of the environment, so that a program the worker starts is none.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio

from pywsapp._server.bind import ListeningSocket
from pywsapp.exceptions import ConfigurationError

VARIABLE = "PYWSAPP_WORKER"

_LISTENING = b"L"
_REPLACED = b"R"
_runs = itertools.count()


def command_line() -> list[str]:
    """Give what starts this program once more, and runs it up to here.

    Raises:
        ConfigurationError: nothing would, since it came from a prompt or through a pipe, or went on to a second `run`.
    """
    if not sys.executable or sys.argv[:1] in ([], [""], ["-"]) or hasattr(sys, "ps1") or sys.flags.interactive:
        raise ConfigurationError(
            "workers run the program's command line again, which a prompt or a program from stdin does not have; "
            "put the program into a file"
        )
    if next(_runs):
        raise ConfigurationError(
            "only one run() of a program can have workers: they run its command line again, and come to the first one"
        )
    return [sys.executable, *sys.orig_argv[1:]]


def environment(
    number: int, sockets: Sequence[Sequence[socket.socket]], notify: socket.socket, bus: socket.socket | None
) -> dict[str, str]:
    """Give the environment of a new worker.

    Args:
        number: the worker's, from 1.
        sockets: for each listener of the App its listening sockets.
        notify: the worker's end of the socket on which it says that it listens.
        bus: its end of the bus, or None.
    """
    told = {
        "number": number,
        "sockets": [[sock.fileno() for sock in some] for some in sockets],
        "notify": notify.fileno(),
        "bus": None if bus is None else bus.fileno(),
    }
    return {**os.environ, VARIABLE: json.dumps(told)}


async def has_begun(notify: socket.socket) -> bool:
    """Wait until a worker says that it listens, at the supervisor's end; give whether it did before it ended."""
    while True:
        await anyio.wait_readable(notify)
        with suppress(BlockingIOError):
            return notify.recv(1) == _LISTENING


def replace_worker(notify: socket.socket) -> None:
    """Tell a worker that another one has taken its place, at the supervisor's end."""
    with suppress(OSError):  # it has just ended
        notify.send(_REPLACED)


@dataclass(frozen=True)
class WorkerContext:
    """What this process was told as a worker.

    Args:
        number: the worker's, from 1.
        sockets: for each listener of the App the descriptors of its listening sockets.
        notify: says that this process listens; ends with the supervisor.
        bus: its end of the bus between workers, or None.
        replaced: set when this process ends because another one has taken its place.
    """

    number: int
    sockets: list[list[int]]
    notify: socket.socket
    bus: socket.socket | None
    replaced: threading.Event

    def adopt(self, listeners: Sequence[ListeningSocket]) -> list[ListeningSocket]:
        """Give what to listen on instead of an App's own listeners.

        Raises:
            ConfigurationError: the supervisor was started for others.
        """
        if len(listeners) != len(self.sockets):
            raise ConfigurationError(
                f"the supervisor listens in {len(self.sockets)} places, and this App wants {len(listeners)}; "
                "restart the supervisor, SIGHUP does not change where it listens"
            )
        return [
            replace(listener, unix_path=None, fd=fd)
            for listener, fds in zip(listeners, self.sockets, strict=True)
            for fd in fds
        ]

    def listening(self) -> None:
        """Tell the supervisor that this worker listens."""
        with suppress(OSError):  # it has just died, and `_leave_with` takes care of it
            self.notify.send(_LISTENING)


@functools.cache
def worker_context() -> WorkerContext | None:
    """Take what this process was told as a worker; None if it is none. The same whenever it is called."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    told = json.loads(text)
    notify = socket.socket(fileno=told["notify"])
    bus = None if told["bus"] is None else socket.socket(fileno=told["bus"])
    for fd in (told["notify"], told["bus"], *(fd for fds in told["sockets"] for fd in fds)):
        if fd is not None:
            os.set_inheritable(fd, False)
    replaced = threading.Event()
    threading.Thread(target=_leave_with, args=(notify, replaced), name="pywsapp supervisor", daemon=True).start()
    return WorkerContext(told["number"], told["sockets"], notify, bus, replaced)


def _leave_with(notify: socket.socket, replaced: threading.Event) -> None:
    """Drain when replaced, or when the supervisor is gone; in a thread, for the loop may be blocked or not begun."""
    with suppress(OSError):
        if notify.recv(1) == _REPLACED:
            replaced.set()
    os.kill(os.getpid(), signal.SIGTERM)
