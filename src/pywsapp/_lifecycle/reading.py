"""Reading from a peer pauses for several causes, and goes on when the last of them is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pywsapp._transports.base import Transport

#: Causes; each is one bit.
QUEUE_FULL = 1
OUTBOX_FULL = 2


class Reading:
    """Pauses and resumes the reading of one transport.

    Args:
        transport: the transport.

    Attributes:
        causes: why reading is paused, as bits; 0 if it is not.
        is_ended: whether the causes no longer count: the peer's close frame is awaited, or the transport has ended.
    """

    __slots__ = ("_transport", "causes", "is_ended")

    def __init__(self, transport: Transport) -> None:
        self.causes = 0
        self.is_ended = False
        self._transport = transport

    def pause(self, cause: int) -> None:
        """Pause for a cause."""
        if self.is_ended:
            return
        if not self.causes:
            self._transport.pause_reading()
        self.causes |= cause

    def resume(self, cause: int) -> None:
        """Go on, unless there is another cause."""
        if self.causes and self.causes == cause:
            self._transport.resume_reading()
        self.causes &= ~cause

    def read_to_end(self) -> None:
        """Go on whatever the causes are: the peer's close frame is awaited."""
        self.is_ended = True
        if self.causes:
            self.causes = 0
            self._transport.resume_reading()

    def end(self) -> None:
        """Stop touching the transport, which has ended."""
        self.is_ended = True
        self.causes = 0
