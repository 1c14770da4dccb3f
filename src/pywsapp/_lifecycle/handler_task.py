"""The task of one connection, in which its async handlers run, in order and one at a time.

Theory

A handler that is an async def needs a real task: timeouts, cancel scopes, context variables and `current_task()` have
to work in it. Yet waking a task costs more than all the rest of a small message: a future, a place in the loop's queue,
a step of the task. And most handlers never wait, for `await conn.send(message)` only does when the peer is slow.

So on asyncio the first step of a handler is taken right where its message came in, on behalf of the connection's task,
which is asleep (`EagerTask`): `_enter_task` makes it the current one, as asyncio documents for task implementations of
others, and the coroutine runs in the worker's context up to where it first has to wait. Mostly it has ended by then. If
not, the task is woken and goes on with the `SuspendedCoroutine`: it gives the loop what the coroutine waits for, and
the coroutine what the loop answers. Since a task's own context cannot be had before Python 3.12, all of it runs
`RunInContext` one of ours. Whoever looks sees one task throughout. A cancellation that comes between the first step and
the waking belongs to the handler; `SuspendedCoroutine.interrupt` hands it on.

On trio, where a task cannot be lent, and when the message comes in inside another task, the handler waits for the
connection's task from its first step on.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from pywsapp._event_loop import on_asyncio
from pywsapp._lifecycle.eager_step import EagerTask, SuspendedCoroutine
from pywsapp._outbox.awaitables import alarm_type, raise_if_cancelled

if TYPE_CHECKING:
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp._outbox.awaitables import Alarm

logger = logging.getLogger("pywsapp")


class RunInContext:
    """A coroutine that runs in a context other than its task's; to be awaited once.

    Args:
        context: where it runs.
        coroutine: what runs.
    """

    __slots__ = ("_context", "_coroutine")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._context = context
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coroutine = self._context.run, self._coroutine
        failure: BaseException | None
        try:
            waiting = run(coroutine.send, None)
            while True:
                failure = None
                try:
                    answer = yield waiting
                except BaseException as exc:
                    failure = exc
                waiting = run(coroutine.send, answer) if failure is None else run(coroutine.throw, failure)
        except StopIteration as end:
            return end.value
        finally:
            failure = None  # its traceback holds this frame


def _taken_back(exc: BaseException) -> bool:
    """Tell whether `uncancel` followed a handler's `cancel` in its first step; it then never was, since 3.13."""
    if sys.version_info < (3, 13) or not isinstance(exc, asyncio.CancelledError) or not on_asyncio():
        return False
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


async def work(lifecycle: Lifecycle) -> None:
    """Be the task of a connection, for as long as it lives."""
    task = asyncio.current_task() if on_asyncio() else None
    lifecycle.worker = worker = Worker(lifecycle)
    if task is None:
        await worker.run()
        return
    context = copy_context()
    lifecycle.eager_task = EagerTask(asyncio.get_running_loop(), task, context)
    await RunInContext(context, worker.run())


class Worker:
    """What the task does.

    Args:
        lifecycle: the connection's; it gives the work and takes what comes of it.
    """

    __slots__ = ("_alarm", "_lifecycle", "_make_alarm")

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._make_alarm = alarm_type()
        self._alarm: Alarm | None = None

    def wake(self) -> None:
        """Let the task look what there is to do."""
        if self._alarm is not None:
            self._alarm.set()

    async def run(self) -> None:
        """Do what the lifecycle gives to do, until its connection is lost or the task is cancelled."""
        lifecycle = self._lifecycle
        try:
            await self._work_off()
            while not lifecycle.rest():
                await self._sleep()
                await self._work_off()
        except BaseException as exc:
            if lifecycle.pending is not None:  # called in the turn of the cancellation; it begins, and is cancelled too
                await self._work_off()
            raise_if_cancelled(exc)
            logger.error("%r is aborted", lifecycle.conn, exc_info=exc)
        finally:
            await lifecycle.end()

    async def _sleep(self) -> None:
        self._alarm = self._make_alarm()
        try:
            await self._alarm.wait()
        except BaseException as exc:
            if _taken_back(exc):
                return
            pending = self._lifecycle.pending
            if not isinstance(pending, SuspendedCoroutine):
                raise
            pending.interrupt(exc)
        finally:
            self._alarm = None
            self._lifecycle.busy = True

    async def _work_off(self) -> None:
        """Await what is to be awaited, then deliver what is queued, until nothing is left."""
        lifecycle = self._lifecycle
        result: Any
        result, lifecycle.pending = lifecycle.pending, None
        while True:
            try:
                if isinstance(result, Awaitable):
                    await result
                if lifecycle.has_message():
                    result = lifecycle.deliver()
                elif lifecycle.has_more():
                    await anyio.lowlevel.checkpoint()
                    lifecycle.data_received(b"")
                    result = None
                else:
                    return
            except BaseException as exc:
                raise_if_cancelled(exc)
                result = lifecycle.report(exc)


async def await_last(end: Awaitable[None]) -> None:
    """Await the end of a connection without a worker: a task wants a coroutine of Python's own, not the twin's."""
    await end
