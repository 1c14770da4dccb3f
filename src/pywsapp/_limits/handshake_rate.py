"""How many handshakes a process admits in a second, and when the others should come again."""

from __future__ import annotations

from pywsapp._limits.token_bucket import TokenBucket

#: Seconds; the longest time that a refused client is told to wait.
LONGEST_WAIT = 60.0


class HandshakeRate:
    """A token bucket for handshakes, with an estimate of how many clients wait outside.

    The bucket holds the handshakes of one second, and at least one. A client that is refused comes again. So each
    refusal makes the queue of those that wait longer, and the queue gets shorter at the rate. A client is told to come
    within the time that the whole queue needs, at random. Then about as many come again in a second as can be admitted.

    No I/O happens here, and time is an argument.

    Args:
        per_second: handshakes on average.
    """

    __slots__ = ("_at", "_bucket", "_per_second", "_waiting")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._bucket: TokenBucket | None = None
        self._waiting = 0.0
        self._at = 0.0  # of the last call

    def take(self, now: float) -> float:
        """Return 0 if a handshake is admitted, otherwise the seconds within which its client should come again.

        Args:
            now: seconds of a monotonic clock.
        """
        if self._bucket is None:
            self._bucket = TokenBucket(self._per_second, max(1.0, self._per_second), now)
        self._waiting = max(0.0, self._waiting - max(0.0, now - self._at) * self._per_second)
        self._at = now
        if self._bucket.take(1, now):
            return 0.0
        self._waiting += 1
        return min(1 + self._waiting / self._per_second, LONGEST_WAIT)
