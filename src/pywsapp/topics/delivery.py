"""Delivering messages to the subscribers of one topic in this process."""

from __future__ import annotations

from pywsapp._messages.objects import PreparedObject, send_object_to_all
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import Position
from pywsapp.connection import Connection, send_prepared_to_all

#: The connections that subscribe to a topic, in the order of subscribing; each with the position up to which its
#: recovery has sent it the topic's history, None if it has not recovered.
Subscribers = dict[Connection, Position | None]

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
