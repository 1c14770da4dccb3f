"""The results of `send`, `close`, `ping` and `broadcast`: coroutines that need not be awaited.

A coroutine of Python's own costs more than a small message, and warns when it is dropped. These objects are coroutines
for every event loop (`collections.abc.Coroutine`), so `create_task(conn.send(message))` and
`task_group.start_soon(conn.send, message)` work; until one is awaited or started it does nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, TypeVar

from pywsapp.exceptions import ConfigurationError

T_co = TypeVar("T_co", covariant=True)


class LazyCoroutine(Coroutine[Any, Any, T_co]):
    """A coroutine that begins when it is first awaited or started as a task, and need not be awaited.

    Type checkers complain about a plain `Coroutine` that is not awaited, but not about this class.
    """

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started: Coroutine[Any, Any, T_co] | None = None

    def _begin(self) -> Coroutine[Any, Any, T_co]:
        """Return the coroutine that does the waiting."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        """Run to the next wait; the task that this coroutine is calls this."""
        if self._started is None:
            self._started = self._begin()
        return self._started.send(value)

    def throw(self, *exc: Any) -> Any:
        """Raise an exception where the coroutine waits; the task that this coroutine is calls this."""
        if self._started is None:
            self._started = self._begin()
        return self._started.throw(*exc)

    def close(self) -> None:
        """End the coroutine, if it has been started."""
        if self._started is not None:
            self._started.close()


class LazyAwaitable(LazyCoroutine[T_co]):
    """Waits by the coroutine that a function makes.

    Args:
        wait: the function.
    """

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, T_co]]) -> None:
        super().__init__()
        self._wait = wait

    def _begin(self) -> Coroutine[Any, Any, T_co]:
        return self._wait()


_NOTHING = iter(())


class _AlreadyDone(LazyCoroutine[None]):
    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return _NOTHING  # type: ignore[return-value] # an iterator without values is all that await needs

    def send(self, value: Any) -> Any:
        raise StopIteration

    def throw(self, *exc: Any) -> Any:
        if isinstance(exc[0], BaseException):
            raise exc[0]
        raise exc[0](*[value for value in exc[1:2] if value is not None])

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


#: The result of `send` when there is nothing to wait for. One object serves all calls.
ALREADY_DONE: LazyCoroutine[None] = _AlreadyDone()


class Permission(LazyAwaitable[bool]):
    """The result of `conn.may` when the answer takes time.

    It has no truth value, because a forgotten `await` would be a permission.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        raise _without_await()


class _Answer:
    """An iterator that ends with a value: all that await needs."""

    __slots__ = ("_value",)

    def __init__(self, value: bool) -> None:
        self._value = value

    def __iter__(self) -> _Answer:
        return self

    def __next__(self) -> Any:
        raise StopIteration(self._value)


class _KnownPermission(LazyCoroutine[bool]):
    __slots__ = ("_answer", "_value")

    def __init__(self, value: bool) -> None:
        super().__init__()
        self._answer = _Answer(value)
        self._value = value

    def __bool__(self) -> bool:
        raise _without_await()

    def __await__(self) -> Generator[Any, Any, bool]:
        return self._answer  # type: ignore[return-value]

    def send(self, value: Any) -> Any:
        raise StopIteration(self._value)

    def throw(self, *exc: Any) -> Any:
        return ALREADY_DONE.throw(*exc)

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


def _without_await() -> ConfigurationError:
    return ConfigurationError("write `await conn.may(...)`: without `await` it has no answer")


#: The results of `conn.may` when the answer is known.
ALLOWED: LazyCoroutine[bool] = _KnownPermission(True)
REFUSED: LazyCoroutine[bool] = _KnownPermission(False)


def await_all(awaitables: Sequence[Awaitable[None] | None]) -> Awaitable[None] | None:
    """Return an awaitable that awaits the given ones in turn, None among them excepted; None if none is left."""
    found = [awaitable for awaitable in awaitables if awaitable is not None]
    return _await_all(found) if found else None


async def _await_all(awaitables: Sequence[Awaitable[None]]) -> None:
    for awaitable in awaitables:
        await awaitable
