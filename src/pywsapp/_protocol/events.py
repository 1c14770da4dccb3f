"""What comes out of the protocol of an open WebSocket."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class State(Enum):
    """How far the close handshake is."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class PongReceived(NamedTuple):
    """The peer sent a pong."""

    payload: bytes


class Ended(NamedTuple):
    """The WebSocket is over; always the last event.

    Attributes:
        code: the peer's close code (1005 if its frame had none), or the code of the error.
        reason: the peer's reason, or what was wrong.
        by_peer: whether the peer sent a close frame; otherwise it broke the protocol or a limit.
        reply: the close frame that is still to be sent, after pongs that were due; b"" if ours was sent before.
    """

    code: int
    reason: str
    by_peer: bool
    reply: bytes


Received = str | bytes | PongReceived | Ended
