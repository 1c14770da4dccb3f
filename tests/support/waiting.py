"""Wait until the other tasks of a test have done what they can do."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel

from pywsapp._event_loop import on_asyncio

#: Seconds after which a task that never waits fails the test.
GUARD = 20

#: Turns of the event loop in a row in which no other task can run. One is not enough: a callback can wake a task in the
#: next turn, and bytes on a socket are read in the turn after the one that wrote them.
_TURNS = 5


async def until_blocked() -> None:
    """Wait until every other task waits for a time, for bytes or for another task.

    On asyncio, `anyio.wait_all_tasks_blocked` checks the tasks every 0.1 seconds only. A task that sleeps for 50 ms
    again and again, such as the watchdog, can be about to run at each of these checks, so that the function never
    returns. This function checks the tasks in each turn of the event loop.
    """
    if not on_asyncio():
        await anyio.wait_all_tasks_blocked()  # noqa: TID251 - on trio it does not depend on times
        return
    this_task = asyncio.current_task()
    turns = 0
    with anyio.fail_after(GUARD):
        while turns < _TURNS:
            await anyio.lowlevel.checkpoint()
            turns = turns + 1 if all(_waits(task) for task in asyncio.all_tasks() if task is not this_task) else 0


def _waits(task: asyncio.Task[Any]) -> bool:
    waits_for: asyncio.Future[Any] | None = task._fut_waiter  # type: ignore[attr-defined]
    return waits_for is not None and not waits_for.done()
