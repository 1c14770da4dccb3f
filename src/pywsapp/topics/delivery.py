"""Delivering messages to the subscribers of one topic in this process.

Most subscribers get what was broadcast, or what the `wrap` of a history makes of it. The clients of a protocol get each
message in a `DeliveryForm` of their own, in which it is prepared once. A topic that has such subscribers keeps all its
subscribers by their forms; any other topic has no groups, and delivers as if there were no forms.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pywsapp._log_fields import log_fields
from pywsapp._messages.objects import PreparedObject, content_of, send_object_to_all
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import Position
from pywsapp.connection import Connection, send_prepared_to_all
from pywsapp.topics.codec import Content

if TYPE_CHECKING:
    from pywsapp.topics.history.rules import HistoryRule
    from pywsapp.topics.presence.topic_presence import PresenceDiff

logger = logging.getLogger("pywsapp")

#: The connections that subscribe to a topic, in the order of subscribing; each with the position up to which its
#: recovery has sent it the topic's history, None if it has not recovered.
Subscribers = dict[Connection, Position | None]


class DeliveryForm(ABC):
    """How the clients of one protocol and codec get the messages of topics. All these clients share one object.

    A subscription can have a form of its own, for instance one that leaves messages out. Equal forms are one group.
    """

    #: The last message, with what it was made from: the same message is prepared for several groups.
    _last: tuple[str, Position | None, Content | None, PreparedMessage | None] | None = None

    @abstractmethod
    def prepare(self, name: str, position: Position | None, content: Content | None) -> PreparedMessage | None:
        """Return what the clients get of a message; None if they get nothing.

        Args:
            name: the topic's name.
            position: the position in the topic's history; None if it keeps none.
            content: the message; None if it says that the messages up to the position are lost.
        """

    @abstractmethod
    def prepare_direct(self, content: Content) -> PreparedMessage:
        """Return what a client gets of a message that was sent to its connection or its user, not on a topic."""

    @abstractmethod
    def prepare_presence(self, name: str, diff: PresenceDiff) -> PreparedMessage:
        """Return what the clients get of changes of presence in a topic."""

    def prepare_once(self, name: str, position: Position | None, content: Content | None) -> PreparedMessage | None:
        """Return what `prepare` returns, and the same object again for the same message; None if it fails."""
        last = self._last
        if last is not None and last[2] is content and last[0] == name and last[1] == position:
            return last[3]
        message = self._prepared(name, position, content)
        self._last = name, position, content, message
        return message

    def _prepared(self, name: str, position: Position | None, content: Content | None) -> PreparedMessage | None:
        """Return what `prepare` returns, None if it fails: the other subscribers and the sender are not affected."""
        try:
            return self.prepare(name, position, content)
        except Exception:
            logger.exception(
                "a message on %r has no form for some of its subscribers",
                name,
                extra=log_fields("message.no_form", topic=name),
            )
            return None

    def send_to_all(
        self,
        connections: list[Connection],
        message: PreparedMessage,
        name: str,
        content: Content | None,
        exclude: frozenset[Connection] = frozenset(),
    ) -> None:
        """Send a message to the connections of a group, some excluded.

        Args:
            connections: the connections.
            message: what they get, which `prepare` has returned.
            name: the topic's name.
            content: what the message was made from.
            exclude: those that do not get it.
        """
        send_prepared_to_all(connections, message, exclude)


class Groups:
    """The subscribers of a topic by their forms, of which one is not the usual one.

    Args:
        subscribers: the subscribers so far, which have the usual form.

    Attributes:
        by_form: the subscribers of each form; None is the usual one.
    """

    __slots__ = ("_forms", "by_form")

    def __init__(self, subscribers: Iterable[Connection]) -> None:
        self.by_form: dict[DeliveryForm | None, dict[Connection, None]] = {None: dict.fromkeys(subscribers)}
        self._forms: dict[Connection, DeliveryForm] = {}

    def add(self, conn: Connection, form: DeliveryForm | None) -> None:
        """Add a subscriber."""
        self.by_form.setdefault(form, {})[conn] = None
        if form is not None:
            self._forms[conn] = form

    def remove(self, conn: Connection) -> None:
        """Remove a subscriber."""
        form = self._forms.pop(conn, None)
        members = self.by_form[form]
        del members[conn]
        if form is not None and not members:
            del self.by_form[form]

    def form_of(self, conn: Connection) -> DeliveryForm | None:
        """Return the form of a subscriber; None for the usual one."""
        return self._forms.get(conn)

    @property
    def is_needed(self) -> bool:
        """Whether a subscriber has another form than the usual one."""
        return bool(self._forms)

    def with_positions(self, subscribers: Subscribers) -> Iterator[tuple[DeliveryForm | None, Subscribers]]:
        """Yield each form and its subscribers with their positions."""
        for form, members in list(self.by_form.items()):
            yield form, {conn: subscribers[conn] for conn in members}


#: The position of a connection whose recovery is not finished: the recovery sends to it, the topic does not.
RECOVERING = Position("recovering", 0)


def deliver(subscribers: Subscribers, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()) -> None:
    """Send a message to all subscribers except the excluded ones."""
    if type(message) is PreparedObject:
        send_object_to_all(list(subscribers), message, exclude)
    else:
        send_prepared_to_all(list(subscribers), message, exclude)


def receivers_of_kept(subscribers: Subscribers, position: Position) -> list[Connection]:
    """Return the subscribers that do not have a message of the topic's history from their recovery."""
    return [
        conn
        for conn, sent in subscribers.items()
        if sent is None or (sent is not RECOVERING and (sent.epoch != position.epoch or sent.offset < position.offset))
    ]


