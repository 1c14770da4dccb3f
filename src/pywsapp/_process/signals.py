"""A program around an event loop: which loop it is, and how SIGINT and SIGTERM end it.

The first signal asks for an end in good order, the second one cancels. Python's own signal handlers are used, not the
event loop's: they run also while a handler of the application blocks the loop, and they are the same on every loop.
Such a Python handler may interrupt anything, so all it does is to count, to write a byte into a socket that the loop
watches, and to let go of a lock. Locks hold back a thread which ends the process if stopping took too long, or if
cancelling was of no use: a blocking call in another thread, or in the loop's own, cannot be cancelled.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import anyio

logger = logging.getLogger("pywsapp")

#: The exit status of a program that was told to leave at once; a shell gives it for Ctrl-C.
FORCED = 130
_LAST_RESORT_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows


async def run_until_signal(
    serve: Callable[[], Awaitable[None]],
    stop: Callable[[], None],
    limit: float,
    *,
    reload: Callable[[], None] | None = None,
    supervised: bool = False,
) -> bool:
    """Await `serve`, with `stop` called at the first SIGINT or SIGTERM and all of it cancelled at the second.

    In another thread than the main one there are no signals to be had, and `serve` is simply awaited.

    Args:
        serve: runs until it is stopped or cancelled.
        stop: asks it to end in good order.
        limit: seconds it has for that; then the process ends without it, with status 1.
        reload: called at SIGHUP, which else is left alone.
        supervised: this is a worker, and others may signal it as well as its supervisor does: SIGTERM stops, however
            often it comes, SIGINT cancels at once, and SIGHUP means nothing.

    Returns:
        whether it was cancelled.

    Raises:
        BaseException: what `serve` raised, not in an exception group.
    """
    if threading.current_thread() is not threading.main_thread():
        await serve()
        return False
    failure: BaseException | None = None
    with _Signals(limit, reload, supervised) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signals.watch, stop, tasks.cancel_scope)
            try:
                await serve()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as exc:
                failure = exc
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise _alone(failure)
    return signals.count > 1


def _alone(failure: BaseException) -> BaseException:
    """Give the only exception in an exception group: SystemExit, say, which a handler has raised in its task."""
    inner: tuple[BaseException, ...] = getattr(failure, "exceptions", ())
    return _alone(inner[0]) if len(inner) == 1 else failure


class _Signals:
    """Takes the signals while it is entered."""

    def __init__(self, limit: float, reload: Callable[[], None] | None, supervised: bool) -> None:
        self.count = 0
        self._limit = limit
        self._reload = reload
        self._supervised = supervised
        self._quiet = threading.Lock()
        self._hold = threading.Lock()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._quiet.acquire()
        self._hold.acquire()
        threading.Thread(target=self._last_resort, name="pywsapp last resort", daemon=True).start()
        hangup = () if _HANGUP is None or not (self._supervised or self._reload) else (_HANGUP,)
        for number in (*_SIGNALS, *hangup):
            self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._release(self._hold)
        self._release(self._quiet)
        self._reader.close()
        self._writer.close()

    async def watch(self, stop: Callable[[], None], everything: anyio.CancelScope) -> None:
        """Act on signals until cancelled."""
        level = logging.DEBUG if self._supervised else logging.INFO
        while True:
            await anyio.wait_readable(self._reader)
            for number in self._reader.recv(16):
                if number == _HANGUP:
                    if self._reload is not None:
                        self._reload()
                    continue
                name = signal.Signals(number).name
                if self.count > 1:
                    logger.log(level, "%s again: leaving at once", name)
                    everything.cancel()
                    return
                logger.log(level, "%s: closing all connections; once more to leave at once", name)
                stop()

    def _take(self, number: int, frame: object) -> None:
        if number != _HANGUP:
            if self._supervised:
                self.count = max(self.count, 1 if number == signal.SIGTERM else 2)
            else:
                self.count += 1
            self._release(self._quiet)
            if self.count > 1:
                self._release(self._hold)
        with suppress(OSError):
            self._writer.send(bytes([number]))

    def _release(self, lock: threading.Lock) -> None:
        with suppress(RuntimeError):  # it was let go already
            lock.release()

    def _last_resort(self) -> None:
        self._quiet.acquire()
        if not self._hold.acquire(timeout=self._limit):
            logger.error("a handler does not end: leaving without it")
            os._exit(1)
        if self.count > 1:
            time.sleep(_LAST_RESORT_SECONDS)
            os._exit(FORCED)
