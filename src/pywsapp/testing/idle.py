"""Waiting until an application has done what it can do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from pywsapp._event_loop import on_asyncio

#: Turns of the event loop in a row in which no other task can run. One is not enough: a callback can wake a task in the
#: next turn, and bytes on a socket are read in the turn after the one that wrote them.
_TURNS = 5
#: Real seconds for which a thread is waited for.
_THREAD_SECONDS = 5.0
#: Seconds between two looks at the threads.
_PAUSE = 0.0005


async def until_idle() -> None:
    """Wait until every other task of the event loop waits for a time, for bytes or for another task.

    The threads of `in_thread` and `anyio.to_thread` have then ended too, or have run for five seconds more. This needs
    no time of the clock: it returns as soon as nothing can run any more. A task that never waits blocks it for ever.
    """
    await wait_idle(0)


async def wait_idle(permanent: int) -> int:
    """Wait as `until_idle` does.

    Args:
        permanent: so many threads are not waited for, because they have run for too long already.

    Returns:
        the number of threads that still run.
    """
    limiter = anyio.to_thread.current_default_thread_limiter()
    gives_up_at = None
    while True:
        await until_tasks_wait()
        running = int(limiter.borrowed_tokens)
        if running <= permanent:
            return running
        gives_up_at = gives_up_at or time.monotonic() + _THREAD_SECONDS
        if time.monotonic() >= gives_up_at:
            return running
        time.sleep(_PAUSE)  # noqa: ASYNC251 - not in the time of the loop, which can stand still; threads go on


async def until_tasks_wait() -> None:
    """Wait until all other tasks wait; threads can still run.

    On asyncio, `anyio.wait_all_tasks_blocked` checks the tasks every 0.1 seconds only. A task that sleeps for 50 ms
    again and again, such as the watchdog, can be about to run at each of these checks, so that the function never
    returns. This function checks the tasks in each turn of the event loop.
    """
    if not on_asyncio():
        await anyio.wait_all_tasks_blocked()  # noqa: TID251 - on trio it does not depend on times
        return
    this_task = asyncio.current_task()
    turns = 0
    while turns < _TURNS:
        await anyio.lowlevel.checkpoint()
        turns = turns + 1 if all(_waits(task) for task in asyncio.all_tasks() if task is not this_task) else 0


def _waits(task: asyncio.Task[Any]) -> bool:
    waits_for: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    return waits_for is not None and not waits_for.done()
