"""Steps of a coroutine that are taken on behalf of a task which is asleep; `worker.py` says what for."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any


class SuspendedCoroutine:
    """What is left of a coroutine that had its first step elsewhere; to be awaited once, in the task.

    Args:
        coroutine: what runs.
        waiting: what it gave the loop to wait for, last.
    """

    __slots__ = ("_coroutine", "_interruption", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waiting: Any) -> None:
        self._coroutine = coroutine
        self._waiting = waiting
        self._interruption: BaseException | None = None

    def interrupt(self, exc: BaseException) -> None:
        """Let the coroutine be cancelled where it waits, as its task would have been."""
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
                # not while it is being handled here, or it would be the context of whatever the coroutine raises
                waiting = coroutine.send(answer) if failure is None else coroutine.throw(failure)
        except StopIteration as end:
            return end.value
        finally:
            failure = None  # its traceback holds this frame


class EagerTask:
    """A task that sleeps, and the context of what runs in it.

    Args:
        loop: the task's.
        task: asleep whenever `begin` is called.
        context: not entered whenever `begin` is called.
    """

    __slots__ = ("_loop", "_run", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], context: Context) -> None:
        self._loop = loop
        self._task = task
        self._run = context.run

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any] | None:
        """Take the first step of a coroutine now, unless another task is running; raises what it raises.

        Returns:
            What is left to be awaited in the task; None if it has ended.
        """
        try:
            _enter_task(self._loop, self._task)
        except RuntimeError:
            return coroutine
        try:
            waiting = self._run(coroutine.send, None)
        except StopIteration:
            return None
        finally:
            _leave_task(self._loop, self._task)
        return SuspendedCoroutine(coroutine, waiting)

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Call something in the name of the task, when no other task is running."""
        _enter_task(self._loop, self._task)
        try:
            return self._run(function, argument)
        finally:
            _leave_task(self._loop, self._task)
