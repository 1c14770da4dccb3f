"""The protocol of a fallback connection: events down, batches of messages up, in place of a WebSocket.

Networks that block WebSockets let plain HTTP pass. So the client sends a GET request whose response is an event stream
with the messages of the server, and POST requests with its own messages:

    GET /live                                               POST /live
    Accept: text/event-stream;protocol=pywsapp.topics.v1    Pywsapp-Stream: <the id of the stream>
                                                            Content-Type: application/json
    event: open
    data: {"stream":"<the id of the stream>"}               {"number":1,"messages":["<text>",{"base64":"<bytes>"}]}

    data: <text>

    event: binary
    data: <bytes in base64>

    event: close
    data: {"code":1012,"reason":"..."}

A `FallbackStream` stands in for a `WebSocket`. `put` stores the messages of a batch, and `receive` returns them as if
they had just come, no more of them in one call than the caller has room for. So the lifecycle above reads a batch in
the same turns, with the same limits and the same queue, as it reads the frames of a WebSocket.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING

from pywsapp._protocol.event_stream import KEEPALIVE, EventFormat, EventStream
from pywsapp._protocol.events import Ended, Received
from pywsapp._protocol.events import State as _State
from pywsapp.close_codes import CloseCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pywsapp._protocol.prepared import PreparedMessage
    from pywsapp.options import Options

#: The header field of a POST request with the id of the stream.
STREAM_FIELD = "Pywsapp-Stream"
#: The names of the first event and of the last one.
OPEN, CLOSE = "open", "close"
#: Proxies that collect the first bytes of a response pass it on behind so many.
_PADDING = b":" + b" " * 2048 + b"\n"


class _PlainFormat(EventFormat):
    """The wire format of fallback connections: a message is an event, without its position."""

    __slots__ = ()

    def encode(self, message: PreparedMessage) -> bytes:
        """Return the event of a message that is prepared for many connections."""
        return self.event(message.opcode, message.payload)


#: All connections share one format, so that a message for many of them is encoded once.
_FORMAT = _PlainFormat()


class FallbackStream(EventStream):
    """The protocol of one fallback connection.

    Args:
        options: the limits; without pings and compression.
    """

    __slots__ = ("_end", "_limits", "_unread")

    def __init__(self, options: Options) -> None:
        super().__init__(_FORMAT, options, 1)
        self._limits = options
        self._unread: deque[str | bytes] = deque()
        self._end: int | None = None  # the close code of the client, which comes after the unread messages

    def first_event(self, stream: str) -> bytes:
        """Return the first bytes of the stream.

        Args:
            stream: its id.
        """
        return _PADDING + _event(OPEN, {"stream": stream})

    @property
    def has_unread(self) -> bool:
        """Whether messages of the last batch wait, or the stream is to end behind them."""
        return bool(self._unread) or self._end is not None

    def put(self, messages: Sequence[str | bytes], end: int | None = None) -> None:
        """Store the messages of a batch, which the next calls of `receive` return.

        Args:
            messages: the messages.
            end: the close code, if the client closes behind them.
        """
        self._unread.extend(messages)
        self._end = end

    # -- as a WebSocket ----------------------------------------------------------------------------------------------

    def use_limits(self, options: Options) -> None:
        """Use other limits for received messages from now on."""
        super().use_limits(options)
        self._limits = options

    def receive(self, data: bytes, inflate: int = 0, messages: int = 0) -> list[Received]:
        """Return messages of the last batch; drop what comes behind the GET request, as `EventStream.receive` does.

        Args:
            data: bytes behind the GET request; empty to read the batch.
            inflate: bytes that this call may return. The last message may exceed it.
            messages: messages that this call may return.
        """
        if data:
            ended = EventStream.receive(self, data, inflate, messages)  # compiled methods have no `super`
            if ended:
                return ended
        events: list[Received] = []
        unread = self._unread
        while unread and messages > 0 and inflate > 0 and self.state is _State.OPEN:
            message = unread.popleft()
            size = len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
            if size > self._limits.max_message_size:
                events.append(self._failed_message())
                return events
            events.append(message)
            self.traffic.bytes_received += size  # as the payload of a frame, without what is around it
            messages -= 1
            inflate -= size
        if not unread and self._end is not None and self.state is _State.OPEN:
            code, self._end = self._end, None
            self._enter_closed()
            events.append(Ended(code, "", True, b""))
        self.has_more = bool(unread)
        return events

    def _failed_message(self) -> Ended:
        code, reason = CloseCode.MESSAGE_TOO_BIG, f"the message is larger than {self._limits.max_message_size} bytes"
        return Ended(code, reason, False, self.close(code, reason))

    def close(self, code: int, reason: str) -> bytes:
        """End the stream; return its last event, b"" if it has ended before."""
        if self.state is _State.CLOSED:
            return b""
        self._unread.clear()
        self._end = None
        self._enter_closed()
        return _event(CLOSE, {"code": int(code), "reason": reason})

    def abandon(self) -> None:
        """Enter the state CLOSED, because the transport is lost."""
        self._unread.clear()
        self._end = None
        super().abandon()

    def ping(self, payload: bytes) -> bytes:
        """Return a comment."""
        return KEEPALIVE


def _event(name: str, fields: dict[str, str | int]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(fields, separators=(',', ':'))}\n\n".encode()
