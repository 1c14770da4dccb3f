"""A call of a handler that has to wait, without this wait counting as time of the handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp.connection import Connection


class DelayedCall:
    """What `on_message` of a middleware can return to call the handler inside later; it is awaited once.

    `Options.handler_timeout` limits what the handler inside returns, and not the wait before. The handler task takes
    the two apart; in any other place, awaiting this awaits both.

    Args:
        begin: waits, calls the handler, and returns what the handler has returned.
    """

    __slots__ = ("begin",)

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.begin = begin

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._both().__await__()

    async def _both(self) -> Any:
        result = await self.begin()
        return await result if isinstance(result, Awaitable) else result


async def pause(conn: Connection, seconds: float) -> bool:
    """Wait before a message of a connection is handled, until a time is over or its transport is lost.

    Returns:
        whether the message must still be handled. It must not if the transport was lost before the time was over, or
        if this side has called `close` or `abort`.
    """
    driver = cast("Lifecycle | None", conn._driver)
    return driver is not None and await driver.machine.pause(seconds)
