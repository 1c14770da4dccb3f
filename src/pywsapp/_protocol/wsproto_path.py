"""The wsproto path: the input that wsproto reads for `WebSocket`, and the events it finds.

wsproto's `Connection` handles unusual close frames, control frames that arrive in parts, and malformed input. A
`WsprotoPath` is created for one frame and dropped after it, so that it costs idle connections nothing. `FrameLimits` is
its extension for what wsproto lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Event, Message, Ping, Pong

from pywsapp._protocol.events import PongReceived
from pywsapp._protocol.limits import FrameLimits
from pywsapp._protocol.opcodes import BINARY
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp.options import Options

INVALID_UTF8 = "invalid UTF-8"

# The beginning of a fragmented message, without payload.
_FIRST_FRAGMENT = bytes((BINARY, 0))
_MASKED_FIRST_FRAGMENT = bytes((BINARY, 0x80, 0, 0, 0, 0))


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


WsprotoEvent = PingReceived | PongReceived | CloseReceived


class WsprotoPath:
    """A wsproto connection for one frame that the fast path does not read: a control frame, or a malformed frame.

    Args:
        options: the limits.
        client: True for the client role.
        has_deflate: whether permessage-deflate was negotiated.
        is_fragmented: whether the frame comes inside a fragmented message.

    Attributes:
        answers_pings: whether a ping is an event.
    """

    __slots__ = ("_connection", "_limits", "answers_pings")

    def __init__(self, options: Options, *, client: bool, has_deflate: bool, is_fragmented: bool) -> None:
        self.answers_pings = True
        self._limits = FrameLimits(options.max_message_size, has_deflate)
        self._connection = Connection(_role(client), extensions=[self._limits])
        if is_fragmented:
            self._connection.receive_data(_FIRST_FRAGMENT if client else _MASKED_FIRST_FRAGMENT)

    def receive(self, data: bytes) -> Iterator[WsprotoEvent]:
        """Pass bytes of the frame to wsproto, and iterate over the events they cause.

        Raises:
            ProtocolError: the peer violated the protocol or a limit.
        """
        self._connection.receive_data(data)
        for event in self._connection.events():
            # A Message is a part of a frame of 2 ** 62 bytes, which never ends.
            if not isinstance(event, Message) and (self.answers_pings or not isinstance(event, Ping)):
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
        # This side sends nothing else through wsproto, so its state is REMOTE_CLOSING here.
        reply = bytes(self._connection.send(CloseConnection(code=code if limits.bad_gateway else event.code)))
        return CloseReceived(code, event.reason or "", reply)


def failure_frame(code: int, reason: str, *, client: bool) -> bytes:
    """Return the close frame for a failed connection.

    A new wsproto connection encodes it, because one that is in use may be unusable after the failure.
    """
    return bytes(Connection(_role(client)).send(CloseConnection(code=code, reason=reason)))


def _role(client: bool) -> ConnectionType:
    return ConnectionType.CLIENT if client else ConnectionType.SERVER
