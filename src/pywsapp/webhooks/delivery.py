"""The meaning of an answer to a request, and the time of the next attempt. Time and chance are arguments.

A request that could succeed later is sent again: after a failed connection, and after the statuses 408, 429 and from
500 on. The pause is a random number between 0 and a bound that doubles ("full jitter"), and not shorter than a
Retry-After field asks for. Status 410 ends the webhook. After any other status the same request would fail again, so it
is dropped. Redirects are among these: the URL of a webhook is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from pywsapp._http_text import retry_after_seconds
from pywsapp.webhooks.options import WebhookOptions

_TEMPORARY = frozenset({408, 429})
_MAX_DOUBLINGS = 30


class Unreachable(Exception):
    """There was no answer; the text says why."""


class Answer(NamedTuple):
    """The answer of a receiver.

    Args:
        status: the HTTP status.
        retry_after: the value of the field Retry-After; empty without one.
    """

    status: int
    retry_after: str = ""


class Outcome(Enum):
    """The meaning of an answer for a request."""

    DELIVERED = "delivered"
    FAILED = "failed"  #: it can be sent again
    REFUSED = "refused"
    GONE = "gone"  #: this and all further requests are refused


def outcome_of(status: int) -> Outcome:
    """Return what an HTTP status means."""
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if status in _TEMPORARY or status >= 500:
        return Outcome.FAILED
    return Outcome.GONE if status == 410 else Outcome.REFUSED


class Attempts:
    """The attempts to send one request.

    Args:
        options: the pauses and limits.
        now: the time of the first attempt, in seconds of a monotonic clock.
        uniform: returns a random number between two others.

    Attributes:
        failed: the number of failed attempts.
    """

    def __init__(self, options: WebhookOptions, now: float, uniform: Callable[[float, float], float]) -> None:
        self.failed = 0
        self._options = options
        self._deadline = now + options.retry_seconds
        self._uniform = uniform

    def pause(self, now: float, answer: Answer | None, wall_clock: float) -> float | None:
        """Return the seconds until the next attempt, after a failed one; None if there is none.

        Args:
            now: seconds of the monotonic clock.
            answer: the answer; None without one.
            wall_clock: seconds since 1970, for a Retry-After field with a date.
        """
        options = self._options
        bound = min(options.cap, options.base * 2.0 ** min(self.failed, _MAX_DOUBLINGS))
        self.failed += 1
        least = 0.0 if answer is None else retry_after_seconds(answer.retry_after, wall_clock)
        pause = min(least, options.max_retry_after) + self._uniform(0, bound)
        return None if self.failed >= options.max_attempts or now + pause > self._deadline else pause
