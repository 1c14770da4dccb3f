"""The wsproto path: the input that wsproto reads for `WebSocket`, and the events it finds.

wsproto's `Connection` handles fragments, the close handshake and malformed input. A `WsprotoPath` is created when it is
needed, and dropped as soon as no message and no close handshake is unfinished, so that it costs idle connections
nothing. `FrameLimits` is its extension for the limits and the bounded permessage-deflate that wsproto lacks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from pywsapp._protocol.events import PongReceived
from pywsapp._protocol.limits import FrameLimits
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import PerMessageDeflate
    from pywsapp.options import Options

INVALID_UTF8 = "invalid UTF-8"


class PingReceived(NamedTuple):
    """The peer sent a ping."""

    payload: bytes


class CloseReceived(NamedTuple):
    """The peer sent a close frame.

    Attributes:
        code: the peer's close code, 1005 if its frame had none.
        reason: the peer's close reason.
        reply: our close frame, for the case that it was not sent before.
    """

    code: int
    reason: str
    reply: bytes


WsprotoEvent = str | bytes | PingReceived | PongReceived | CloseReceived


class WsprotoPath:
    """A wsproto connection for one message or close handshake that the fast path does not read.

    Attributes:
        message_size: bytes of the last message.

    Args:
        options: the limits.
        deflate: inflates compressed messages; None if permessage-deflate was not negotiated.
        client: True for the client role.
    """

    __slots__ = ("_connection", "_limits", "_parts", "message_size")

    def __init__(self, options: Options, deflate: PerMessageDeflate | None, *, client: bool) -> None:
        self._limits = FrameLimits(options, deflate)
        self._connection = Connection(_role(client), extensions=[self._limits])
        self._parts: io.BytesIO | None = None
        self.message_size = 0

    def receive(self, data: bytes) -> Iterator[WsprotoEvent]:
        """Pass bytes to wsproto, and iterate over the events they cause; messages are complete.

        Raises:
            ProtocolError: the peer violated the protocol or a limit.
            UnicodeDecodeError: the text of a message is not UTF-8.
        """
        self._connection.receive_data(data)
        for event in self._connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._collect(event)
                if message is not None:
                    yield message
            else:
                yield self._translated(event)

    def _translated(self, event: Event) -> WsprotoEvent:
        if isinstance(event, Ping):
            return PingReceived(bytes(event.payload))
        if isinstance(event, Pong):
            return PongReceived(bytes(event.payload))
        assert isinstance(event, CloseConnection)
        state, limits = self._connection.state, self._limits
        if state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            # wsproto reports its own parse errors like close frames of the peer; only the state distinguishes them.
            reason = INVALID_UTF8 if event.code == CloseCode.INVALID_PAYLOAD else event.reason or "protocol error"
            raise ProtocolError(int(event.code), limits.reason or reason)
        code = CloseCode.BAD_GATEWAY if limits.bad_gateway else int(event.code)
        reply = b""
        if state is ConnectionState.REMOTE_CLOSING:
            answer = CloseConnection(code=code if limits.bad_gateway else event.code)
            reply = bytes(self._connection.send(answer))
        return CloseReceived(code, event.reason or "", reply)

    def _collect(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        if self._parts is not None or not event.message_finished:
            if self._parts is None:
                self._parts = io.BytesIO()
            self._parts.write(data)
            if not event.message_finished:
                return None
            data = self._parts.getvalue()
            self._parts = None
        self.message_size = len(data)
        return data.decode() if isinstance(event.data, str) else data


def failure_frame(code: int, reason: str, *, client: bool) -> bytes:
    """Return the close frame for a failed connection.

    A new wsproto connection encodes it, because one that is in use may be unusable after the failure.
    """
    return bytes(Connection(_role(client)).send(CloseConnection(code=code, reason=reason)))


def _role(client: bool) -> ConnectionType:
    return ConnectionType.CLIENT if client else ConnectionType.SERVER
