"""The budget of one client: messages, bytes and control frames, and the budgets of all clients.

Budgets of addresses and users are shared by their connections. A table has them: those with open connections, whose
number the limits of connections bound, and idle ones, which a client must find again when it comes back, or it would
escape the limit by reconnecting. An idle budget that has filled up is like a new one and is forgotten, so only clients
that sent a moment ago take memory. `max_idle` bounds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from pywsapp._limits.token_bucket import TokenBucket

#: Idle budgets that are looked at when another one becomes idle.
_LOOKED_AT = 4


class Rates(NamedTuple):
    """Rates and bursts; None sets no limit.

    Args:
        messages: messages a second.
        messages_burst: messages at once.
        bytes: bytes a second.
        bytes_burst: bytes at once.
        control_frames: pings and unsolicited pongs a second.
        control_frames_burst: pings and unsolicited pongs at once.
    """

    messages: float | None
    messages_burst: float
    bytes: float | None
    bytes_burst: float
    control_frames: float | None = None
    control_frames_burst: float = 0.0


class MessageBudget:
    """The messages, bytes and control frames that one client may send.

    Args:
        rates: the rates.
        now: seconds of a monotonic clock.

    Attributes:
        connections: how many connections use it; the table counts them.
    """

    __slots__ = ("_bytes", "_control_frames", "_messages", "connections")

    def __init__(self, rates: Rates, now: float) -> None:
        self.connections = 0
        self._messages = None if rates.messages is None else TokenBucket(rates.messages, rates.messages_burst, now)
        self._bytes = None if rates.bytes is None else TokenBucket(rates.bytes, rates.bytes_burst, now)
        self._control_frames = (
            None if rates.control_frames is None else TokenBucket(rates.control_frames, rates.control_frames_burst, now)
        )

    def take(self, size: int, now: float) -> bool:
        """Count a message of `size` bytes if it is within the limits; return whether it is."""
        messages, in_bytes = self._messages, self._bytes
        if messages is not None and not messages.has(1, now):
            return False
        if in_bytes is not None and not in_bytes.take(size, now):
            return False
        if messages is not None:
            messages.spend(1)
        return True

    def must_ask(self, size: int, now: float) -> bool:
        """Return False: this process alone decides about a message for which `take` has returned False."""
        return False

    def reserve(self, size: int, now: float) -> float:
        """Count a message in any case; return the seconds after which it is within the limits."""
        messages, in_bytes = self._messages, self._bytes
        seconds = 0.0 if messages is None else messages.reserve(1, now)
        return seconds if in_bytes is None else max(seconds, in_bytes.reserve(size, now))

    def give_back(self, size: int) -> None:
        """Undo the count of a message."""
        if self._messages is not None:
            self._messages.give_back(1)
        if self._bytes is not None:
            self._bytes.give_back(size)

    def take_control_frame(self, now: float) -> bool:
        """Count a ping or pong if it is within the limit; return whether it is."""
        return self._control_frames is None or self._control_frames.take(1, now)

    def begin_to_ask(self, now: float) -> bool:
        """Return False: this process alone decides about pings and pongs."""
        return False

    def is_full(self, now: float) -> bool:
        """Return whether nothing is counted, as in a new budget."""
        buckets = (self._messages, self._bytes, self._control_frames)
        return all(bucket is None or bucket.is_full(now) for bucket in buckets)


class Budget(Protocol):
    """The part of a budget that a table uses."""

    connections: int

    def is_full(self, now: float) -> bool:
        """Return whether the budget is like a new one."""


BudgetT = TypeVar("BudgetT", bound=Budget)


class BudgetTable(Generic[BudgetT]):
    """The budgets of clients by their keys.

    Args:
        make: makes the budget of a key; called with the key and the time.
        max_idle: budgets without open connections that are kept.
    """

    def __init__(self, make: Callable[[str, float], BudgetT], max_idle: int) -> None:
        self._make = make
        self._max_idle = max_idle
        self._in_use: dict[str, BudgetT] = {}
        self._idle: dict[str, BudgetT] = {}  # the one that became idle first is first

    def __len__(self) -> int:
        return len(self._in_use) + len(self._idle)

    def acquire(self, key: str, now: float) -> BudgetT:
        """Return the budget of a client for one more connection.

        Args:
            key: names the client.
            now: seconds of a monotonic clock.
        """
        budget = self._in_use.get(key)
        if budget is None:
            budget = self._idle.pop(key, None) or self._make(key, now)
            self._in_use[key] = budget
        budget.connections += 1
        return budget

    def release(self, key: str, now: float) -> None:
        """Note the end of a connection for which `acquire` was called."""
        budget = self._in_use[key]
        budget.connections -= 1
        if budget.connections:
            return
        del self._in_use[key]
        self._idle[key] = budget
        oldest = [other for other, _ in zip(self._idle, range(_LOOKED_AT), strict=False)]
        for other in (key, *oldest):
            if other in self._idle and self._idle[other].is_full(now):
                del self._idle[other]
        if len(self._idle) > self._max_idle:
            del self._idle[next(iter(self._idle))]
