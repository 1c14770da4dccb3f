"""`VirtualClock`: the time of an App in a test, which passes only when the test says so.

Three kinds of time are replaced while a `TestClient` with such a clock runs:

- The clock of the running event loop. All that waits for a time uses it: pings and their timeouts, idle timeouts, the
  age of connections, `handler_timeout`, the time limits of handshakes, `app.every`, `anyio.sleep` and every time limit
  of anyio, asyncio or trio. On asyncio and uvloop the methods `time`, `call_at` and `call_later` of the loop are
  replaced, on trio the clock of the run.
- `time.time` and `time.monotonic` in the modules of pywsapp: the expiry of sessions, tokens and tickets, rate limits,
  and histories in memory.
- The same in the modules that the test names.

Time that other programs or libraries measure is not replaced: a Redis that expires keys, a library for tokens that
calls `time.time` itself, and `time.sleep`. Afterwards the clock of the loop goes back; a time limit that the test has
set before ends later by as much.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import ModuleType, SimpleNamespace
from typing import Any

from pywsapp.exceptions import ConfigurationError
from pywsapp.testing.idle import wait_idle
from pywsapp.testing.loop_time import LoopTime, replace_loop_time

#: pytest leaves the frames of this module out of tracebacks, so a failure ends in the line of the test.
__tracebackhide__ = True

#: Modules that measure the time of the processor, or are not about an App.
_REAL = (
    "pywsapp._lifecycle.handler_task",
    "pywsapp._lifecycle.lifecycle",
    "pywsapp._server.watchdog",
    "pywsapp.testing",
)
#: These test modules keep what the App tells them about time.
_VIRTUAL_TOO = ("pywsapp.testing.cookies",)


class VirtualClock:
    """A clock for `TestClient(app, clock=VirtualClock())`: `await client.clock.advance(30)` adds 30 seconds.

    Between two calls no time passes. A real sleep in the test, and all that waits for a time, then waits for ever;
    receiving has its own, real time limit. `time` and `monotonic` are for arguments that take a clock.

    Args:
        modules: the names of modules whose `time.time` and `time.monotonic` are replaced too, with those below them:
            ["chat"] for `chat` and `chat.rooms`.
    """

    def __init__(self, *, modules: Sequence[str] = ()) -> None:
        if isinstance(modules, str):
            raise ConfigurationError(f"modules is a list: write [{modules!r}]")
        self._modules = ("pywsapp", *modules)
        self._loop_time: LoopTime | None = None
        self._users = 0
        self._threads = 0  # that have run for too long to wait for them
        self._replaced: list[tuple[ModuleType, str, Any]] = []
        self._passed = 0.0  # seconds, before the clock was used
        self._began = (time.time(), time.monotonic())

    @property
    def passed(self) -> float:
        """The seconds that have passed for the App since the clock was made."""
        return self._passed + (0.0 if self._loop_time is None else self._loop_time.passed)

    def time(self) -> float:
        """Return the seconds since 1970, as `time.time` does."""
        return self._began[0] + self.passed

    def monotonic(self) -> float:
        """Return the seconds of a clock that never goes back, as `time.monotonic` does."""
        return self._began[1] + self.passed

    async def advance(self, seconds: float) -> None:
        """Advance the time: run due calls in their order, each at its own time, until the App is idle again.

        An App checks its time limits about once a second, so an hour takes about a second of real time. `jump` passes
        days.

        Args:
            seconds: how much time passes.

        Raises:
            ConfigurationError: no TestClient with this clock runs, or time would go back.
        """
        loop_time = self._loop(seconds)
        end = loop_time.passed + seconds
        while True:
            await self._until_idle()
            due = loop_time.next_due()
            if due is None or due > end:
                break
            loop_time.move_to(due)
        loop_time.move_to(end)
        await self._until_idle()

    async def jump(self, seconds: float) -> None:
        """Advance the time at once: all due calls run at its end, and repeated ones run once.

        Args:
            seconds: how much time passes.

        Raises:
            ConfigurationError: as for `advance`.
        """
        loop_time = self._loop(seconds)
        await self._until_idle()
        loop_time.move_to(loop_time.passed + seconds)
        await self._until_idle()

    async def _until_idle(self) -> None:
        self._threads = await wait_idle(self._threads)

    def _loop(self, seconds: float) -> LoopTime:
        if self._loop_time is None:
            raise ConfigurationError("the clock is not in use: write `async with TestClient(app, clock=clock)`")
        if seconds < 0:
            raise ConfigurationError("time does not go back")
        return self._loop_time

    # -- for TestClient ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Replace the time, from now on; a clock that several clients share is replaced once."""
        self._users += 1
        if self._users == 1:
            self._loop_time = replace_loop_time()
            self._replaced = list(self._replace())

    def flow(self) -> None:
        """Make the time pass by itself, for the shutdown of an App."""
        if self._users == 1 and self._loop_time is not None:
            self._loop_time.flow()

    def end(self) -> None:
        """Restore the real time."""
        self._users -= 1
        if self._users == 0 and self._loop_time is not None:
            for module, name, value in self._replaced:
                setattr(module, name, value)
            self._passed += self._loop_time.passed
            self._loop_time.restore()
            self._loop_time = None

    def real_time_limit(self, seconds: float) -> AbstractContextManager[object]:
        """Return a context that ends waiting after so many real seconds, without an exception."""
        assert self._loop_time is not None
        return self._loop_time.real_time_limit(seconds)

    def _replace(self) -> Iterator[tuple[ModuleType, str, Any]]:
        clock_module = _TimeModule(time=self.time, monotonic=self.monotonic)
        replacements: dict[int, Any] = {
            id(time): clock_module,
            id(time.time): self.time,
            id(time.monotonic): self.monotonic,
        }
        for module_name, module in list(sys.modules.items()):
            if not _is_in(module_name, self._modules) or (
                _is_in(module_name, _REAL) and module_name not in _VIRTUAL_TOO
            ):
                continue
            for name, value in list(vars(module).items()):
                new: Any = replacements.get(id(value))
                if new is not None:
                    setattr(module, name, new)
                    yield module, name, value


class _TimeModule(SimpleNamespace):
    """The module `time`, with two other functions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def _is_in(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)
