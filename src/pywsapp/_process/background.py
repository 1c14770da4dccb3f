"""What an app does beside its connections: hooks, timers, and tasks of its own."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

Hook = Callable[[], Any]
_Task = tuple[Callable[..., Any], tuple[Any, ...]]


class Background:
    """Tasks that run for as long as an app does; those asked for before it runs begin anew each time it does."""

    def __init__(self) -> None:
        self._permanent: list[_Task] = []
        self._waiting: list[_Task] | None = None
        self._tasks: TaskGroup | None = None

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def, now or when the app runs; an exception of it is logged."""
        if self._tasks is not None:
            self._tasks.start_soon(run_logged, task, *arguments)
        elif self._waiting is not None:
            self._waiting.append((task, arguments))  # a startup hook asks, and will ask again the next time
        else:
            self._permanent.append((task, arguments))

    def every(self, seconds: float, hook: Hook) -> None:
        """Call a def or async def every so many seconds."""
        self.start_soon(_repeat, seconds, hook)

    def prepare(self) -> None:
        """Take note that the app is starting."""
        self._waiting = list(self._permanent)

    def begin(self, tasks: TaskGroup) -> None:
        """Start what was asked for, in a task group that ends with the app."""
        self._tasks = tasks
        for task, arguments in self._waiting or ():
            tasks.start_soon(run_logged, task, *arguments)

    def end(self) -> None:
        """Take note that the app has stopped, or has not started."""
        self._tasks = None

    def forget(self) -> None:
        """Take note that the last of its hooks has run."""
        self._waiting = None


async def call(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a def or async def."""
    result = function(*arguments)
    if inspect.isawaitable(result):
        await result


async def run_logged(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a def or async def; an exception is logged."""
    try:
        await call(function, *arguments)
    except Exception:
        logger.exception("%s failed", getattr(function, "__qualname__", function))


async def _repeat(seconds: float, hook: Hook) -> None:
    due = anyio.current_time() + seconds
    while True:
        await anyio.sleep_until(due)
        await run_logged(hook)
        due = max(due + seconds, anyio.current_time())
