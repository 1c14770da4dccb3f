"""The protocol of an event stream: server-sent events in place of WebSocket frames (WHATWG HTML, section 9.2).

An `EventStream` stands in for a `WebSocket`: it encodes what is sent as events, and its peer sends nothing. Its end is
the end of the connection, because an event stream has no close handshake.

    a message                     data: hello
    one with several lines        data: hello
                                  data: world
    one of a topic with history   id: 17-5f3c9a01
                                  data: hello
    bytes                         event: binary
                                  data: aGVsbG8=
    messages that are lost        id: 40-5f3c9a01
                                  event: lost
                                  data: {"topic":"room:1","position":"40-5f3c9a01"}
    keepalive                     :
    the begin and the end         retry: 2718

A browser stores the id, and sends it as the field Last-Event-ID when it connects again. It waits before that as long as
`retry` says, in milliseconds. The number is random around the configured one, so that clients of a server that has
ended do not come back all at once. The lines of a text end at any of the three line ends, and a browser joins them by
line feeds.
"""

from __future__ import annotations

import json
import random
from base64 import b64encode
from typing import TYPE_CHECKING

from pywsapp._protocol.events import Ended, Received
from pywsapp._protocol.events import State as _State
from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import PreparedMessage, Sendable, payload_of
from pywsapp._protocol.websocket import WebSocket
from pywsapp.close_codes import CloseCode

if TYPE_CHECKING:
    from pywsapp.options import Options

#: A comment, which clients ignore.
KEEPALIVE = b":\n\n"
#: The name of the event that says that messages are lost, and of events with bytes.
LOST, BINARY = "lost", "binary"
#: Bytes that a client may send after its request; it has no reason to send any.
MAX_INPUT = 64 * 1024
#: The shares of the configured time that a client waits before it connects again.
_SHARES = 0.5, 1.5


class EventFormat:
    """The wire format of the streams of one route.

    Args:
        event: the name of the events with text; None for the default of browsers, `message`.
    """

    __slots__ = ("_name",)

    def __init__(self, event: str | None = None) -> None:
        self._name = b"" if event is None else f"event: {event}\n".encode()

    def encode(self, message: PreparedMessage) -> bytes:
        """Return the event of a message that is prepared for many connections."""
        publication = message.publication
        if publication is None:
            return self.event(message.opcode, message.payload)
        position: str = publication.position
        if publication.message is None:
            data = json.dumps({"topic": publication.topic, "position": position}, separators=(",", ":"))
            return f"id: {position}\nevent: {LOST}\ndata: {data}\n\n".encode()
        return f"id: {position}\n".encode() + self.event(*payload_of(publication.message))

    def event(self, opcode: int, payload: bytes) -> bytes:
        """Return the event of a message without a position.

        Args:
            opcode: the opcode of the message.
            payload: its payload.
        """
        if opcode != TEXT:
            return b"event: %b\ndata: %b\n\n" % (BINARY.encode(), b64encode(payload))
        if b"\r" in payload:
            payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return b"%bdata: %b\n\n" % (self._name, payload.replace(b"\n", b"\ndata: "))


def id_only(position: str) -> bytes:
    """Return what makes a browser store a position without an event."""
    return f"id: {position}\n\n".encode()


class EventStream(WebSocket):
    """The protocol of one event stream.

    Args:
        wire_format: encodes the messages.
        options: the limits; without compression.
        retry: seconds after which a client connects again, on average.
    """

    __slots__ = ("_format", "_received", "_retry")

    def __init__(self, wire_format: EventFormat, options: Options, retry: float) -> None:
        super().__init__(client=False, options=options)
        self._format = wire_format
        self._retry = retry
        self._received = 0  # bytes

    def retry_line(self) -> bytes:
        """Return what makes a browser wait for a random time before it connects again."""
        return b"retry: %d\n\n" % max(1, round(1000 * self._retry * random.uniform(*_SHARES)))

    # -- as a WebSocket ----------------------------------------------------------------------------------------------

    def encode(self, message: Sendable | PreparedMessage, compress: bool | None = None) -> bytes:
        """Return the event of a message; an event stream is never compressed.

        Raises:
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the text has no UTF-8 form.
        """
        if isinstance(message, PreparedMessage):
            return self.encode_prepared(message)
        return self._format.event(*payload_of(message))

    def encode_prepared(self, message: PreparedMessage) -> bytes:
        """Return the event of a message prepared for several connections."""
        return message._frame_in(self._format)

    def encode_large(self, message: bytes, compress: bool | None = None) -> bytes:
        """Return the event of a large binary message."""
        return self.encode(message)

    def receive(self, data: bytes, inflate: int = 0, messages: int = 0) -> list[Received]:
        """Drop what the client sends; end the stream if that is more than `MAX_INPUT` bytes."""
        self._received += len(data)
        if self._received <= MAX_INPUT or self.state is _State.CLOSED:
            return []
        self._enter_closed()
        return [Ended(CloseCode.MESSAGE_TOO_BIG, "the client of an event stream sends data", False, b"")]

    def close(self, code: int, reason: str) -> bytes:
        """End the stream; return its last bytes, b"" if it has ended before."""
        if self.state is _State.CLOSED:
            return b""
        self._enter_closed()
        return self.retry_line()

    def tick(self, now: float, *, paused: bool = False) -> Ended | None:
        """Return None: nothing is expected from the client."""
        return None

    def ping(self, payload: bytes) -> bytes:
        """Return a comment."""
        return KEEPALIVE
