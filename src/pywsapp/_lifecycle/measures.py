"""Measurements of the connections of one route: the time of handlers, and the latency of pings.

Only an App with metrics has this. The measuring functions wrap those that messages and pongs pass anyway, so
another App reads no clock for a message.
"""

from __future__ import annotations

from time import perf_counter
from types import CoroutineType
from typing import Any

from pywsapp._histogram import Histogram
from pywsapp._lifecycle.delayed_call import DelayedCall, OnMessage
from pywsapp._lifecycle.measured import MeasuredPings, measured_coroutine
from pywsapp._outbox.pings import Pings


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
        return self._timed(on_message), MeasuredPings(self.ping_seconds)

    def _timed(self, on_message: OnMessage) -> OnMessage:
        histogram = self.handler_seconds

        def measured(conn: Any, message: Any) -> Any:
            began = perf_counter()
            try:
                result = on_message(conn, message)
            except BaseException:
                histogram.observe(perf_counter() - began)
                raise
            if type(result) is CoroutineType:
                return measured_coroutine(result, began, histogram)
            if type(result) is DelayedCall:  # its handler is called later
                return result.around(self._timed)
            histogram.observe(perf_counter() - began)
            return result

        return measured
