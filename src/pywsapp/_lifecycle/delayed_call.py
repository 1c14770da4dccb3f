"""A call of a handler that has to wait, without this wait counting as time of the handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pywsapp._lifecycle.lifecycle import Lifecycle
    from pywsapp.connection import Connection

#: A method `on_message`, which takes a connection and a message.
OnMessage = Callable[[Any, Any], Any]
#: Waits, and returns whether a handler must still be called.
Wait = Callable[[], Coroutine[Any, Any, bool]]


class DelayedCall:
    """A result of `on_message` of a middleware, which calls the handler inside later; it is awaited once.

    `Options.handler_timeout` and the histogram of handlers count the call of the handler and what it returns, and not
    the wait before. The handler task takes the two apart; in any other place, awaiting this awaits both.

    Args:
        wait: waits, and returns whether the handler must still be called.
        handler: the `on_message` of the component inside.
        conn: its first argument.
        message: its second argument.

    Attributes:
        wait: the argument.
    """

    __slots__ = ("_conn", "_handler", "_message", "wait")

    def __init__(self, wait: Wait, handler: OnMessage, conn: Connection, message: Any) -> None:
        self.wait = wait
        self._handler = handler
        self._conn = conn
        self._message = message

    def around(self, wrap: Callable[[OnMessage], OnMessage], wait: Wait | None = None) -> DelayedCall:
        """Return the same call with another handler.

        Args:
            wrap: returns the function that is called in place of the handler.
            wait: waits in place of `wait`; None for no change.
        """
        return DelayedCall(wait or self.wait, wrap(self._handler), self._conn, self._message)

    async def begin(self) -> Any:
        """Wait, and call the handler if it must still be called; return what it has returned."""
        return self._handler(self._conn, self._message) if await self.wait() else None

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
