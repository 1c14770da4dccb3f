"""The parts of `measures` that are not compiled: a coroutine, which a task runs, and pings."""

from __future__ import annotations

from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from pywsapp._histogram import Histogram
from pywsapp._outbox.pings import Pings


async def measured_coroutine(coroutine: Coroutine[Any, Any, Any], began: float, histogram: Histogram) -> Any:
    """Await a handler, and count its time.

    Args:
        coroutine: what the handler has returned.
        began: when it was called, in seconds of `perf_counter`.
        histogram: counts the time.
    """
    try:
        return await coroutine
    finally:
        histogram.observe(perf_counter() - began)


class MeasuredPings(Pings):
    """The pings of one connection, those of the keepalive with their time.

    Args:
        latencies: counts the times.
    """

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
