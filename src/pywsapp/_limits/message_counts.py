"""The counts of the limits of messages: the numbers of one limit, and those of all limits of an App."""

from __future__ import annotations

import logging
from time import monotonic
from typing import NamedTuple

from pywsapp._limits.report import LimitReport


class RateLimitStats(NamedTuple):
    """The activity of a `RateLimit` in this process, counted from its start.

    Args:
        delayed: messages that waited.
        dropped: messages that were dropped, those that waited when their connection ended included.
        closed: connections that were closed.
        dropped_control_frames: pings that were not answered, and unsolicited pongs above the limit.
    """

    delayed: int
    dropped: int
    closed: int
    dropped_control_frames: int = 0


class MessageCounts:
    """The reports of one limit.

    Args:
        name: names the limit in logs and in `App.stats`.
    """

    __slots__ = ("closed", "delayed", "dropped", "dropped_control_frames", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.delayed = LimitReport(
            f"RateLimit {name!r} delayed a message", level=logging.INFO, event="rate_limit.delayed", limit=name
        )
        self.dropped = LimitReport(f"RateLimit {name!r} dropped a message", event="rate_limit.dropped", limit=name)
        self.closed = LimitReport(f"RateLimit {name!r} closed a connection", event="rate_limit.closed", limit=name)
        self.dropped_control_frames = LimitReport(
            f"RateLimit {name!r} did not answer a ping", event="rate_limit.ping_dropped", limit=name
        )

    @property
    def stats(self) -> RateLimitStats:
        """The numbers so far."""
        return RateLimitStats(
            self.delayed.count, self.dropped.count, self.closed.count, self.dropped_control_frames.count
        )

    def tick(self, now: float) -> None:
        """Log what the reports have not logged yet; see `LimitReport.tick`."""
        self.delayed.tick(now)
        self.dropped.tick(now)
        self.closed.tick(now)
        self.dropped_control_frames.tick(now)


class AllMessageCounts:
    """The reports of all limits of an App."""

    def __init__(self) -> None:
        self._limits: list[MessageCounts] = []

    def add(self, counts: MessageCounts) -> None:
        """Add a limit; does nothing if it is here."""
        if counts not in self._limits:
            self._limits.append(counts)

    def tick(self, now: float) -> None:
        """Log what the reports have not logged yet; the server calls this about once a second.

        Args:
            now: seconds of the event loop's clock, which is another one than that of the limits on trio.
        """
        if self._limits:
            now = monotonic()
            for counts in self._limits:
                counts.tick(now)

    @property
    def stats(self) -> dict[str, RateLimitStats]:
        """The numbers so far by the name of the limit; limits of one name are added."""
        found: dict[str, RateLimitStats] = {}
        for counts in self._limits:
            old, new = found.get(counts.name, RateLimitStats(0, 0, 0)), counts.stats
            found[counts.name] = RateLimitStats(*(a + b for a, b in zip(old, new, strict=True)))
        return found
