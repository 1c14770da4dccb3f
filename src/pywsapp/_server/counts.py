"""What a server counts: handshakes, refusals and the ends of connections, and never messages."""

from __future__ import annotations

from collections import Counter

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

    Attributes:
        handshakes: accepted handshakes.
        refused: refused handshakes and requests by the HTTP status of the answer.
        closed_by_limit: closed connections by the option that they exceeded, for limits without a `LimitReport`.
    """

    __slots__ = ("closed_by_limit", "handshakes", "refused")

    def __init__(self) -> None:
        self.handshakes = 0
        self.refused: Counter[int] = Counter()
        self.closed_by_limit: Counter[str] = Counter(dict.fromkeys(_LIMITS, 0))
