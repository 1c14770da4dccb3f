"""The task of one connection, in which its async handlers run, in order and one at a time.

Theory

A handler that is an async def needs a real task: timeouts, cancel scopes, context variables and `current_task()` have
to work in it. Yet waking a task costs more than all the rest of a small message: a future, a place in the loop's queue,
a step of the task. And most handlers never wait, because `await conn.send(message)` only waits while the peer is slow.

So on asyncio a handler takes its first step right where its message came in, on behalf of the handler task, which is
asleep (`EagerTask`): `_enter_task` makes it the current task, as asyncio documents for task implementations of others,
and the coroutine runs in the context of the handler task up to where it first has to wait. Mostly it has ended by then.
If not, the task is woken and awaits the rest (`SuspendedCoroutine`): it passes on to the event loop what the coroutine
waits for, and to the coroutine what the event loop answers. A task's own context can not be read before Python 3.12, so
all handlers run in a context of ours (`RunInContext`). Code that asks for the current task sees one task throughout.
A cancellation that comes between the first step and the waking is meant for the handler;
`SuspendedCoroutine.interrupt` passes it on.

On trio, where code cannot run on behalf of a task, and when a message comes in inside another task, the handler waits
for the handler task from its first step on. So do handlers with a time limit: the scopes that a coroutine enters must
be inside the scope of the limit.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from time import monotonic
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from pywsapp._alarm import alarm_type
from pywsapp._event_loop import on_asyncio
from pywsapp._lifecycle.cancellation import raise_if_cancelled
from pywsapp._lifecycle.delayed_call import DelayedCall
from pywsapp._lifecycle.eager_step import EagerTask, SuspendedCoroutine
from pywsapp._log_fields import log_fields

if TYPE_CHECKING:
    from pywsapp._alarm import Alarm
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp.connection import Connection
    from pywsapp.options import Options

logger = logging.getLogger("pywsapp")

#: Seconds for which the messages of one connection are handled before other tasks get their turn.
TURN_SECONDS = 0.00025


class RunInContext:
    """A coroutine that runs in another context than its task's; it is awaited once.

    Args:
        context: the context.
        coroutine: the coroutine.
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
            failure = None  # its traceback refers to this frame


def _is_uncancelled(exc: BaseException) -> bool:
    """Return whether a handler cancelled its task in its first step and called `uncancel` since (Python 3.13)."""
    if sys.version_info < (3, 13) or not isinstance(exc, asyncio.CancelledError) or not on_asyncio():
        return False
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


