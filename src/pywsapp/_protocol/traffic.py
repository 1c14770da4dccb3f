"""The numbers of messages and bytes that the connections of one route have sent and received."""

from __future__ import annotations

from typing import Any


class Traffic:
    """Counts the messages of all connections of one route, those that have ended included.

    Each message adds to these numbers, so they are plain integers, in C in the compiled build.

    Attributes:
        messages_received: messages that have arrived.
        bytes_received: bytes that have arrived after the handshakes, in frames of all kinds.
        messages_sent: messages that were queued to be sent.
        bytes_sent: the bytes of their frames.
        messages_dropped: messages of slow clients that were dropped; those among `messages_sent` too.
        measures: measures the connections; None if nothing is measured.
    """

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "measures",
        "messages_dropped",
        "messages_received",
        "messages_sent",
    )

    def __init__(self, measures: Any = None) -> None:
        self.messages_received = 0
        self.bytes_received = 0
        self.messages_sent = 0
        self.bytes_sent = 0
        self.messages_dropped = 0
        self.measures = measures


#: The traffic of connections that belong to no route: those of clients, and of ASGI applications.
OTHER_TRAFFIC = Traffic()
