"""What is measured with a clock about the connections of one route: the time of handlers, and the latency of pings.

Only an App with metrics has this. What measures is put around the functions that messages and pongs pass anyway, so
another App reads no clock for a message.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import perf_counter
from types import CoroutineType
from typing import Any

from pywsapp._histogram import Histogram
from pywsapp._lifecycle.delayed_call import DelayedCall
from pywsapp._outbox.pings import Pings

OnMessage = Callable[[Any, Any], Any]


class Measures:
    """Measures the connections of one route.

    Attributes:
        handler_seconds: how long calls of `on_message` take, until an async def has ended.
        ping_seconds: how long clients take to answer the pings of the keepalive.
    """

    __slots__ = ("handler_seconds", "ping_seconds")

    def __init__(self) -> None:
        self.handler_seconds = Histogram()
        self.ping_seconds = Histogram()

    def of_connection(self, on_message: OnMessage) -> tuple[OnMessage, Pings]:
        """Return what measures a connection: a function in place of its `on_message`, and its pings."""
        return self._timed(on_message), _MeasuredPings(self.ping_seconds)

    def _timed(self, on_message: OnMessage) -> OnMessage:
        observe = self.handler_seconds.observe

        def measured(conn: Any, message: Any) -> Any:
            began = perf_counter()
            try:
                result = on_message(conn, message)
            except BaseException:
                observe(perf_counter() - began)
                raise
            if type(result) is CoroutineType:
                return _measured(result, began, observe)
            if type(result) is not DelayedCall:  # its handler is called later
                observe(perf_counter() - began)
            return result

        return measured


async def _measured(coroutine: Coroutine[Any, Any, Any], began: float, observe: Callable[[float], None]) -> Any:
    try:
        return await coroutine
    finally:
        observe(perf_counter() - began)


class _MeasuredPings(Pings):
    """The pings of one connection, those of the keepalive with their time."""

    __slots__ = ("_latencies", "_sent")

    def __init__(self, latencies: Histogram) -> None:
        super().__init__()
        self._latencies = latencies
        self._sent: float | None = None  # when the last ping of the keepalive was sent, until it is answered

    def keepalive_sent(self) -> None:
        """Note that the keepalive sends a ping."""
        super().keepalive_sent()
        self._sent = perf_counter()

    def pong_received(self, payload: bytes) -> None:
        """Handle a pong, which has no payload if it answers the keepalive."""
        if self._sent is not None and not payload:
            self._latencies.observe(perf_counter() - self._sent)
            self._sent = None
        super().pong_received(payload)
