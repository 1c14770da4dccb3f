"""What a server counts: handshakes, refusals, the ends of connections, and the traffic of each route."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pywsapp._histogram import Histogram
from pywsapp._lifecycle.measures import Measures
from pywsapp._protocol.traffic import Traffic
from pywsapp.close_codes import CloseCode

if TYPE_CHECKING:
    from pywsapp.connection import Connection
    from pywsapp.http import Request

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
        open_connections: its connections now.
        closed: ended connections by their close code, which is "other" for codes that are not registered.
    """

    __slots__ = ("closed", "handshakes", "open_connections")

    def __init__(self, measures: Measures | None) -> None:
        super().__init__(measures)
        self.handshakes = 0
        self.open_connections = 0
        self.closed: Counter[str] = Counter()


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

    def of_route(self, request: Request) -> RouteCounts:
        """Return the numbers of the route of a request."""
        counts = self.routes.get(request.route)
        if counts is None:
            counts = self.routes[request.route] = RouteCounts(Measures() if self._measures else None)
        return counts

    def accepted(self, request: Request) -> None:
        """Count a connection that opens."""
        counts = self.of_route(request)
        counts.handshakes += 1
        counts.open_connections += 1

    def ended(self, conn: Connection) -> None:
        """Count the end of a connection."""
        counts = self.of_route(conn.request)
        counts.open_connections -= 1
        code = conn.close_code
        counts.closed[OTHER if code is None else _CLOSE_CODES.get(code, OTHER)] += 1
