"""What a supervisor passes to a worker process, and how the two communicate: both ends.

A worker runs the program's command line again. One environment variable makes the process a worker. It has the numbers
of the inherited file descriptors: the listening sockets, the socket for messages between worker and supervisor, and one
end of the bus if there is one. The worker removes the variable from its environment, so that a program which the worker
starts is not a worker.
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


def environment(
    number: int, sockets: Sequence[Sequence[socket.socket]], notify: socket.socket, bus: socket.socket | None
) -> dict[str, str]:
    """Return the environment variables of a new worker process.

    Args:
        number: the worker's number, from 1.
        sockets: for each listener of the App its listening sockets.
        notify: the worker's end of the socket between worker and supervisor.
        bus: the worker's end of the bus, or None.
    """
    context = {
        "number": number,
        "sockets": [[sock.fileno() for sock in some] for some in sockets],
        "notify": notify.fileno(),
        "bus": None if bus is None else bus.fileno(),
    }
    return {**os.environ, VARIABLE: json.dumps(context)}


async def wait_listening(notify: socket.socket) -> bool:
    """Wait until a worker listens or has ended; return whether it listens.

    Args:
        notify: the supervisor's end of the socket.
    """
    while True:
        await anyio.wait_readable(notify)
        with suppress(BlockingIOError):
            return notify.recv(1) == _LISTENING


def send_replaced(notify: socket.socket) -> None:
    """Send a worker the message that another worker has replaced it, which makes it end.

    Args:
        notify: the supervisor's end of the socket.
    """
    with suppress(OSError):  # the worker has just ended
        notify.send(_REPLACED)


@dataclass(frozen=True)
class WorkerContext:
    """What a supervisor has passed to this worker process; `worker_context` creates it.

    Args:
        number: the worker's number, from 1.
        sockets: for each listener of the App the file descriptors of its listening sockets.
        notify: the worker's end of the socket between worker and supervisor; it closes when the supervisor ends.
        bus: the worker's end of the bus between workers, or None.
        replaced: set when this process ends because another worker has replaced it.
    """

    number: int
    sockets: list[list[int]]
    notify: socket.socket
    bus: socket.socket | None
    replaced: threading.Event

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

    def listening(self) -> None:
        """Send the supervisor the message that this worker listens."""
        with suppress(OSError):  # the supervisor has just ended, and `_wait_for_end` handles it
            self.notify.send(_LISTENING)


@functools.cache
def worker_context() -> WorkerContext | None:
    """Return the context of this worker process, or None if it is not a worker; further calls return the same."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    context = json.loads(text)
    notify = socket.socket(fileno=context["notify"])
    bus = None if context["bus"] is None else socket.socket(fileno=context["bus"])
    for fd in (context["notify"], context["bus"], *(fd for fds in context["sockets"] for fd in fds)):
        if fd is not None:
            os.set_inheritable(fd, False)
    replaced = threading.Event()
    threading.Thread(target=_wait_for_end, args=(notify, replaced), name="pywsapp supervisor", daemon=True).start()
    return WorkerContext(context["number"], context["sockets"], notify, bus, replaced)


def _wait_for_end(notify: socket.socket, replaced: threading.Event) -> None:
    """Send this process SIGTERM when it is replaced or its supervisor ends.

    This runs in a thread, because the event loop can be blocked or not running yet.
    """
    with suppress(OSError):
        if notify.recv(1) == _REPLACED:
            replaced.set()
    os.kill(os.getpid(), signal.SIGTERM)
