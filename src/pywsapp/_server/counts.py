"""What a server counts: handshakes, refusals, the ends of connections, and the traffic of each route."""

from __future__ import annotations

from collections import Counter

from pywsapp._histogram import Histogram
from pywsapp._lifecycle.measures import Measures
from pywsapp._protocol.traffic import Traffic
from pywsapp.close_codes import CloseCode

#: Limits without a `LimitReport`: each connection that exceeds one has a log line of its own.
_LIMITS = (
    "control_frames_per_second",
    "max_outbox",
    "max_message_size",
    "max_frame_size",
    "max_fragments",
    "message_timeout",
)
#: The close codes that are counted by themselves. Clients can send any other, so those are counted together.
_CLOSE_CODES = {int(code): str(int(code)) for code in CloseCode}
OTHER = "other"


class RouteCounts(Traffic):
    """The numbers of one route since the start of the server.

    Args:
        measures: measures its connections; None if nothing is measured.

    Attributes:
        handshakes: accepted handshakes and event streams.
        closed: ended connections by their close code, which is "other" for codes that are not registered.
    """

    __slots__ = ("closed", "handshakes")

    def __init__(self, measures: Measures | None) -> None:
        super().__init__(measures)
        self.handshakes = 0
        self.closed: dict[str, int] = {}

    @property
    def open_connections(self) -> int:
        """The connections now."""
        return self.handshakes - sum(self.closed.values())

    def ended(self, code: int | None) -> None:
        """Count the end of a connection with a close code."""
        name = OTHER if code is None else _CLOSE_CODES.get(code, OTHER)
        self.closed[name] = self.closed.get(name, 0) + 1


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
        self.routes: dict[str, RouteCounts] = {}
        self.refused: Counter[int] = Counter()
        self.closed_by_limit: Counter[str] = Counter(dict.fromkeys(_LIMITS, 0))
        self.loop_lag = Histogram() if measures else None

    @property
    def handshakes(self) -> int:
        """The accepted handshakes."""
        return sum(route.handshakes for route in self.routes.values())

    def of_route(self, pattern: str) -> RouteCounts:
        """Return the numbers of the route with a pattern."""
        counts = self.routes.get(pattern)
        if counts is None:
            counts = self.routes[pattern] = RouteCounts(Measures() if self._measures else None)
        return counts
