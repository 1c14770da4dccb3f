"""The connections of this process that subscribe to one topic: what the registry delivers to."""

from __future__ import annotations

from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import Position
from pywsapp.connection import Connection, send_prepared_to_all

#: Stands for the position of a connection that is still recovering: the recovery sends to it, the topic does not.
RECOVERING = Position("recovering", 0)


class Subscribers:
    """The subscribers of one topic in this process. The topic creates it.

    Attributes:
        positions: the connections in the order of subscribing; each with the position up to which its recovery has sent
            the topic's history, None if it has not recovered.
    """

    __slots__ = ("positions",)

    def __init__(self) -> None:
        self.positions: dict[Connection, Position | None] = {}

    def deliver(self, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()) -> None:
        """Send a message to all subscribers except the excluded ones."""
        send_prepared_to_all(list(self.positions), message, exclude)

    def deliver_kept(self, message: PreparedMessage, position: Position) -> None:
        """Send a message of the topic's history to the subscribers that do not have it from their recovery."""
        for conn, sent in list(self.positions.items()):
            if sent is None or (
                sent is not RECOVERING and (sent.epoch != position.epoch or sent.offset < position.offset)
            ):
                conn._outbox.send_prepared(message)

    def is_recovering(self, conn: Connection) -> bool:
        """Return whether a connection subscribes and its recovery is not finished."""
        return self.positions.get(conn) is RECOVERING
