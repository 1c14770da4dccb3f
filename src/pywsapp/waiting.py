"""What is awaited: what a connection hands out, none of which minds being dropped, and what its task sleeps on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import anyio

from pywsapp.values.errors import ConfigurationError, ConnectionClosed

T_co = TypeVar("T_co", covariant=True)

_payloads = count(1)
_MAX_PAYLOAD = 125


class Later(Generic[T_co]):
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
DONE: Any = _Done()


def awaited_all(awaitables: Sequence[Awaitable[None] | None]) -> Awaitable[None] | None:
    """Give what awaits in turn those that are not None; None if there are none."""
    found = [awaitable for awaitable in awaitables if awaitable is not None]
    return _await_all(found) if found else None


async def _await_all(awaitables: Sequence[Awaitable[None]]) -> None:
    for awaitable in awaitables:
        await awaitable


def on_asyncio() -> bool:
    """Tell whether the current task is asyncio's (uvloop's included)."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


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


class _Ping:
    __slots__ = ("_answer", "_event", "_sent")

    def __init__(self) -> None:
        self._sent = time.perf_counter()
        self._answer: float | None = None
        self._event: anyio.Event | None = None

    def answered(self, now: float | None) -> None:
        self._answer = -1.0 if now is None else now - self._sent
        if self._event is not None:
            self._event.set()

    async def latency(self) -> float:
        if self._answer is None:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        assert self._answer is not None
        if self._answer < 0:
            raise ConnectionClosed("the connection ended before the pong came")
        return self._answer


class Pings:
    """The pings of one connection that wait for their pongs."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[bytes, _Ping] = {}

    def add(self, payload: bytes | None) -> tuple[bytes, Awaitable[float]]:
        """Add a ping that is sent now; give its payload, made up if there is none, and its latency.

        Raises:
            ConfigurationError: the payload is too long or in use.
        """
        if payload is None:
            payload = b"%d" % next(_payloads)
        if len(payload) > _MAX_PAYLOAD:
            raise ConfigurationError(f"a ping carries at most {_MAX_PAYLOAD} bytes, not {len(payload)}")
        if payload in self._waiting:
            raise ConfigurationError(f"a ping with payload {payload!r} is still unanswered")
        ping = self._waiting[payload] = _Ping()
        return payload, Later(ping.latency)

    def answered(self, payload: bytes) -> None:
        """Take a pong: it answers its ping and all earlier ones (RFC 6455 section 5.5.3)."""
        if payload not in self._waiting:
            return
        now = time.perf_counter()
        for sent in list(self._waiting):
            self._waiting.pop(sent).answered(now)
            if sent == payload:
                return

    def end(self) -> None:
        """Let everybody who waits know that no pong will come."""
        for ping in self._waiting.values():
            ping.answered(None)
        self._waiting.clear()
