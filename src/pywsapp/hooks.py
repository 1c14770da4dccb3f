"""Calling what a person gives an App beside its components: hooks, timers, tasks."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import anyio

logger = logging.getLogger("pywsapp")


async def call(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a def or async def."""
    result = function(*arguments)
    if inspect.isawaitable(result):
        await result


async def logged(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a def or async def, and log what it raises."""
    try:
        await call(function, *arguments)
    except Exception:
        logger.exception("%s failed", getattr(function, "__qualname__", function))


async def repeat(seconds: float, hook: Callable[[], Any]) -> None:
    """Call a def or async def every so many seconds until cancelled."""
    due = anyio.current_time() + seconds
    while True:
        await anyio.sleep_until(due)
        await logged(hook, ())
        due = max(due + seconds, anyio.current_time())