def form_of(conn: Connection) -> DeliveryForm | None:
    """Return the form of a connection, which its subscriptions have unless they name another; None for the usual."""
    messages = conn._messages
    return None if messages is None else messages.form


def deliver_in_forms(
    name: str, groups: Groups, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()
) -> None:
    """Send a message of a topic without a history to all subscribers in their forms, except the excluded ones."""
    content = content_of(message)
    for form, members in list(groups.by_form.items()):
        if form is None:
            deliver(dict.fromkeys(members), message, exclude)
        elif (formed := form.prepare_once(name, None, content)) is not None:
            form.send_to_all(list(members), formed, name, content, exclude)


def deliver_kept(
    name: str,
    rule: HistoryRule,
    groups: Groups | None,
    subscribers: Subscribers,
    position: Position,
    content: Content | None,
) -> None:
    """Send a message of a topic with a history to all subscribers that do not have it, each in its form.

    Args:
        name: the topic's name.
        rule: makes the usual form.
        groups: the subscribers by their forms; None if all have the usual one.
        subscribers: the subscribers.
        position: the position of the message.
        content: the message; None if it says that the messages up to the position are lost.
    """
    for form, members in [(None, subscribers)] if groups is None else groups.with_positions(subscribers):
        receivers = receivers_of_kept(members, position)
        if receivers and form is None:
            message = rule.prepare(name, position, content)
            if message is not None:
                deliver(dict.fromkeys(receivers), message)
        elif receivers and form is not None:
            message = form.prepare_once(name, position, content)
            if message is not None:
                form.send_to_all(receivers, message, name, content)


def send_direct(
    connections: list[Connection], message: PreparedMessage, exclude: frozenset[Connection] = frozenset()
) -> None:
    """Send a message that is not one of a topic to connections, some excluded, each in its form."""
    groups: dict[DeliveryForm | None, dict[Connection, None]] = {}
    for conn in connections:
        groups.setdefault(form_of(conn), {})[conn] = None
    for form, members in groups.items():
        if form is None:
            deliver(dict.fromkeys(members), message, exclude)
        else:
            send_prepared_to_all(list(members), form.prepare_direct(content_of(message)), exclude)
