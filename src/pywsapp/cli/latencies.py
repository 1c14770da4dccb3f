"""Latencies of a load test in bounded memory."""

from __future__ import annotations

from collections import Counter

_BITS = 8  # of each number that are kept: an error of less than 1 %


class Latencies:
    """Counts durations in nanoseconds by their leading bits, whatever their number is."""

    def __init__(self) -> None:
        self._buckets: Counter[tuple[int, int]] = Counter()
        self.count = 0
        self.max = 0

    def add(self, duration: int) -> None:
        """Count a duration."""
        shift = max(duration.bit_length() - _BITS, 0)
        self._buckets[shift, duration >> shift] += 1
        self.count += 1
        if duration > self.max:
            self.max = duration

    def percentile(self, percent: float) -> int:
        """Return the duration that so many percent do not exceed, at most 1 % too large; 0 without any duration."""
        left = self.count * percent / 100
        for (shift, bits), count in sorted(self._buckets.items(), key=lambda item: item[0][1] << item[0][0]):
            left -= count
            if left <= 0:
                return min(((bits + 1) << shift) - 1, self.max)
        return self.max
