"""The traffic of the connections of one route, in numbers: their messages and bytes, their handshakes and ends."""

from __future__ import annotations

from typing import Any

from pywsapp.close_codes import CloseCode

#: The close codes that are counted by themselves. Clients can send any other, so those are counted together.
_CLOSE_CODES = {int(code): str(int(code)) for code in CloseCode}
OTHER = "other"


class Traffic:
    """Counts what all connections of one route have done, those that have ended included.

    Each message adds to these numbers, so they are plain integers, in C in the compiled build.

    Args:
        measures: measures the connections; None if nothing is measured.

    Attributes:
        messages_received: messages that have arrived.
        bytes_received: bytes that have arrived after the handshakes, in frames of all kinds.
        messages_sent: messages that were queued to be sent.
        bytes_sent: the bytes of their frames.
        messages_dropped: messages of slow clients that were dropped; those among `messages_sent` too.
        handshakes: accepted handshakes and event streams.
        closed: ended connections by their close code, which is "other" for codes that are not registered.
        measures: the argument.
    """

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "closed",
        "handshakes",
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
        self.handshakes = 0
        self.closed: dict[str, int] = {}
        self.measures = measures

    @property
    def open_connections(self) -> int:
        """The connections now."""
        return self.handshakes - sum(self.closed.values())

    def ended(self, code: int | None) -> None:
        """Count the end of a connection with a close code."""
        name = OTHER if code is None else _CLOSE_CODES.get(code, OTHER)
        self.closed[name] = self.closed.get(name, 0) + 1


#: The traffic of connections that belong to no route: those of clients, and of ASGI applications.
OTHER_TRAFFIC = Traffic()
