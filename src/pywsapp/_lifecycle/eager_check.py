"""A check, once in a process, that first steps of coroutines work on this interpreter (see `eager_step`)."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

from pywsapp._lifecycle.eager_step import EagerTask, SuspendedCoroutine, turn_off

_works: bool | None = None


async def check_eager_step() -> bool:
    """Return whether first steps work; if not, turn them off, so that handlers run in plain tasks.

    Call it in a task of asyncio; only the first call does something.
    """
    global _works
    if _works is None:
        try:
            _works = await _try()
        except Exception:
            _works = False
        if not _works:
            turn_off()
    return _works


async def _try() -> bool:
    """Return whether a coroutine can take its first step while its task sleeps, and end in the task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    seen: list[Any] = []

    async def handler() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    def first_step() -> None:
        rest = None
        try:
            rest = eager_task.first_step(waiting)
            seen.append(asyncio.current_task(loop))
        finally:
            stepped.set_result(rest)

    eager_task, stepped = EagerTask(loop, task, copy_context()), loop.create_future()
    waiting = handler()
    refused = eager_task.first_step(waiting) is waiting  # this task is running
    loop.call_soon(first_step)
    rest = await stepped
    if not refused or not isinstance(rest, SuspendedCoroutine):
        waiting.close()
        return False
    await rest
    return seen == [task, None, task]
