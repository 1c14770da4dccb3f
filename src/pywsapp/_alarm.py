"""An alarm: what one task sleeps on until other code wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from pywsapp._event_loop import on_asyncio


class Alarm(Protocol):
    """Wakes one task, once."""

    def set(self) -> None:
        """Wake the task."""

    def wait(self) -> Awaitable[None]:
        """Wait until `set` is called."""


class _AsyncioAlarm:
    """The same as `anyio.Event` for one task, in a third of the time: each message to an `async def` needs one."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():  # it is done if the task was cancelled
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future


def alarm_type() -> Callable[[], Alarm]:
    """Return the type of alarm that suits the current task."""
    return _AsyncioAlarm if on_asyncio() else anyio.Event
