"""When a client connects again after a loss or a failed attempt. Time and chance are arguments.

The pause before an attempt is a random number between 0 and a bound, which doubles with each failed attempt ("full
jitter"). So clients that lost the same server come back spread over the whole time, and a server that comes up is not
brought down by all of them. The bound begins anew after a connection that has lived for `stable_after` seconds, and not
after one that was only opened: a server that accepts and drops would otherwise be asked again every second.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass, fields

from pywsapp._http_text import retry_after_seconds
from pywsapp.close_codes import ComeBack, come_back
from pywsapp.exceptions import ConfigurationError, HandshakeError

#: Refusals after which the same request can succeed later (RFC 9110 section 15.5.9, RFC 8470, RFC 6585).
_TEMPORARY = frozenset({408, 425, 429})
_MAX_DOUBLINGS = 30


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How `reconnecting` and `connect_topics` wait between two connections, and when they give up.

    Attributes:
        base: seconds. The first pause is between 0 and this, and the bound doubles with each failed attempt.
        cap: seconds that the bound never exceeds.
        max_retry_after: seconds that the loop waits at most because of a Retry-After field of the server, or that a
            client of topics waits because of a `disconnect` message.
        stable_after: seconds. After a connection that has lived so long, the pauses begin with `base` again.
        max_attempts: failed attempts in a row after which the loop ends with the exception of the last one. A
            connection that has ended before `stable_after` counts as one. None sets no limit.
        max_time: seconds without a stable connection after which the loop ends in the same way. None sets no limit.

    Raises:
        ConfigurationError: a value is out of range or of another type.
    """

    base: float = 1
    cap: float = 60
    max_retry_after: float = 300
    stable_after: float = 10
    max_attempts: int | None = None
    max_time: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            is_number = isinstance(value, int if field.name == "max_attempts" else (int, float))
            if not is_number or isinstance(value, bool) or not 0 < value < math.inf:
                kind = "whole number" if field.name == "max_attempts" else "number"
                raise ConfigurationError(f"Backoff.{field.name} must be a {kind} greater than 0, not {value!r}")
        if self.cap < self.base:
            raise ConfigurationError("Backoff.cap must not be smaller than Backoff.base")


class ReconnectRules:
    """The next step of a `reconnecting` loop after each event.

    Args:
        backoff: the pauses and limits.
        renews: whether each attempt has new credentials.
        uniform: returns a random number between two others.

    Attributes:
        is_first: whether this is the first failure since a stable connection, or since the beginning.
    """

    def __init__(self, backoff: Backoff, *, renews: bool, uniform: Callable[[float, float], float]) -> None:
        self._backoff = backoff
        self._renews = renews
        self._uniform = uniform
        self._failures = 0
        self._has_renewed = False  # credentials were refused since the last stable connection
        self._opened_at: float | None = None
        self._down_since: float | None = None
        self.is_first = True

    def opened(self, now: float) -> None:
        """Note that a connection is open."""
        self._opened_at = now

    def lost(self, code: int | None, now: float) -> float | None:
        """Return the seconds to wait after a connection has ended; None if the loop must end.

        Args:
            code: the close code; None if the body of the loop left it open.
            now: seconds of a monotonic clock.
        """
        self._count_end(now)
        wanted = ComeBack.LATER if code is None else come_back(code)
        if wanted is ComeBack.NEVER or (wanted is ComeBack.WITH_CREDENTIALS and not self._renew()):
            return None
        return self._pause(now, 0)

    def _count_end(self, now: float) -> None:
        """Count the end of a connection as a failure, unless it was stable."""
        opened_at = now if self._opened_at is None else self._opened_at
        self.is_first = self._down_since is None
        if now - opened_at >= self._backoff.stable_after:
            self.is_first, self._failures, self._has_renewed, self._down_since = True, 0, False, None
        else:
            self._failures += 1

    def failed(self, exc: Exception, now: float, wall_clock: float) -> float | None:
        """Return the seconds to wait after a failed attempt; None if the loop must end.

        Args:
            exc: the exception of the attempt: a HandshakeError or an OSError.
            now: seconds of a monotonic clock.
            wall_clock: seconds since 1970, for a Retry-After field with a date.
        """
        self.is_first = self._down_since is None
        self._failures += 1
        if isinstance(exc, ssl.SSLCertVerificationError):
            return None  # the same certificate would come again
        status = getattr(exc, "status", None)
        if status == 401:
            if not self._renew():
                return None
        elif status is not None and status < 500 and status not in _TEMPORARY:
            return None
        least = retry_after(exc, wall_clock) if isinstance(exc, HandshakeError) else 0
        return self._pause(now, min(least, self._backoff.max_retry_after))

    def _renew(self) -> bool:
        """Return whether other credentials may be tried, once."""
        if not self._renews or self._has_renewed:
            return False
        self._has_renewed = True
        return True

    def _pause(self, now: float, least: float, bound: float | None = None) -> float | None:
        """Return a pause of at least `least` seconds; None if a limit is exceeded.

        Args:
            now: seconds of a monotonic clock.
            least: seconds.
            bound: seconds of the random time on top at most; None is the bound that doubles.
        """
        backoff = self._backoff
        if self._down_since is None:
            self._down_since = now
        if backoff.max_attempts is not None and self._failures >= backoff.max_attempts:
            return None
        if bound is None:
            bound = min(backoff.cap, backoff.base * 2.0 ** min(self._failures, _MAX_DOUBLINGS))
        pause = least + self._uniform(0, bound)
        if backoff.max_time is not None and now + pause - self._down_since > backoff.max_time:
            return None
        return pause


def retry_after(exc: HandshakeError, wall_clock: float) -> float:
    """Return the seconds that a refusal asks to wait (RFC 9110 section 10.2.3); 0 without a valid field.

    Args:
        exc: the refusal.
        wall_clock: seconds since 1970.
    """
    value = "" if exc.headers is None else exc.headers.get("retry-after", "") or ""
    return retry_after_seconds(value, wall_clock)
