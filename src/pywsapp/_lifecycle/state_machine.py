"""The state machine of one connection: the closing handshake (RFC 6455, section 7.1), and every other way to its end.

`states` has the states and their transitions; only this module changes the state. It also decides what follows for
sending, reading and the transport.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from pywsapp._lifecycle.states import CLOSING, SENDING, Event, State, next_state
from pywsapp._log_fields import log_fields
from pywsapp._outbox.awaitables import LazyAwaitable, LazyCoroutine
from pywsapp._outbox.outbox import Outbox
from pywsapp._protocol.events import Ended
from pywsapp._protocol.events import State as ProtocolState
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.large_write import writes_after_end
from pywsapp.close_codes import CloseCode
from pywsapp.connection import Connection
from pywsapp.options import Options

if TYPE_CHECKING:
    from pywsapp._outbox.outbox import Flusher
    from pywsapp._transports.base import Transport

logger = logging.getLogger("pywsapp")

#: Causes to pause reading; each is one bit.
QUEUE_FULL = 1
OUTBOX_FULL = 2


class StateMachine:
    """Owns the state of one connection.

    Args:
        ws: the protocol state of the connection.
        transport: moves its bytes.
        flusher: flushes its outbox.
        options: the limits.

    Attributes:
        before_close: called once before this side closes the connection, with the code and the reason; it can still
            send. None without it.
        conn: what the component sees; the lifecycle sets it.
        outbox: the frames that wait to be sent.
        pause_causes: why reading is paused, as bits; 0 if it is not.
        state: the state.
        is_behind: returns whether an application outside of the lifecycle still has messages to handle, and will call
            `answer` when it has not; the answer to the peer's close frame waits for that. None without one.
        is_discarding: whether messages are dropped, because this side asked to close or abort.
        limit: the name of the limit for which the server has closed the connection, if it is counted; else None.
    """

    __slots__ = (
        "_close_event",
        "_closing_since",
        "_peer_has_ended",
        "_reads_to_end",
        "_unanswered",
        "_ws",
        "before_close",
        "conn",
        "is_behind",
        "is_discarding",
        "limit",
        "outbox",
        "pause_causes",
        "state",
    )

    def __init__(self, ws: WebSocket, transport: Transport, flusher: Flusher, options: Options) -> None:
        self.conn: Connection
        self.outbox = Outbox(self, ws, transport, flusher, options)
        self.pause_causes = 0
        self.before_close: Callable[[int, str], None] | None = None
        self.state = State.OPEN
        self.is_behind: Callable[[], bool] | None = None
        self.is_discarding = False
        self.limit: str | None = None
        self._ws = ws
        self._reads_to_end = False
        self._peer_has_ended = False
        self._unanswered: Ended | None = None
        self._close_event: anyio.Event | None = None
        self._closing_since: float | None = None

    def _enter(self, event: Event) -> None:
        """Change the state; nothing else does."""
        self.state = next_state(self.state, event)
        self.outbox.is_open = self.state in SENDING

    # -- reading -----------------------------------------------------------------------------------------------------

    def pause_reading(self, cause: int) -> None:
        """Stop reading from the peer, for a cause."""
        if self._reads_to_end:
            return
        if not self.pause_causes:
            self.outbox.transport.pause_reading()
        self.pause_causes |= cause

    def resume_reading(self, cause: int) -> None:
        """Read on, unless there is another cause not to."""
        if self.pause_causes and self.pause_causes == cause:
            self.outbox.transport.resume_reading()
        self.pause_causes &= ~cause

    def _end_reading(self) -> None:
        """Ignore all causes from now on: the peer's close frame is awaited, or nothing is read any more."""
        self._reads_to_end = True
        self.pause_causes = 0

    # -- this side ends the connection -------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> LazyCoroutine[None]:
        """Close the connection; see `Connection.close`."""
        self.is_discarding = True
        if self.before_close is not None and self.state is State.OPEN:
            before_close, self.before_close = self.before_close, None
            before_close(code, reason)  # sending can close the connection, if its peer reads too slowly
        if self._unanswered is not None:
            self.answer()
        elif self.state is State.OPEN:
            self._enter(Event.CLOSE)
            frame = self._ws.close(code, reason)
            if frame:  # else the peer has closed, and its close frame is among the events being handled
                self._note(int(code), reason)
                self._queue_last(frame)
                if self._ws.state is ProtocolState.CLOSED:  # an event stream, whose peer has no close frame
                    self._finish(Ended(int(code), reason, by_peer=True, reply=b""), Event.PEER_CLOSES)
        return LazyAwaitable(self._wait_lost)

    def abort(self) -> None:
        """Drop the connection at once, and its queued messages; see `Connection.abort`."""
        self.is_discarding = True
        self.drop("aborted")

    def drop(self, reason: str) -> None:
        """Drop the connection at once; messages that came before are still delivered."""
        self._unanswered = None
        self._note(CloseCode.ABNORMAL_CLOSURE, reason)
        self._ws.abandon()
        if self.state is not State.LOST:
            self._enter(Event.ABORT)
            self._end_reading()
            self.outbox.transport.abort()

    def outbox_overflowed(self, queued: int) -> None:
        """Close the connection, because its peer reads too slowly."""
        self.limit = "max_outbox"
        logger.warning(
            "%r reads too slowly: %d bytes wait for it; closing it",
            self.conn,
            queued,
            extra=log_fields("connection.too_slow", self.conn, size_bytes=queued),
        )
        self.close(CloseCode.TRY_AGAIN_LATER, "reading too slowly")

    # -- the peer ends the connection --------------------------------------------------------------------------------

    def peer_ended(self, event: Ended, *, is_busy: bool) -> None:
        """Handle the peer's close frame, or a fault in what it sent.

        Args:
            event: what came.
            is_busy: whether handlers still have messages that came before; they may answer them.
        """
        if not event.by_peer:
            self.limit = self.limit or event.limit
            logger.info(
                "%r broke the protocol: %s",
                self.conn,
                event.reason,
                extra=log_fields("connection.protocol_error", self.conn, reason=event.reason),
            )
            self._finish(event, Event.FAILURE)
        elif self.state is State.OPEN and (is_busy or (self.is_behind is not None and self.is_behind())):
            self._enter(Event.PEER_CLOSES_WHILE_BUSY)
            self._note(event.code, event.reason)
            self._unanswered = event
        else:
            self._finish(event, Event.PEER_CLOSES)

    def answer(self) -> bool:
        """Answer the peer's close frame if that was put off; return whether it was."""
        event, self._unanswered = self._unanswered, None
        if event is not None:
            self._finish(event, Event.ANSWER)
        return event is not None

    def _finish(self, event: Ended, cause: Event) -> None:
        """Send what is queued and our last frame, then close the transport."""
        if self.state is State.LOST or self.state is State.ABORTED:
            return
        self._enter(cause)
        self._note(event.code, event.reason)
        self.conn.was_clean = event.by_peer
        self.outbox.reports_empty = True
        if event.reply:
            self._queue_last(event.reply)
        if self.outbox.is_empty():
            self.outbox_emptied()
        else:
            self.outbox.flush()

    def stream_ended(self) -> bool:
        """Handle the end of the peer's stream; return whether the transport stays open until the outbox is empty.

        The peer can have shut down one direction only, and still read. The TLS of asyncio and uvloop ends both.
        """
        self.outbox.flush()
        if self.state is State.LOST or self.state is State.ABORTED or self.outbox.is_empty():
            return False
        if not writes_after_end(self.outbox.transport):
            return False
        self._peer_has_ended = True
        self._enter(Event.PEER_ENDS)
        self._end_reading()
        self.outbox.reports_empty = True
        return True

    def outbox_emptied(self) -> None:
        """End behind our last frame; a peer that broke the protocol may finish what it is sending.

        A socket that is closed with unread input is reset, and a reset can overtake the frame. Our own transports
        prevent that in `close`; on asyncio's the peer's end is awaited, for `Options.close_timeout` at most.
        """
        can_write_eof = getattr(self.outbox.transport, "can_write_eof", None)
        if self.conn.was_clean or self._peer_has_ended or can_write_eof is None:
            self.outbox.transport.close()
        elif can_write_eof():
            try:
                self.outbox.transport.write_eof()  # type: ignore[attr-defined]
            except OSError:  # our last frame has made a peer that is gone reset the connection
                self.outbox.transport.close()

    # -- the transport ends ------------------------------------------------------------------------------------------

    def lose(self) -> None:
        """Handle that the transport has ended."""
        conn = self.conn
        self._note(CloseCode.ABNORMAL_CLOSURE, "connection lost")
        conn.was_clean = conn.was_clean and not self.outbox.frames  # our close frame can still wait in there
        self._enter(Event.LOSS)
        self.outbox.lose()
        self._end_reading()
        self.outbox.transport.close()  # without it, TLS transports of Python 3.10 warn that they were not closed
        self._unanswered = None
        if not self._ws.has_more:
            self._ws.abandon()
        if self._close_event is not None:
            self._close_event.set()
            self._close_event = None

    def tick(self, now: float, timeout: float) -> None:
        """End a closing handshake that takes too long.

        Args:
            now: seconds of a monotonic clock.
            timeout: the seconds that it may take.
        """
        if self.state not in CLOSING:
            return
        if self._closing_since is None:
            self._closing_since = now
        elif now - self._closing_since >= timeout:
            self._closing_since = now
            if not self.answer():
                self.drop("close timeout")

    def _note(self, code: int, reason: str) -> None:
        if self.conn.close_code is None:
            self.conn.close_code = int(code)
            self.conn.close_reason = reason

    def _queue_last(self, frame: bytes) -> None:
        """Queue our close frame, and read on: the peer's is awaited now."""
        if self.pause_causes:
            self.outbox.transport.resume_reading()
        self._end_reading()
        self.outbox.add_last(frame)

    def limit_control_frames(self, is_within: Callable[[], bool]) -> None:
        """Call a function for each ping and unsolicited pong, after those that were given before.

        Args:
            is_within: returns whether a ping is answered. It can raise ProtocolError, which ends the connection.
        """
        before = self._ws.control_limit
        self._ws.control_limit = is_within if before is None else lambda: before() and is_within()

    async def pause(self, seconds: float) -> bool:
        """Wait before a message is handled; see `pywsapp._lifecycle.delayed_call.pause`."""
        if seconds > 0:
            with anyio.move_on_after(seconds):
                await self._wait_lost()
                return False
        return not self.is_discarding

    async def _wait_lost(self) -> None:
        if self.state is not State.LOST:
            if self._close_event is None:
                self._close_event = anyio.Event()
            await self._close_event.wait()
