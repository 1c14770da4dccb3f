"""The clock of the running event loop, replaced by one that stands still until it is moved."""

from __future__ import annotations

import asyncio
import heapq
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from itertools import count
from typing import Any

import anyio

from pywsapp._event_loop import on_asyncio
from pywsapp.exceptions import ConfigurationError


class LoopTime(ABC):
    """The time of an event loop. It stands still, unless `flow` was called.

    Attributes:
        start: the time of the loop's own clock when it was replaced.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.start = now()
        self._passed = 0.0
        self._real_now = now
        self._flows_since: float | None = None  # on the loop's own clock

    @property
    def passed(self) -> float:
        """The seconds that have passed."""
        return self._passed if self._flows_since is None else self._passed + self._real_now() - self._flows_since

    def now(self) -> float:
        """Return the time of the loop."""
        return self.start + self.passed

    def flow(self) -> None:
        """Make the time pass as it does in reality."""
        self._flows_since = self._real_now()

    @abstractmethod
    def next_due(self) -> float | None:
        """Return the seconds from the start to what is due next; None if nothing is."""

    @abstractmethod
    def move_to(self, passed: float) -> None:
        """Set the seconds that have passed, and wake what is due."""

    @abstractmethod
    def restore(self) -> None:
        """Restore the loop's own clock."""

    @abstractmethod
    def call_threadsafe(self, function: Callable[[], Any]) -> None:
        """Call a function in the loop; called in another thread."""

    @contextmanager
    def real_time_limit(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """End waiting after so many real seconds, without an exception."""
        with anyio.CancelScope() as scope:
            timer = threading.Timer(seconds, lambda: self.call_threadsafe(scope.cancel))
            timer.daemon = True
            timer.start()
            try:
                yield scope
            finally:
                timer.cancel()


def replace_loop_time() -> LoopTime:
    """Replace the clock of the running event loop.

    Raises:
        ConfigurationError: the clock of this version of trio cannot be replaced.
    """
    return _AsyncioTime(asyncio.get_running_loop()) if on_asyncio() else _TrioTime()


class _Timer(asyncio.TimerHandle):
    """A timer of the replaced clock. When time flows, a timer of the loop calls it.

    Attributes:
        real: the timer of the loop.
    """

    real: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        asyncio.Handle.cancel(self)  # not that of TimerHandle, which tells the loop
        if self.real is not None:
            self.real.cancel()


class _AsyncioTime(LoopTime):
    """The time of asyncio or uvloop: attributes of the loop object hide its methods.

    Timers that were set before are timers of the loop. anyio checks the time when such a timer calls it, and sets it
    again.
    """

    _METHODS = ("time", "call_at", "call_later")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop.time)
        self._loop = loop
        self._loop_call_at = loop.call_at
        self._loop_call_later = loop.call_later
        self._timers: list[tuple[float, int, _Timer]] = []
        self._armed: set[_Timer] = set()
        self._numbers = count()
        for name, method in zip(self._METHODS, (self.now, self.call_at, self.call_later), strict=True):
            setattr(loop, name, method)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer; the method of the loop."""
        timer = _Timer(when, callback, args, self._loop, context)
        if self._flows_since is not None:
            self._arm(timer)
        else:
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer; the method of the loop."""
        return self.call_at(self.now() + delay, callback, *args, context=context)

    def next_due(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] - self.start if self._timers else None

    def move_to(self, passed: float) -> None:
        self._passed = max(self._passed, passed)
        while (due := self.next_due()) is not None and due <= self._passed:
            self._loop.call_soon(_run, heapq.heappop(self._timers)[2])

    def flow(self) -> None:
        super().flow()
        timers, self._timers = self._timers, []
        for _, _, timer in timers:
            self._arm(timer)

    def _arm(self, timer: _Timer) -> None:
        if timer.cancelled():
            return
        self._armed.add(timer)
        if isinstance(self._loop, asyncio.BaseEventLoop):  # which compares its timers with `loop.time()`
            timer.real = self._loop_call_at(timer.when(), self._run_armed, timer)
        else:
            timer.real = self._loop_call_later(max(0.0, timer.when() - self.now()), self._run_armed, timer)

    def _run_armed(self, timer: _Timer) -> None:
        self._armed.discard(timer)
        _run(timer)

    def restore(self) -> None:
        if self._flows_since is None:
            self.flow()
        now = self.now()
        for name in self._METHODS:
            delattr(self._loop, name)
        for timer in self._armed:
            assert timer.real is not None
            timer.real.cancel()
            if not timer.cancelled():
                timer.real = self._loop_call_later(max(0.0, timer.when() - now), _run, timer)
        self._armed.clear()

    def call_threadsafe(self, function: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(function)


def _run(timer: asyncio.TimerHandle) -> None:
    if not timer.cancelled():
        timer._run()


class _TrioTime(LoopTime):
    """The time of trio: the clock of its run. trio offers this for a whole run only, with `trio.testing.MockClock`."""

    def __init__(self) -> None:
        self._trio: Any = sys.modules["trio"]
        try:
            self._runner: Any = sys.modules["trio._core._run"].GLOBAL_RUN_CONTEXT.runner
            self._clock: Any = self._runner.clock
        except (AttributeError, KeyError) as exc:
            raise ConfigurationError(f"this version of trio has another way to its clock ({exc!r})") from None
        super().__init__(self._clock.current_time)
        self._token: Any = self._trio.lowlevel.current_trio_token()
        self._runner.clock = self

    # trio calls these three methods of its clock.

    def start_clock(self) -> None:
        """Do nothing: trio calls this at the beginning of a run."""

    def current_time(self) -> float:
        """Return the time."""
        return self.now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return for how many real seconds trio can sleep."""
        left = deadline - self.now()
        return left if left <= 0 or self._flows_since is not None else math.inf

    def next_due(self) -> float | None:
        left = self._trio.lowlevel.current_statistics().seconds_to_next_deadline
        return None if left == math.inf else self.passed + max(0.0, left)

    def move_to(self, passed: float) -> None:
        self._passed = max(self._passed, passed)

    def restore(self) -> None:
        self._runner.clock = self._clock

    def call_threadsafe(self, function: Callable[[], Any]) -> None:
        self._token.run_sync_soon(function)
