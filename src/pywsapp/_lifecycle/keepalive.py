"""Checks that a peer is still there: pings, and the progress of sending (RFC 6455, section 5.5.2).

No I/O happens here, and time is an argument.
"""

from __future__ import annotations

from pywsapp.options import Options

PING = "ping"
_NEVER = float("-inf")


class Keepalive:
    """Decides when a connection is pinged, and when its peer counts as gone.

    Any byte from the peer answers a ping. While nothing is read, a pong would not be seen. If that is because the peer
    does not read what this side sends, only progress of what is sent counts. If it is because a handler is busy, the
    peer is pinged and no pong is expected: the system of a peer that is gone answers with a reset, and the write of the
    next ping fails. An event loop does not notice a reset of a socket that it does not read.

    Attributes:
        is_alive: whether bytes have come since the last ping; the lifecycle sets it.
    """

    __slots__ = ("_pinged", "_pong_due", "_stalled_since", "_unsent", "is_alive")

    def __init__(self) -> None:
        self.is_alive = True
        self._pinged = _NEVER
        self._pong_due = False
        self._unsent = -1  # bytes that the transport has not sent; -1 if it makes progress
        self._stalled_since = _NEVER

    def tick(self, now: float, options: Options) -> str | None:
        """Return what is due while the peer is read: `PING`, the reason of a time-out, or None.

        Args:
            now: seconds of a monotonic clock.
            options: the intervals.
        """
        interval = options.ping_interval
        if interval is None:
            return None
        if self._pinged == _NEVER:
            self._pinged = now
        self._pong_due = self._pong_due and not self.is_alive
        if self._pong_due and now - self._pinged >= options.ping_timeout:
            return "ping timeout"
        if not self._pong_due and now - self._pinged >= interval:
            self._pinged = now
            self._pong_due = True
            self.is_alive = False
            return PING
        return None

    def tick_unread(self, now: float, unsent: int | None, options: Options) -> str | None:
        """Return what is due while the peer is not read: `PING`, the reason of a time-out, or None.

        Args:
            now: seconds of a monotonic clock.
            unsent: the bytes in a transport that takes no more; None if it takes more.
            options: the intervals.
        """
        interval = options.ping_interval
        self._pong_due = False  # a pong would not be seen
        if unsent is None and interval is not None and self._pinged != _NEVER:
            if now - self._pinged < interval:
                return None
            self._pinged = now
            return PING
        self._pinged = now
        if unsent is None:
            return None
        limit = (interval or 0) + options.ping_timeout
        if self._unsent < 0 or unsent < self._unsent:
            self._unsent, self._stalled_since = unsent, now
        elif now - self._stalled_since >= limit:
            return "send timeout"
        return None

    def progressed(self) -> None:
        """Note that the transport has sent what it had."""
        self._unsent = -1
