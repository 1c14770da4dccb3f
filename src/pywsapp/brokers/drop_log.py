"""The log lines about messages that a relay does not publish."""

from __future__ import annotations

import logging

from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp.brokers.base import Broker

logger = logging.getLogger("pywsapp")


class DropLog:
    """Counts the messages that a relay does not publish, and logs them at 1, 2, 4, 8, ...

    Args:
        broker: the broker of the relay.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._too_many = self._refusals = 0
        self._has_warned = False

    def note_too_many(self) -> None:
        """Note a message that is dropped because too many others wait."""
        self._too_many += 1
        if self._too_many & (self._too_many - 1) == 0:
            logger.warning(
                "%s is too slow: dropped %d messages so far",
                self._broker.name,
                self._too_many,
                extra=log_fields("broker.messages_dropped", broker=self._broker.name, count=self._too_many),
            )

    def note_ended(self, topic: str) -> None:
        """Note a message that comes after the end of the app's connection, such as that of a shutdown hook."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "a message on %r does not leave this process, because its connection to %s has ended",
                topic,
                self._broker.name,
                extra=log_fields("broker.not_published", broker=self._broker.name, topic=topic),
            )

    def note_refusal(self, what: str, topic: str, reason: str) -> None:
        """Note that the broker refused a message or a subscription."""
        self._refusals += 1
        if self._refusals & (self._refusals - 1) == 0:
            logger.error(
                "%s refused %s on %r: %s (%d refused so far)",
                self._broker.name,
                what,
                topic,
                one_line(reason),
                self._refusals,
                extra=log_fields(
                    "broker.refused", broker=self._broker.name, topic=topic, reason=reason, count=self._refusals
                ),
            )

    def note_unpublished(self, count: int, reason: str) -> None:
        """Note the messages that were still queued when the relay ended."""
        if count:
            logger.warning(
                "%d messages were not published to %s, because %s",
                count,
                self._broker.name,
                reason,
                extra=log_fields("broker.not_published", broker=self._broker.name, reason=reason, count=count),
            )
