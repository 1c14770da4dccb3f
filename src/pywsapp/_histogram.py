"""Distributions of durations as plain integers: how many were at most so many seconds."""

from __future__ import annotations

from typing import NamedTuple

#: The upper bounds of the buckets, in seconds. The last bucket, for longer durations, has no bound.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = BOUNDS  # a name that is a C variable in the compiled build


class HistogramStats(NamedTuple):
    """How often something happened, and how long it took each time.

    Args:
        buckets: the number of durations in each bucket; `BOUNDS` has the upper bounds of all but the last one.
        seconds: the sum of all durations.
    """

    buckets: tuple[int, ...]
    seconds: float

    @property
    def number(self) -> int:
        """How often it happened."""
        return sum(self.buckets)


class Histogram:
    """Counts durations in buckets."""

    __slots__ = ("_buckets", "_seconds")

    def __init__(self) -> None:
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        number = 0
        for bound in _BOUNDS:  # most durations belong to the first buckets
            if seconds <= bound:
                break
            number += 1
        self._buckets[number] += 1
        self._seconds += seconds

    @property
    def stats(self) -> HistogramStats:
        """The numbers so far."""
        return HistogramStats(tuple(self._buckets), self._seconds)
