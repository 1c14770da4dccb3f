"""The counts of a server: handshakes, refusals, the ends of connections, and the traffic of each route."""

from __future__ import annotations

from collections import Counter

from pywsapp._histogram import Histogram
from pywsapp._lifecycle.measures import Measures
from pywsapp._protocol.traffic import Traffic

#: Limits without a `LimitReport`: each connection that exceeds one has a log line of its own.
_LIMITS = (
    "control_frames_per_second",
    "max_outbox",
    "max_message_size",
    "max_frame_size",
    "max_fragments",
    "message_timeout",
)


class ServerCounts:
    """The numbers of one server since its start.

    Args:
        measures: whether to measure times too.

    Attributes:
        routes: the numbers of each route that had a connection, by its pattern.
        refused: refused handshakes and requests by the HTTP status of the answer.
        closed_by_limit: closed connections by the option that they exceeded, for limits without a `LimitReport`.
        loop_lag: by how much the event loop is late; None if nothing is measured.
    """

    __slots__ = ("_measures", "closed_by_limit", "loop_lag", "refused", "routes")

    def __init__(self, *, measures: bool = False) -> None:
        self._measures = measures
        self.routes: dict[str, Traffic] = {}
        self.refused: Counter[int] = Counter()
        self.closed_by_limit: Counter[str] = Counter(dict.fromkeys(_LIMITS, 0))
        self.loop_lag = Histogram() if measures else None

    @property
    def handshakes(self) -> int:
        """The accepted handshakes."""
        return sum(route.handshakes for route in self.routes.values())

    def of_route(self, pattern: str) -> Traffic:
        """Return the numbers of the route with a pattern."""
        counts = self.routes.get(pattern)
        if counts is None:
            counts = self.routes[pattern] = Traffic(Measures() if self._measures else None)
        return counts
