"""The tasks of an App beside its connections: hooks, timers and background tasks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from pywsapp._event_loop import note_asyncio
from pywsapp._log_fields import log_fields
from pywsapp._signatures import check_no_function, check_takes, name_of
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

Hook = Callable[[], Any]
HookT = TypeVar("HookT", bound=Hook)
_Task = tuple[Callable[..., Any], tuple[Any, ...]]


class Background:
    """The background tasks of one App; tasks that are added before it runs start again each time that it runs."""

    def __init__(self) -> None:
        self._permanent: list[_Task] = []
        self._waiting: list[_Task] | None = None
        self._tasks: TaskGroup | None = None
        self._ended = False  # the App has drained, and its shutdown hooks run

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def, now or when the App runs; an exception is logged.

        Raises:
            ConfigurationError: the task is no function that takes the arguments, or the App has drained, so that the
                task would not run.
        """
        check_takes(task, ["..."] * len(arguments), f"the task {name_of(task)}")
        if self._ended or (self._tasks is not None and self._tasks.cancel_scope.cancel_called):
            raise ConfigurationError(
                f"the task {name_of(task)} does not run, because the App has drained; "
                "await it in a shutdown hook, or start it before"
            )
        if self._tasks is not None:
            note_asyncio()
            self._tasks.start_soon(run_logged, task, *arguments)
        elif self._waiting is not None:
            self._waiting.append((task, arguments))  # a startup hook adds it, and will add it again next time
        else:
            self._permanent.append((task, arguments))

    def every(self, seconds: float) -> Callable[[HookT], HookT]:
        """Call a def or async def periodically; a decorator.

        Raises:
            ConfigurationError: the time is not a positive number; the decorator itself raises it if the hook takes
                arguments.
        """
        check_no_function(seconds, "@app.every(5)")
        if not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ConfigurationError(f"every() takes a number of seconds greater than 0, not {seconds!r}")

        def decorator(hook: HookT) -> HookT:
            check_takes(hook, (), name_of(hook))
            self.start_soon(_repeat, seconds, hook)
            return hook

        return decorator

    def include(self, other: Background) -> None:
        """Add the tasks of another App that does not run."""
        self._permanent += other._permanent

    def prepare(self) -> None:
        """Collect tasks until `begin`: the App is starting, and its startup hooks can add tasks for this run."""
        self._waiting = list(self._permanent)

    def begin(self, tasks: TaskGroup) -> None:
        """Start the collected tasks, in a task group that ends with the App."""
        self._tasks = tasks
        for task, arguments in self._waiting or ():
            tasks.start_soon(run_logged, task, *arguments)

    def end(self) -> None:
        """Handle the end of the task group, also if it never began."""
        self._tasks = None
        self._ended = True

    def reset(self) -> None:
        """Forget the tasks of this run; called after the last shutdown hook."""
        self._waiting = None
        self._ended = False


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
        logger.exception("%s failed", name_of(function), extra=log_fields("task.failed", handler=name_of(function)))


@asynccontextmanager
async def tasks_of_block() -> AsyncIterator[TaskGroup]:
    """Return a task group whose tasks run during a block. An exception of the block is not wrapped in a group."""
    failure: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:
            failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _repeat(seconds: float, hook: Hook) -> None:
    due = anyio.current_time() + seconds
    while True:
        await anyio.sleep_until(due)
        await run_logged(hook)
        due = max(due + seconds, anyio.current_time())
