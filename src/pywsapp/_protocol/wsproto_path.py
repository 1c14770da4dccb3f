"""The slow lane: what wsproto is asked about, and its answers in our words.

wsproto's `Connection` judges fragments, the closing handshake and whatever is malformed. One is made when it is needed
and dropped as soon as no message and no closing handshake is under way, so that idle connections do not pay for it.
`FrameLimits` hangs in it as an extension and adds the limits and the bounded permessage-deflate that it lacks.
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
        code: its code, 1005 if it had none.
        reason: its reason.
        reply: our close frame, for when it was not sent before.
    """

    code: int
    reason: str
    reply: bytes


Judged = str | bytes | PingReceived | PongReceived | CloseReceived


class WsprotoPath:
    """A wsproto connection, from a frame that is not for the fast lane to where nothing of it is left.

    Attributes:
        message_size: bytes of the message that came last.

    Args:
        client: the role.
        options: the limits.
        deflate: inflates compressed messages; None if that was not negotiated.
    """

    __slots__ = ("_connection", "_guard", "_partial", "message_size")

    def __init__(self, options: Options, deflate: PerMessageDeflate | None, *, client: bool) -> None:
        self._guard = FrameLimits(options, deflate)
        self._connection = Connection(_role(client), extensions=[self._guard])
        self._partial: io.BytesIO | None = None
        self.message_size = 0

    def receive(self, data: bytes) -> Iterator[Judged]:
        """Take bytes and give what they amount to; whole messages only.

        Raises:
            ProtocolError: the peer broke the protocol or a limit.
            UnicodeDecodeError: text is not UTF-8.
        """
        self._connection.receive_data(data)
        for event in self._connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._collect(event)
                if message is not None:
                    yield message
            else:
                yield self._judged(event)

    def _judged(self, event: Event) -> Judged:
        if isinstance(event, Ping):
            return PingReceived(bytes(event.payload))
        if isinstance(event, Pong):
            return PongReceived(bytes(event.payload))
        assert isinstance(event, CloseConnection)
        state, guard = self._connection.state, self._guard
        if state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            # wsproto reports its own parse errors with the peer's closes; only the state tells them apart
            reason = INVALID_UTF8 if event.code == CloseCode.INVALID_PAYLOAD else event.reason or "protocol error"
            raise ProtocolError(int(event.code), guard.reason or reason)
        code = CloseCode.BAD_GATEWAY if guard.bad_gateway else int(event.code)
        reply = b""
        if state is ConnectionState.REMOTE_CLOSING:
            answer = CloseConnection(code=code if guard.bad_gateway else event.code)
            reply = bytes(self._connection.send(answer))
        return CloseReceived(code, event.reason or "", reply)

    def _collect(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        if self._partial is not None or not event.message_finished:
            if self._partial is None:
                self._partial = io.BytesIO()
            self._partial.write(data)
            if not event.message_finished:
                return None
            data = self._partial.getvalue()
            self._partial = None
        self.message_size = len(data)
        return data.decode() if isinstance(event.data, str) else data


def failure_frame(code: int, reason: str, *, client: bool) -> bytes:
    """Give the close frame for a failed connection; by a wsproto of its own, for one in use may have died of it."""
    return bytes(Connection(_role(client)).send(CloseConnection(code=code, reason=reason)))


def _role(client: bool) -> ConnectionType:
    return ConnectionType.CLIENT if client else ConnectionType.SERVER
