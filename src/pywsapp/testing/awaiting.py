"""Methods whose result must be awaited, and what finds the ones that a test has forgotten to await."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, TypeVar

from typing_extensions import ParamSpec

from pywsapp._outbox.awaitables import LazyAwaitable

#: pytest leaves the frames of this module out of tracebacks, so a failure ends in the line of the test.
__tracebackhide__ = True

SelfT = TypeVar("SelfT", bound="HasAwaitables")
P = ParamSpec("P")
T = TypeVar("T")


class HasAwaitables:
    """An object with methods that must be awaited.

    Args:
        name: how tests call it, for messages: "ws".
        forgotten: collects the results that were not awaited yet.
    """

    def __init__(self, name: str, forgotten: set[Unawaited]) -> None:
        self._name = name
        self._forgotten = forgotten


class Unawaited(LazyAwaitable[Any]):
    """The result of such a method; it begins when it is awaited.

    Args:
        wait: begins it.
        what: the call, for messages: "ws.receive()".
        forgotten: this object is in the set until it is awaited.
    """

    __slots__ = ("_forgotten", "_what")

    def __init__(self, wait: Callable[[], Coroutine[Any, Any, Any]], what: str, forgotten: set[Unawaited]) -> None:
        super().__init__(wait)
        self._what = what
        self._forgotten = forgotten
        forgotten.add(self)

    def __repr__(self) -> str:
        self._forgotten.discard(self)  # a failure shows it, so the end of the test need not
        return f"<{self._what} without await: write `await {self._what}`>"

    def _begin(self) -> Coroutine[Any, Any, Any]:
        self._forgotten.discard(self)
        return super()._begin()


def awaited(
    method: Callable[Concatenate[SelfT, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SelfT, P], Coroutine[Any, Any, T]]:
    """Have a call of an async method noted until it is awaited."""

    def call(self: SelfT, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return Unawaited(
            functools.partial(method, self, *args, **kwargs), f"{self._name}.{method.__name__}(...)", self._forgotten
        )

    functools.update_wrapper(call, method)
    return call
