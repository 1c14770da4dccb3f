"""Threads for stores that block: others than those of methods marked with `in_thread`, which a store must not delay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")

_MAX_THREADS = 16
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("pywsapp.sessions.threads")


async def in_store_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread, and return its result. When it is cancelled, it does not wait for the thread."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(_MAX_THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
