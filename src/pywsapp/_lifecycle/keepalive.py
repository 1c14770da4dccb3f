"""Whether a peer is still there: pings, and progress of what is sent (RFC 6455, section 5.5.2).

No I/O happens here, and time is an argument.
"""

from __future__ import annotations

from pywsapp.options import Options

PING = "ping"


class Keepalive:
    """Decides when a connection is pinged, and when its peer counts as gone.

    Any byte from the peer answers a ping. While nothing is read, because the peer does not read what this side sends,
    a pong would not be seen; then only progress of what is sent counts.

    Args:
        options: the intervals.

    Attributes:
        is_alive: whether bytes have come since the last ping; the lifecycle sets it.
    """

    __slots__ = ("_options", "_pinged", "_pong_due", "_stalled", "is_alive")

    def __init__(self, options: Options) -> None:
        self.is_alive = True
        self._options = options
        self._pinged: float | None = None
        self._pong_due = False
        self._stalled: tuple[int, float] | None = None  # bytes that the transport has not sent, and since when

    def tick(self, now: float) -> str | None:
        """Return what is due while the peer is read: `PING`, the reason of a time-out, or None.

        Args:
            now: seconds of a monotonic clock.
        """
        interval = self._options.ping_interval
        if interval is None:
            return None
        if self._pinged is None:
            self._pinged = now
        self._pong_due = self._pong_due and not self.is_alive
        if self._pong_due and now - self._pinged >= self._options.ping_timeout:
            return "ping timeout"
        if not self._pong_due and now - self._pinged >= interval:
            self._pinged = now
            self._pong_due = True
            self.is_alive = False
            return PING
        return None

    def tick_unread(self, now: float, unsent: int | None) -> str | None:
        """Return the reason of a time-out while the peer is not read, or None.

        Args:
            now: seconds of a monotonic clock.
            unsent: the bytes in a transport that takes no more; None if it takes more.
        """
        self._pinged, self._pong_due = now, False  # a pong would not be seen
        if unsent is None:
            return None
        limit = (self._options.ping_interval or 0) + self._options.ping_timeout
        if self._stalled is None or unsent < self._stalled[0]:
            self._stalled = (unsent, now)
        elif now - self._stalled[1] >= limit:
            return "send timeout"
        return None

    def progressed(self) -> None:
        """Note that the transport has sent what it had."""
        self._stalled = None
