"""Delivering messages to the subscribers of one topic in this process.

Most subscribers get what was broadcast, or what the `wrap` of a history makes of it. The clients of a protocol get each
message in a `DeliveryForm` of their own, in which it is prepared once. A topic that has such subscribers keeps all its
subscribers by their forms; any other topic has no groups, and delivers as if there were no forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pywsapp._messages.objects import PreparedObject, content_of, send_object_to_all
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import Position
from pywsapp.connection import Connection, send_prepared_to_all
from pywsapp.topics.codec import Content

if TYPE_CHECKING:
    from pywsapp.topics.presence.view import PresenceDiff

#: The connections that subscribe to a topic, in the order of subscribing; each with the position up to which its
#: recovery has sent it the topic's history, None if it has not recovered.
Subscribers = dict[Connection, Position | None]


class DeliveryForm(ABC):
    """How the clients of one protocol and codec get the messages of topics. All these clients share one object."""

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


#: The subscribers of a topic by their forms; None has those without one.
Groups = dict[DeliveryForm | None, dict[Connection, None]]

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
    """Return the form of a connection; None for the usual one."""
    messages = conn._messages
    return None if messages is None else messages.form


def grouped(groups: Groups, subscribers: Subscribers, conn: Connection, form: DeliveryForm | None) -> Groups:
    """Return the groups of a topic's subscribers with one more connection; the groups are empty before the first form.

    Args:
        groups: the groups before; changed if there are any.
        subscribers: all subscribers, with the new one.
        conn: the new subscriber.
        form: its form.
    """
    if not groups:
        if form is None:
            return groups
        return {None: {one: None for one in subscribers if one is not conn}, form: {conn: None}}
    groups.setdefault(form, {})[conn] = None
    return groups


def ungrouped(groups: Groups, conn: Connection) -> Groups:
    """Return the groups of a topic's subscribers without a connection; empty if none of them has a form."""
    form = form_of(conn)
    del groups[form][conn]
    if form is None or groups[form]:
        return groups
    del groups[form]
    return groups if len(groups) > 1 else {}


def deliver_in_forms(
    name: str, groups: Groups, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()
) -> None:
    """Send a message of a topic without a history to all subscribers in their forms, except the excluded ones."""
    for form, members in list(groups.items()):
        if form is None:
            deliver(dict.fromkeys(members), message, exclude)
        elif (formed := form.prepare(name, None, content_of(message))) is not None:
            send_prepared_to_all(list(members), formed, exclude)


def in_groups(groups: Groups, subscribers: Subscribers) -> Mapping[DeliveryForm | None, Subscribers]:
    """Return the subscribers of each form with their positions."""
    if not groups:
        return {None: subscribers}
    return {form: {conn: subscribers[conn] for conn in members} for form, members in groups.items()}


def send_direct(
    connections: list[Connection], message: PreparedMessage, exclude: frozenset[Connection] = frozenset()
) -> None:
    """Send a message that is not one of a topic to connections, some excluded, each in its form."""
    groups: Groups = {}
    for conn in connections:
        groups.setdefault(form_of(conn), {})[conn] = None
    for form, members in groups.items():
        if form is None:
            deliver(dict.fromkeys(members), message, exclude)
        else:
            send_prepared_to_all(list(members), form.prepare_direct(content_of(message)), exclude)
