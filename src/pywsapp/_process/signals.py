"""End a program at SIGINT and SIGTERM, and pass SIGHUP to it.

The first signal stops the program gracefully, the second one cancels it. This module uses Python's signal handlers, not
those of the event loop: they also run while a handler of the application blocks the event loop, and they are the same
on every event loop. A Python signal handler can interrupt any code. So it only counts, writes a byte to a socket that
the event loop reads, and releases locks.

A thread waits for these locks. It ends the process if stopping takes too long, or if cancelling has no effect: a
blocking call cannot be cancelled, neither in the event loop's thread nor in another one.
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

from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: The exit status of a program that was ended by a second signal; shells use it for Ctrl-C.
FORCED = 130
#: Seconds that a cancelled program has to end.
_CANCEL_SECONDS = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has no such signal


async def run_until_signal(
    serve: Callable[[], Awaitable[None]],
    stop: Callable[[], None],
    limit: Callable[[], float] | None,
    *,
    reload: Callable[[], None] | None = None,
    supervised: bool = False,
) -> bool:
    """Await `serve`; call `stop` at the first SIGINT or SIGTERM, and cancel `serve` at the second one.

    Only the main thread gets signals. In another thread this only awaits `serve`.

    Args:
        serve: runs until it is stopped or cancelled.
        stop: makes `serve` end gracefully.
        limit: called at the first signal, in a thread; returns the seconds that `serve` has to end. After them the
            process ends with status 1. None for no limit.
        reload: called at SIGHUP. Without it SIGHUP has its previous handler.
        supervised: whether this process is a worker. Other programs can signal a worker too, not only its supervisor.
            So SIGTERM stops it, however often it comes, SIGINT cancels it at once, and SIGHUP is ignored.

    Returns:
        Whether `serve` was cancelled.

    Raises:
        BaseException: the exception of `serve`, not in an exception group.
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
        raise _single(failure)
    return signals.count > 1


def _single(failure: BaseException) -> BaseException:
    """Return the only exception of an exception group, such as a SystemExit that a handler raised in its task."""
    inner: tuple[BaseException, ...] = getattr(failure, "exceptions", ())
    return _single(inner[0]) if len(inner) == 1 else failure


class _Signals:
    """Handle the signals inside a `with` block.

    Attributes:
        count: how many of the signals that end the program have come.
    """

    def __init__(self, limit: Callable[[], float] | None, reload: Callable[[], None] | None, supervised: bool) -> None:
        self.count = 0
        self._limit = limit
        self._reload = reload
        self._supervised = supervised
        self._no_signal = threading.Lock()  # held until the first signal or the end
        self._no_second_signal = threading.Lock()  # held until the second signal or the end
        self._previous: dict[signal.Signals, Any] = {}
        self._reader, self._writer = socket.socketpair()

    def __enter__(self) -> _Signals:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._no_signal.acquire()
        self._no_second_signal.acquire()
        threading.Thread(target=self._end_by_force, name="pywsapp last resort", daemon=True).start()
        hangup = () if _HANGUP is None or not (self._supervised or self._reload) else (_HANGUP,)
        for number in (*_SIGNALS, *hangup):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._release(self._no_second_signal)
        self._release(self._no_signal)
        self._reader.close()
        self._writer.close()

    async def watch(self, stop: Callable[[], None], everything: anyio.CancelScope) -> None:
        """Stop, cancel or reload at signals, until cancelled."""
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
                    logger.log(level, "%s again: ending at once", name, extra=log_fields("server.forced", signal=name))
                    everything.cancel()
                    return
                logger.log(
                    level,
                    "%s: closing all connections; repeat the signal to end at once",
                    name,
                    extra=log_fields("server.stopping", signal=name),
                )
                stop()

    def _handle(self, number: int, frame: object) -> None:
        if number != _HANGUP:
            if self._supervised:
                self.count = max(self.count, 1 if number == signal.SIGTERM else 2)
            else:
                self.count += 1
            self._release(self._no_signal)
            if self.count > 1:
                self._release(self._no_second_signal)
        with suppress(OSError):
            self._writer.send(bytes([number]))

    def _release(self, lock: threading.Lock) -> None:
        with suppress(RuntimeError):  # it is released already
            lock.release()

    def _end_by_force(self) -> None:
        """Wait for signals in a thread; end the process if it does not end in time."""
        self._no_signal.acquire()
        limit = -1 if self._limit is None else self._limit()  # -1 waits for ever
        if not self._no_second_signal.acquire(timeout=limit):
            logger.error("a handler does not end: ending the process without it", extra=log_fields("server.forced"))
            os._exit(1)
        if self.count > 1:
            time.sleep(_CANCEL_SECONDS)
            os._exit(FORCED)