class HandlerTask:
    """Awaits what the handlers of one connection return, from the first awaitable to the end of the connection.

    Args:
        lifecycle: says what to do next, and handles what comes of it.
        options: whether and when a handler is cancelled.
    """

    __slots__ = ("_alarm", "_is_limited", "_lifecycle", "_make_alarm", "_pending", "_scope", "_timeout")

    def __init__(self, lifecycle: Lifecycle, options: Options) -> None:
        self._lifecycle = lifecycle
        self._timeout = options.handler_timeout
        self._is_limited = options.handler_timeout is not None or options.cancel_on_disconnect
        self._scope: anyio.CancelScope | None = None  # of the handler that is being awaited, if handlers are limited
        self._pending: Awaitable[Any] | None = None
        self._make_alarm: Callable[[], Alarm]
        self._alarm: Alarm | None = None

    def hand_over(self, awaitable: Awaitable[Any]) -> None:
        """Await this next."""
        self._pending = awaitable
        if self._alarm is not None:
            self._alarm.set()

    def wake(self) -> None:
        """Look what there is to do."""
        if self._alarm is not None:
            self._alarm.set()

    def cancel(self) -> None:
        """Cancel the handler that is being awaited; `Options.cancel_on_disconnect` must be set."""
        if self._scope is not None:
            self._scope.cancel()

    async def main(self) -> None:
        """Run until the connection has ended, or until cancelled; this is the task."""
        self._make_alarm = alarm_type()
        task = asyncio.current_task() if on_asyncio() else None
        if task is None or self._is_limited:
            await self._run()
            return
        context = copy_context()
        self._lifecycle.use_eager_task(EagerTask(asyncio.get_running_loop(), task, context))
        await RunInContext(context, self._run())

    async def _run(self) -> None:
        lifecycle = self._lifecycle
        try:
            await self._work_off()
            while not lifecycle.finish_turn():
                await self._sleep()
                await self._work_off()
        except BaseException as exc:
            if self._pending is not None:  # handed over in the turn of the cancellation: it begins, and is cancelled
                await self._work_off()
            raise_if_cancelled(exc)
            logger.error(
                "%r is aborted",
                lifecycle.conn,
                exc_info=exc,
                extra=log_fields("connection.aborted", lifecycle.conn, error=type(exc).__name__),
            )
        finally:
            await lifecycle.end()

    async def _sleep(self) -> None:
        self._alarm = self._make_alarm()
        try:
            await self._alarm.wait()
        except BaseException as exc:
            if _is_uncancelled(exc):
                return
            if not isinstance(self._pending, SuspendedCoroutine):
                raise
            self._pending.interrupt(exc)
        finally:
            self._alarm = None
            self._lifecycle.begin_turn()

    async def _work_off(self) -> None:
        """Await what was handed over, then call handlers for what is queued, until nothing is left."""
        lifecycle = self._lifecycle
        turn_ends = monotonic() + TURN_SECONDS
        is_pausing = False  # a cancellation that comes in a pause is no exception of a handler, as in `_sleep`
        result: Any
        result, self._pending = self._pending, None
        while True:
            try:
                if isinstance(result, Awaitable):
                    returned = await (self._limited(result) if self._is_limited else result)
                    # not what conn.ping() gives, for instance, which a handler may return to have it awaited
                    result = returned if isinstance(result, (CoroutineType, SuspendedCoroutine)) else None
                if result is not None:
                    lifecycle.check_returned(result)
                    result = None
                if monotonic() >= turn_ends:
                    is_pausing = True
                    await anyio.lowlevel.checkpoint()
                    is_pausing = False
                    turn_ends = monotonic() + TURN_SECONDS
                if lifecycle.has_call():
                    result = lifecycle.next_call()
                elif lifecycle.has_unread():
                    lifecycle.data_received(b"")
                else:
                    return
            except BaseException as exc:
                if not is_pausing:
                    raise_if_cancelled(exc)
                    result = lifecycle.report(exc)
                elif not _is_uncancelled(exc):
                    raise
                is_pausing = False

    async def _limited(self, awaitable: Awaitable[Any]) -> Any:
        """Await a handler for `Options.handler_timeout` at most, and until the transport is lost.

        Raises:
            TimeoutError: the time is over; the handler was cancelled.
        """
        timeout = self._timeout
        while type(awaitable) is DelayedCall:  # of several middlewares around each other
            awaitable = await awaitable.begin()
        if not isinstance(awaitable, Awaitable):
            return awaitable
        deadline = float("inf") if timeout is None else anyio.current_time() + timeout
        try:
            with anyio.CancelScope(deadline=deadline) as scope:
                self._scope = scope
                return await awaitable
        finally:
            self._scope = None
        if anyio.current_time() >= deadline:
            raise TimeoutError(f"the handler took longer than Options.handler_timeout={timeout} seconds")
        return None


async def await_end(end: Awaitable[None]) -> None:
    """Await the end of a connection that has no handler task: a task needs a coroutine that is not compiled."""
    await end


async def await_last(
    last: Awaitable[None] | None, leave_topics: Callable[[], Awaitable[None] | None], limit: float, conn: Connection
) -> None:
    """Await what is left of `on_close` and then of `on_unsubscribe`, also while the task is being cancelled.

    Args:
        last: the awaitable of `on_close`, or None.
        leave_topics: unsubscribes from the remaining topics, and returns what must be awaited then.
        limit: seconds for each of the two.
        conn: the connection, for the log.
    """
    while last is not None or (last := leave_topics()) is not None:
        with anyio.move_on_after(limit, shield=True) as scope:
            await last
        if scope.cancelled_caught:
            logger.warning(
                "on_close took longer than %g s for %r and was cancelled",
                limit,
                conn,
                extra=log_fields("handler.too_slow", conn, handler="on_close", limit_seconds=limit),
            )
        last = None
