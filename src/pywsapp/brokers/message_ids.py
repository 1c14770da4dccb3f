"""Ids of messages: a message that is published again under the same id is delivered once.

When a connection breaks while a message is on its way, its publisher cannot know whether the message has arrived. It
publishes the message again, under the same id. A history keeps a message with an id once. Each other message with an id
carries it in its envelope, and every process drops those that it has delivered already.
"""

from __future__ import annotations

import re

from pywsapp.brokers.base import Keep
from pywsapp.exceptions import ConfigurationError

#: Ids that a process remembers.
MAX_RECENT = 20_000
_ID = re.compile(r"[0-9A-Za-z._:-]{1,64}")


def is_message_id(value: object) -> bool:
    """Return whether a value can be the id of a message."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def check_message_id(value: str) -> str:
    """Return an id of a message.

    Raises:
        ConfigurationError: it is invalid.
    """
    if not is_message_id(value):
        raise ConfigurationError(
            f"{value!r:.80} cannot be the id of a message: use 1 to 64 letters, digits, and the signs . : - _"
        )
    return value


def with_message_id(keep: Keep, message_id: str | None) -> Keep:
    """Return how a history keeps a message that has an id of its own, see `Keep`; the same if it has none."""
    return keep if message_id is None else keep._replace(id=(message_id, 0))


class RecentIds:
    """The latest ids of messages with which something has happened in a process. The topic registry creates it."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], None] = {}

    def has(self, topic: str, message_id: str) -> bool:
        """Return whether an id is remembered."""
        return (topic, message_id) in self._ids

    def add(self, topic: str, message_id: str) -> bool:
        """Remember an id, and return whether it is new; the oldest one is dropped when there are too many."""
        key = topic, message_id
        if key in self._ids:
            return False
        self._ids[key] = None
        if len(self._ids) > MAX_RECENT:
            del self._ids[next(iter(self._ids))]
        return True
