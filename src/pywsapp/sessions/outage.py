"""The log lines about the failures of a session store: the first one, reminders, and the end of the outage."""

from __future__ import annotations

import logging
import math
import time

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: Seconds of an outage after which the log repeats it; it has lasted twice as long each further time.
FIRST_REMINDER_SECONDS = 30.0
#: The log repeats an outage once a day at least.
LONGEST_REMINDER_SECONDS = 86_400.0
_MAX_REASON = 200


class OutageLog:
    """Counts the failures of one store, and writes some of them to the log.

    Attributes:
        failed: failures since the store last worked.
        calls: how often the store worked, since the start of the process.
        failures: how often it failed.
        unreadable: sessions that the store has and that cannot be read.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.calls = self.failures = self.unreadable = 0
        self._is_logged = False  # whether the log has a line about the present failures
        self._since = 0.0  # seconds of the monotonic clock, like the next two
        self._next_reminder = 0.0
        self._silent_until = -math.inf  # a store that fails now and then has one line in this time

    def note_failed(self, name: str, exc: Exception, token: str | None, now: float | None = None) -> None:
        """Note that the store failed.

        Args:
            name: the name of the store.
            exc: what it raised.
            token: the token of the session, which the log must not contain.
            now: seconds of the monotonic clock; None reads it.
        """
        now = time.monotonic() if now is None else now
        self.failed += 1
        self.failures += 1
        if self.failed == 1:
            self._since = now
            self._is_logged = now >= self._silent_until
            self._next_reminder = self._silent_until
            if self._is_logged:
                self._silent_until = self._next_reminder = now + FIRST_REMINDER_SECONDS
                logger.error(
                    "%s is unavailable (%s); handshakes are answered with 503",
                    name,
                    _reason(exc, token),
                    extra=log_fields("session.store_unavailable", store=name, error=_reason(exc, token)),
                )
        elif now >= self._next_reminder:
            seconds = now - self._since
            self._is_logged = True
            self._silent_until = now + FIRST_REMINDER_SECONDS
            self._next_reminder = now + min(max(seconds, FIRST_REMINDER_SECONDS), LONGEST_REMINDER_SECONDS)
            logger.error(
                "%s has been unavailable for %.0f seconds (%s); it failed %d times",
                name,
                seconds,
                _reason(exc, token),
                self.failed,
                extra=log_fields(
                    "session.store_still_unavailable",
                    store=name,
                    error=_reason(exc, token),
                    duration_seconds=seconds,
                    count=self.failed,
                ),
            )

    def note_works(self, name: str) -> None:
        """Note that the store worked."""
        self.calls += 1
        if self.failed:
            if self._is_logged:
                logger.warning(
                    "%s is available again, after %d failures",
                    name,
                    self.failed,
                    extra=log_fields("session.store_available", store=name, count=self.failed),
                )
            self.failed = 0

    def note_unreadable(self, name: str, exc: Exception, token: str) -> None:
        """Note a session that the store has and that cannot be read; the log has the first, second, fourth, eighth."""
        self.unreadable += 1
        if self.unreadable & (self.unreadable - 1) == 0:
            reason = _reason(exc, token, with_type=False)
            logger.warning(
                "a session of %s counts as empty: %s (%d so far)",
                name,
                reason,
                self.unreadable,
                extra=log_fields("session.unreadable", store=name, error=reason, count=self.unreadable),
            )


def _reason(exc: Exception, token: str | None, *, with_type: bool = True) -> str:
    text = str(exc)
    if token:
        text = text.replace(token, "(token)")
    text = one_line(text)[:_MAX_REASON]
    if not with_type:
        return text
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
