"""The events that `WebSocket.receive` returns."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pywsapp.close_codes import CloseCode


class State(Enum):
    """How far the close handshake is.

    `pywsapp._protocol.websocket` has the table of transitions.
    """

    OPEN = "open"  #: no close frame was sent or received
    CLOSING = "closing"  #: this side sent its close frame and waits for the peer's
    CLOSED = "closed"  #: the peer's close frame arrived, the connection failed, or the transport is lost


#: The reason of `Ended` when a peer exceeds `Options.control_frames_per_second`.
TOO_MANY_CONTROL_FRAMES = "too many control frames"
#: The reason of `Ended` when a message takes longer than `Options.message_timeout`.
MESSAGE_TIMEOUT = "a message stayed unfinished for too long"


class PongReceived(NamedTuple):
    """The peer sent a pong."""

    payload: bytes


class Ended(NamedTuple):
    """The WebSocket has ended; always the last event.

    Attributes:
        code: the peer's close code (1005 if its frame had none), or the code of the error.
        reason: the peer's close reason, or what was wrong.
        by_peer: True if the peer sent a close frame; False if the peer violated the protocol or a limit.
        reply: the bytes to send, namely the pongs that are due and the close frame; b"" if our close frame was sent
            before.
    """

    code: int
    reason: str
    by_peer: bool
    reply: bytes

    @property
    def limit(self) -> str | None:
        """The option that the peer has exceeded; None if it has closed, or broken another rule."""
        if self.by_peer:
            return None
        if self.code == CloseCode.MESSAGE_TOO_BIG:
            if self.reason.endswith("fragments"):
                return "max_fragments"
            return "max_frame_size" if self.reason.startswith("the frame") else "max_message_size"
        return _LIMITS.get(self.reason)


_LIMITS = {TOO_MANY_CONTROL_FRAMES: "control_frames_per_second", MESSAGE_TIMEOUT: "message_timeout"}
Received = str | bytes | PongReceived | Ended
