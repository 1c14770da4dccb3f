"""A token bucket: how much may pass in any time.

Theory

A bucket gets `rate` tokens a second and holds `burst` at most. Each message that passes takes tokens, so no more than
`burst + rate * t` passes in any time of t seconds, and a client below the rate always finds tokens.

`take` takes tokens that are there, or none. `reserve` takes them in any case, and returns the seconds after which the
bucket has earned them. The bucket is in debt meanwhile, and a later reservation waits longer, so that those who wait
pass in the order in which they came. An amount above the burst can be reserved: it waits until the rate has earned it.
`take` never gives so much.

Time is an argument everywhere.
"""

from __future__ import annotations

#: Tokens that may be missing, because seconds are floating-point numbers. They do not add up: they are owed.
_SLACK = 1e-3


class TokenBucket:
    """One bucket, full at first.

    Args:
        rate: tokens a second.
        burst: tokens that it holds.
        now: seconds of a monotonic clock.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def has(self, amount: float, now: float) -> bool:
        """Return whether so many tokens are there."""
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        return self._tokens + _SLACK >= amount

    def spend(self, amount: float) -> None:
        """Remove tokens for which `has` has just returned True."""
        self._tokens -= amount

    def take(self, amount: float, now: float) -> bool:
        """Remove tokens if so many are there; return whether they were."""
        if self.has(amount, now):
            self._tokens -= amount
            return True
        return False

    def reserve(self, amount: float, now: float) -> float:
        """Remove tokens, also those that are not there yet; return the seconds until the bucket has earned them."""
        if self.take(amount, now):
            return 0.0
        self._tokens -= amount
        return -self._tokens / self._rate

    def give_back(self, amount: float) -> None:
        """Undo a `take` or a `reserve`."""
        self._tokens = min(self._burst, self._tokens + amount)

    def is_full(self, now: float) -> bool:
        """Return whether the bucket has all its tokens, like a new one."""
        return self.has(self._burst, now)
