"""The messages to a service manager, and the sockets that it passes: sd_notify(3) and sd_listen_fds(3).

systemd sets `NOTIFY_SOCKET` for a unit with `Type=notify` or `Type=notify-reload`, `WATCHDOG_USEC` for one with
`WatchdogSec=`, and `LISTEN_FDS` for one with a socket unit. Other managers do the same (s6, launchers of containers).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress

import anyio

from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: The first file descriptor that is passed (SD_LISTEN_FDS_START).
FIRST_FD = 3
#: The environment variable that tells the workers how many sockets their supervisor has got.
_PASSED = "PYWSAPP_LISTEN_FDS"
#: The most sockets that a program accepts; systemd passes no more.
_MAX_SOCKETS = 1024


class ServiceManager:
    """The service manager that has started this process, or none.

    Args:
        path: the address of its datagram socket; "@" stands for the null byte of an abstract one. Without a path the
            methods do nothing.
        watchdog: seconds within which it expects a message again and again; None for no watchdog.
    """

    def __init__(self, path: str = "", watchdog: float | None = None) -> None:
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._watchdog = watchdog
        self._has_failed = False

    def ready(self) -> None:
        """Report that the App listens, also after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report the beginning of a reload; `ready` is its end."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the App shuts down."""
        self._send("STOPPING=1")

    async def keep_alive(self) -> None:
        """Report again and again that the event loop runs, until cancelled, if the manager expects it."""
        if self._watchdog is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await anyio.sleep(self._watchdog / 2)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as exc:
            if not self._has_failed:
                error = exc.strerror or str(exc)
                logger.warning(
                    "the service manager does not get messages (NOTIFY_SOCKET): %s",
                    error,
                    extra=log_fields("service_manager.unreachable", error=error),
                )
            self._has_failed = True


def service_manager() -> ServiceManager:
    """Return the service manager that the environment names."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return ServiceManager()
    watchdog = None
    with suppress(ValueError):
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            watchdog = int(os.environ.get("WATCHDOG_USEC", "")) / 1e6
    return ServiceManager(path, watchdog if watchdog and watchdog > 0 else None)


def passed_sockets(*, is_worker: bool) -> range:
    """Return the file descriptors of the listening sockets that the service manager has passed; often none.

    Programs that this process starts do not take the sockets for theirs. A worker gets their number only, because its
    supervisor has them.

    Args:
        is_worker: whether this process is a worker.
    """
    if is_worker:
        return range(FIRST_FD, FIRST_FD + int(os.environ.get(_PASSED, "0")))
    os.environ.pop(_PASSED, None)  # of a program that has started this one
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    if pid != str(os.getpid()) or not count.isdecimal() or not 0 < int(count) <= _MAX_SOCKETS:
        return range(0)
    os.environ[_PASSED] = count
    fds = range(FIRST_FD, FIRST_FD + int(count))
    for fd in fds:
        with suppress(OSError):  # `bind` reports a file descriptor that is not open
            os.set_inheritable(fd, False)
    return fds
