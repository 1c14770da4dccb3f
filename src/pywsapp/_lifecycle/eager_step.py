"""First steps of coroutines, taken on behalf of a task that is asleep; `handler_task` says what for.

asyncio's functions for it are private. `eager_check` tries them once, when a server or client starts, and turns first
steps off on an interpreter where they do something else.
"""

from __future__ import annotations

import asyncio
from asyncio import tasks
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any


def _refuse(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    raise RuntimeError("this interpreter cannot run code on behalf of a task")


_enter_task: Callable[[Any, Any], None] = getattr(tasks, "_enter_task", _refuse)
_leave_task: Callable[[Any, Any], None] = getattr(tasks, "_leave_task", _refuse)


def turn_off() -> None:
    """Disable first steps: from now on `EagerTask.first_step` returns each coroutine unchanged."""
    global _enter_task
    _enter_task = _refuse


class SuspendedCoroutine:
    """A coroutine that took its first step elsewhere, and has more to do; the handler task awaits it, once.

    Args:
        coroutine: the coroutine.
        waiting: what it last yielded to the event loop, to wait for.
    """

    __slots__ = ("_coroutine", "_interruption", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> None:
        self._coroutine = coroutine
        self._waiting = waiting
        self._interruption: BaseException | None = None

    def interrupt(self, exc: BaseException) -> None:
        """Cancel the coroutine where it waits, as its own task would have been cancelled."""
        if self._waiting is None or not self._waiting.cancel(*exc.args):
            self._interruption = exc

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        failure: BaseException | None
        try:
            waiting = self._waiting if self._interruption is None else coroutine.throw(self._interruption)
            while True:
                failure = None
                try:
                    answer = yield waiting
                except BaseException as exc:
                    failure = exc
                # outside of the except clause, or `failure` would be the context of what the coroutine raises
                waiting = coroutine.send(answer) if failure is None else coroutine.throw(failure)
        except StopIteration as end:
            return end.value
        finally:
            failure = None  # its traceback refers to this frame


class EagerTask:
    """A handler task as long as it is asleep: coroutines can take their first step on its behalf.

    Args:
        loop: the event loop of the task.
        task: the task; it is asleep whenever `first_step` is called.
        context: the context of the coroutines of the task; it is not entered when `first_step` is called.

    Attributes:
        returned: what the last coroutine returned that ended in its first step; None mostly.
    """

    __slots__ = ("_loop", "_run", "_task", "returned")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], context: Context) -> None:
        self.returned: Any = None
        self._loop = loop
        self._task = task
        self._run = context.run

    def first_step(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any] | None:
        """Run the first step of a coroutine now, unless another task is running; raise what it raises.

        Returns:
            what the task must await; None if the coroutine has ended.
        """
        try:
            _enter_task(self._loop, self._task)
        except RuntimeError:
            return coroutine
        try:
            waiting = self._run(coroutine.send, None)
        except StopIteration as end:
            if end.value is not None:
                self.returned = end.value
            return None
        finally:
            _leave_task(self._loop, self._task)
        return SuspendedCoroutine(coroutine, waiting)

    def take_returned(self) -> Any:
        """Return what a coroutine returned, and forget it."""
        returned, self.returned = self.returned, None
        return returned

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Call a function in the context of the task, while no other task is running."""
        _enter_task(self._loop, self._task)
        try:
            return self._run(function, argument)
        finally:
            _leave_task(self._loop, self._task)
