"""The changes, a topic or a user that comes or goes, and the events by which processes share the reported ones.

A program that can write to the broker can send any event. So an event is applied only if a process could have sent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Literal, NamedTuple

from pywsapp.brokers.envelope import EnvelopeError
from pywsapp.topics.names import RESERVED
from pywsapp.topics.presence.events import PART, is_key

#: The reserved topic of the events of this module.
REPORTED_TOPIC = f"{RESERVED}reported"
#: The reserved topic whose presence is the processes that can report.
REPORTERS_TOPIC = f"{RESERVED}reporters"

EventType = Literal["topic_occupied", "topic_vacated", "user_online", "user_offline"]
EVENT_TYPES: tuple[EventType, ...] = ("topic_occupied", "topic_vacated", "user_online", "user_offline")
Event = dict[str, Any]


class Kind(Enum):
    """The kind of a subject; its value is the name in events, and the end of the reserved topic with its presence."""

    TOPIC = "topic"
    USER = "user"

    @property
    def presence_topic(self) -> str:
        """The reserved topic whose presence is the subjects of this kind."""
        return f"{RESERVED}present:{self.value}"


class Subject(NamedTuple):
    """A topic that can have subscribers, or a user who can have connections.

    Args:
        kind: which of the two.
        name: the name of the topic, or the key of the user.
    """

    kind: Kind
    name: str


class Change(NamedTuple):
    """A change to be reported.

    Args:
        subject: the topic or the user.
        is_present: whether there are subscribers or connections now.
    """

    subject: Subject
    is_present: bool

    @property
    def type(self) -> EventType:
        """The name of the change for programs."""
        if self.subject.kind is Kind.TOPIC:
            return "topic_occupied" if self.is_present else "topic_vacated"
        return "user_online" if self.is_present else "user_offline"


def events_of(changes: Iterable[Change]) -> Iterable[Event]:
    """Return the events that tell other processes what was reported, in parts."""
    iterator = iter(changes)
    while part := list(islice(iterator, PART)):
        yield {"reported": [[change.subject.kind.value, change.subject.name, change.is_present] for change in part]}


def parse_event(event: Event) -> Sequence[Change]:
    """Parse an event.

    Raises:
        EnvelopeError: the event is not one that processes send.
    """
    found = event.get("reported")
    if not isinstance(found, list) or len(found) > PART:
        raise EnvelopeError("its event is not one that processes send about reports")
    return [_parse(one) for one in found]


def _parse(one: Any) -> Change:
    if not isinstance(one, list) or len(one) != 3 or type(one[2]) is not bool or not is_key(one[1]):
        raise EnvelopeError("its event has an invalid report")
    try:
        return Change(Subject(Kind(one[0]), one[1]), one[2])
    except ValueError:
        raise EnvelopeError("its event has a report about something unknown") from None
