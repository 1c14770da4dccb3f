"""What a server counts: handshakes, refusals and the ends of connections, and never messages."""

from __future__ import annotations

from collections import Counter


class ServerCounts:
    """The numbers of one server since its start.

    Attributes:
        handshakes: accepted handshakes.
        refused: refused handshakes and requests by the HTTP status of the answer.
        closed_by_limit: closed connections by the option that they exceeded, for limits without a `LimitReport`.
    """

    __slots__ = ("closed_by_limit", "handshakes", "refused")

    def __init__(self) -> None:
        self.handshakes = 0
        self.refused: Counter[int] = Counter()
        self.closed_by_limit: Counter[str] = Counter(control_frames_per_second=0, max_outbox=0)
