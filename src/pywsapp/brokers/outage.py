"""The log lines about the outages of a broker: when one begins, while it lasts, and when it is over."""

from __future__ import annotations

import logging

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp.brokers.base import Broker

logger = logging.getLogger("pywsapp")

#: Seconds of an outage after which the log repeats it; it has lasted twice as long each further time.
FIRST_REMINDER_SECONDS = 30.0
#: The log repeats an outage once a day at least.
LONGEST_REMINDER_SECONDS = 86_400.0


class OutageLog:
    """Writes to the log when a broker becomes unavailable, while it is, and when it is available again.

    Args:
        broker: the broker.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._since: float | None = None  # while the broker is unavailable, in seconds of the loop's clock
        self._failed_before = 0
        self._next_reminder = 0.0

    def note_lost(self, reason: str, failed: int, now: float) -> None:
        """Note that the connection is lost, or that an attempt to connect has failed.

        Args:
            reason: for the log.
            failed: the messages that were not published since the start of the process.
            now: seconds of the loop's clock.
        """
        name, reason = self._broker.name, one_line(reason)
        if self._since is None:
            self._since, self._failed_before = now, failed
            self._next_reminder = now + FIRST_REMINDER_SECONDS
            logger.error(
                "%s is unavailable (%s); local delivery goes on, trying again",
                name,
                reason,
                extra=log_fields("broker.unavailable", broker=name, error=reason),
            )
        elif now >= self._next_reminder:
            seconds = now - self._since
            self._next_reminder = now + min(seconds, LONGEST_REMINDER_SECONDS)
            logger.error(
                "%s has been unavailable for %.0f seconds (%s); %d messages were not published, trying again",
                name,
                seconds,
                reason,
                failed - self._failed_before,
                extra=log_fields(
                    "broker.still_unavailable",
                    broker=name,
                    error=reason,
                    duration_seconds=seconds,
                    count=failed - self._failed_before,
                ),
            )

    def note_connected(self, failed: int, now: float) -> None:
        """Note a connection, when all wanted topics are subscribed; the arguments are those of `note_lost`."""
        if self._since is None:
            level = logging.DEBUG if self._broker.is_internal else logging.INFO
            logger.log(
                level,
                "connected to %s",
                self._broker.name,
                extra=log_fields("broker.connected", broker=self._broker.name),
            )
            return
        logger.warning(
            "connected to %s again; this process received nothing for at least %.1f seconds, "
            "and %d messages were not published",
            self._broker.name,
            now - self._since,
            failed - self._failed_before,
            extra=log_fields(
                "broker.reconnected",
                broker=self._broker.name,
                duration_seconds=now - self._since,
                count=failed - self._failed_before,
            ),
        )
        self._since = None
