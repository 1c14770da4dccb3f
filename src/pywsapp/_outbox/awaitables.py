"""What is awaited: what a connection hands out, none of which minds being dropped, and what its task sleeps on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import anyio

from pywsapp._event_loop import on_asyncio

T_co = TypeVar("T_co", covariant=True)


class LazyAwaitable(Generic[T_co]):
    """Something that may be awaited, or not: unlike a coroutine it does not mind being dropped."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, T_co]]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._wait().__await__()


class _Done:
    __slots__ = ()

    def __await__(self) -> Iterator[Any]:
        return iter(())


#: What `send` returns while there is nothing to wait for; one object for all.
ALREADY_DONE: Any = _Done()


def await_all(awaitables: Sequence[Awaitable[None] | None]) -> Awaitable[None] | None:
    """Give what awaits in turn those that are not None; None if there are none."""
    found = [awaitable for awaitable in awaitables if awaitable is not None]
    return _await_all(found) if found else None


async def _await_all(awaitables: Sequence[Awaitable[None]]) -> None:
    for awaitable in awaitables:
        await awaitable


class Alarm(Protocol):
    """What a task sleeps on, once."""

    def set(self) -> None:
        """Wake the task."""

    def wait(self) -> Awaitable[None]:
        """Sleep until set."""


class _AsyncioAlarm:
    """As anyio.Event, for one task only and in a third of the time: it is part of each message to an async def."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():  # it is, if the task has been cancelled
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future


def alarm_type() -> Callable[[], Alarm]:
    """Give what makes alarms for the current task."""
    return _AsyncioAlarm if on_asyncio() else anyio.Event


def raise_if_leaving(exc: BaseException) -> None:
    """Raise again what is meant for the whole program."""
    if isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise exc


def raise_if_cancelled(exc: BaseException) -> None:
    """Raise again what is meant for the whole program, or for the task that this is called in."""
    raise_if_leaving(exc)
    if not isinstance(exc, Exception) and anyio.current_effective_deadline() == -math.inf:
        raise exc
