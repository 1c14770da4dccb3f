"""What a component holds in its hand: one connection to a peer.

The way out

`send` encodes a message and appends its frame to the *outbox*; it does no I/O. All connections whose outbox was filled
during a turn of the event loop are flushed together at its end, one write each. While the transport has more than
`Options.high_water` bytes queued, frames stay in the outbox; when that is full, `Options.slow_consumer` decides.
Reading pauses while the peer does not read, so that one who floods an echo is slowed down by TCP first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable
from itertools import count
from types import SimpleNamespace

import anyio
import anyio.lowlevel

from pywsapp._http_text import one_line
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable
from pywsapp._outbox.outbox import ByteSink, Flusher, Frame, Outbox, length, write_all
from pywsapp._outbox.pings import Pings
from pywsapp._outbox.subscriber import Subscriber
from pywsapp._protocol.events import Ended
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp._protocol.sending import LARGE
from pywsapp._protocol.websocket import WebSocket
from pywsapp.close_codes import CloseCode, check_close
from pywsapp.http import Request
from pywsapp.options import Options, SlowConsumer

logger = logging.getLogger("pywsapp")

_ids = count(1)
_QUEUE_FULL = 1
_OUTBOX_FULL = 2


class Connection(Subscriber):
    """A WebSocket connection, for as long as it lives and afterwards.

    Use it from the event loop's thread; from another one go through `anyio.from_thread.run_sync`. It takes no free
    attributes: your own data belongs in `state`.

    Attributes:
        id: a number that no other connection of this process ever has (Ratchet's resourceId, which is reused).
        request: the request that opened it.
        subprotocol: the subprotocol agreed on, or None.
        close_code: why it ended: the code of whoever closed first, 1005 if the peer's close frame had none, 1006 if
            it was lost without a close frame; None until then.
        close_reason: the text that came with the code.
        was_clean: whether both sides sent their close frames.
        deaf: whether this side asked to close or abort; messages are then no longer delivered.
    """

    __slots__ = (
        "__weakref__",
        "_close_event",
        "_drain_event",
        "_finishing",
        "_flusher",
        "_high_water",
        "_lost",
        "_max_outbox",
        "_open",
        "_options",
        "_outbox",
        "_pauses",
        "_pings",
        "_state",
        "_transport",
        "_unanswered",
        "_writable",
        "_write",
        "_ws",
        "close_code",
        "close_reason",
        "deaf",
        "id",
        "request",
        "subprotocol",
        "was_clean",
    )

    def __init__(
        self,
        request: Request,
        ws: WebSocket,
        transport: ByteSink,
        flusher: Flusher,
        options: Options,
        subprotocol: str | None = None,
    ) -> None:
        super().__init__(min(options.max_topics, sys.maxsize))
        self.id = next(_ids)
        self.request = request
        self.subprotocol = subprotocol
        self.close_code: int | None = None
        self.close_reason = ""
        self.was_clean = False
        self.deaf = False
        self._ws = ws
        self._transport = transport
        self._write = transport.write  # bound once: it is called for each message
        self._flusher = flusher
        self._options = options
        self._high_water = min(options.high_water, sys.maxsize)  # what the twin can hold
        self._max_outbox = min(options.max_outbox, sys.maxsize)
        self._outbox = Outbox()
        # not the protocol's state, which runs ahead: a handler may still answer what came before the peer's close
        self._open = True
        self._writable = True
        self._pauses = 0
        self._unanswered: Ended | None = None
        self._finishing = False
        self._lost = False
        self._state: SimpleNamespace | None = None
        self._pings: Pings | None = None
        self._drain_event: anyio.Event | None = None
        self._close_event: anyio.Event | None = None

    def __repr__(self) -> str:
        status = "open" if not self.closed else f"closed {self.close_code}"
        path = one_line(self.request.path)
        return f"<Connection {self.id} {path} from {self.remote_address or 'local'} {status}>"

    @property
    def remote_address(self) -> str:
        """The peer's IP address without port, `""` on a Unix socket (Ratchet's remoteAddress)."""
        return self.request.remote_address

    @property
    def state(self) -> SimpleNamespace:
        """A namespace for your own data: `conn.state.name = "Ana"`."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more: from the moment either side begins to close."""
        return not self._open

    @property
    def buffered(self) -> int:
        """Bytes that wait in this process to be sent."""
        return self._outbox.size + (0 if self._lost else self._transport.get_write_buffer_size())

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Sendable | PreparedMessage, *, compress: bool | None = None) -> Awaitable[None]:
        """Send a message: a `str` as text, bytes as binary. Never blocks.

        After close it does nothing, as in Ratchet.

        Args:
            message: what to send.
            compress: False never compresses it, True always, None from `Deflate.threshold` on; without effect unless
                permessage-deflate was negotiated.

        Returns:
            an awaitable; awaiting it waits while more than `Options.high_water` bytes are queued, or until the
            connection is closed. Not awaiting it is fine.

        Raises:
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the text has no UTF-8 form.
        """
        if not self._open:
            return LazyAwaitable(self._drained)
        frame: Frame
        if type(message) is bytes and len(message) >= LARGE:
            frame = self._ws.encode_large(message, compress)
            size = length(frame)
        else:
            frame = self._ws.encode(message, compress)
            size = len(frame)
        return ALREADY_DONE if self._queue(frame, size) else LazyAwaitable(self._drained)

    def send_prepared(self, message: PreparedMessage) -> None:
        """Send a message as `send` does, with nothing to await. Called for each connection of a broadcast."""
        if self._open:
            frame = self._ws.encode(message)
            self._queue(frame, len(frame))

    def _queue(self, frame: Frame, size: int) -> bool:
        """Queue a frame of so many bytes, or apply the policy; give whether there is nothing to wait for."""
        outbox = self._outbox
        if outbox.size + size > self._max_outbox and not self._make_room(size):
            return False
        if not outbox.frames:
            self._flusher.add(self)
        outbox.add(frame, size)
        return self._writable and outbox.size <= self._high_water

    def _make_room(self, size: int) -> bool:
        """Make the outbox take `size` more bytes, or apply the policy; give whether the message may be queued."""
        self.flush()
        outbox, limit = self._outbox, self._max_outbox
        if not outbox.frames or outbox.size + size <= limit:
            return True
        policy = self._options.slow_consumer
        if policy is SlowConsumer.DROP_OLDEST:
            outbox.drop_oldest(limit - size)
        elif policy is SlowConsumer.CLOSE:
            logger.warning("%r reads too slowly: %d bytes wait for it; closing it", self, self.buffered)
            outbox.clear()
            self.close(CloseCode.TRY_AGAIN_LATER, "reading too slowly")
        return policy is SlowConsumer.DROP_OLDEST

    def flush(self) -> None:
        """Hand to the transport what it takes now. Called by the flusher."""
        if self._lost:
            return
        pongs = self._ws.take_pongs() if self._ws.has_pongs else b""
        outbox = self._outbox
        if not outbox.frames or not self._writable:
            if pongs:
                self._write(pongs)
            return
        while outbox.frames and self._writable:
            data = outbox.take(self._high_water)
            if isinstance(data, tuple):
                write_all(self._transport, (pongs, *data) if pongs else data)
            else:
                self._write(pongs + data if pongs else data)
            pongs = b""
        if self._finishing and not outbox.frames:
            self._finish()

    def writable(self, writable: bool) -> None:
        """Learn from the transport whether it takes more. Called by the lifecycle."""
        self._writable = writable
        if not writable:
            self._pause(_OUTBOX_FULL)
            return
        self.flush()
        if self._writable:
            self._resume(_OUTBOX_FULL)
            if self._drain_event is not None:
                self._drain_event.set()
                self._drain_event = None

    async def _drained(self) -> None:
        # always a checkpoint, or `while True: await conn.send(...)` would block the loop once nothing is sent any more
        await anyio.lowlevel.checkpoint()
        while self._open:
            if self._writable:
                self.flush()
            if self._writable and self._outbox.size <= self._high_water:
                return
            if self._drain_event is None:
                self._drain_event = anyio.Event()
            await self._drain_event.wait()

    # -- reading -----------------------------------------------------------------------------------------------------

    def queue_full(self, full: bool) -> None:
        """Stop or go on reading, for the queue of a busy handler. Called by the lifecycle."""
        (self._pause if full else self._resume)(_QUEUE_FULL)

    @property
    def is_writable(self) -> bool:
        """Whether the transport takes more; otherwise more than `Options.high_water` bytes wait in it."""
        return self._writable

    @property
    def unsent(self) -> int:
        """Bytes that wait in the transport; while it is not writable they can only become fewer by the peer's doing."""
        return self._transport.get_write_buffer_size()

    @property
    def reading_paused(self) -> bool:
        """Whether nothing is read from the peer at the moment."""
        return self._pauses != 0

    def _pause(self, cause: int) -> None:
        if self.closed:
            return  # the peer's close frame is awaited, whatever waits before it
        if not self._pauses:
            self._transport.pause_reading()
        self._pauses |= cause

    def _resume(self, cause: int) -> None:
        if self._pauses == cause and not self._lost:
            self._transport.resume_reading()
        self._pauses &= ~cause

    # -- ending ------------------------------------------------------------------------------------------------------

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> Awaitable[None]:
        """Close the connection: what is queued is sent, then a close frame, and the peer's is awaited for a while.

        A second call does nothing. Messages that still arrive are dropped. Never blocks.

        Args:
            code: 1000 to 1003, 1007 to 1014 or 3000 to 4999 (RFC 6455 section 7.4).
            reason: a text for the peer, at most 123 bytes of UTF-8.

        Returns:
            an awaitable; awaiting it waits until the connection is gone. Not awaiting it is fine.

        Raises:
            ConfigurationError: the code may not be sent or the reason is too long.
        """
        check_close(code, reason)
        self.deaf = True
        if self._open:
            self._open = False
            frame = self._ws.close(code, reason)
            if frame:
                self._note(int(code), reason)
                self._queue_last(frame)
                self._flusher.add(self)
            else:  # the peer closed first; if that is not noted yet, it is in the batch that is being delivered
                self.answer_close()
        return LazyAwaitable(self._gone)

    def abort(self) -> None:
        """Drop the connection at once, without a close frame; its close code is then 1006."""
        self.deaf = True
        self.drop("aborted")

    def drop(self, reason: str) -> None:
        """Drop the connection at once; queued messages are still delivered. Called by the lifecycle."""
        self._open = False
        self._unanswered = None
        self._note(CloseCode.ABNORMAL_CLOSURE, reason)
        self._ws.abandon()
        if not self._lost:
            self._transport.abort()

    def closed_by_peer(self, event: Ended) -> None:
        """Take the peer's close frame, but go on sending until `answer_close`. Called by the lifecycle."""
        self._note(event.code, event.reason)
        self._unanswered = event

    def answer_close(self) -> bool:
        """Answer the peer's close frame if that was put off; give whether it was. Called by the lifecycle."""
        event, self._unanswered = self._unanswered, None
        if event is not None:
            self.ended(event)
        return event is not None

    def ended(self, event: Ended) -> None:
        """Take the end of the WebSocket. Called by the lifecycle."""
        if self._lost or self.close_code == CloseCode.ABNORMAL_CLOSURE:
            return  # lost or dropped meanwhile
        self._open = False
        self._note(event.code, event.reason)
        self.was_clean = event.by_peer
        self._finishing = True
        if event.reply:
            self._queue_last(event.reply)
        if self._outbox.frames:
            self.flush()
        else:
            self._finish()

    def _finish(self) -> None:
        """End behind our last frame, and let a peer that broke the protocol finish what it is sending.

        A socket closed with unread input is reset, and a reset may overtake the frame. Our own transports see to that
        in `close`; on those of asyncio the peer's end is awaited, for no longer than `close_timeout`.
        """
        can_write_eof = getattr(self._transport, "can_write_eof", None)
        if self.was_clean or can_write_eof is None:
            self._transport.close()
        elif can_write_eof():
            self._transport.write_eof()  # type: ignore[attr-defined]

    def lost(self) -> None:
        """Take the end of the transport. Called by the lifecycle."""
        self._note(CloseCode.ABNORMAL_CLOSURE, "connection lost")
        self.was_clean = self.was_clean and not self._outbox.frames  # our close frame may still wait in there
        self._open = False
        self._lost = True
        self._transport.close()  # Python 3.10 has TLS transports that else complain of not having been closed
        self._unanswered = None
        if not self._ws.has_more:
            self._ws.abandon()
        self._outbox.clear()
        for event in (self._drain_event, self._close_event):
            if event is not None:
                event.set()
        if self._pings is not None:
            self._pings.end()
        self._drain_event = self._close_event = self._pings = None

    def _note(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code = int(code)
            self.close_reason = reason

    def _queue_last(self, frame: bytes) -> None:
        """Queue the close frame, and read on whatever had paused reading: the peer's close is awaited now."""
        self._outbox.add(frame, len(frame))
        if self._pauses:
            self._pauses = 0
            self._transport.resume_reading()
        if self._drain_event is not None:
            self._drain_event.set()
            self._drain_event = None

    async def _gone(self) -> None:
        if not self._lost:
            if self._close_event is None:
                self._close_event = anyio.Event()
            await self._close_event.wait()

    # -- pings -------------------------------------------------------------------------------------------------------

    def ping(self, payload: bytes | None = None) -> Awaitable[float]:
        """Send a ping (RFC 6455 section 5.5.2). Never blocks.

        Awaiting it in a handler of this connection wants a time limit: while messages queue up behind the handler,
        reading may stop, and the pong is then not read either.

        Args:
            payload: at most 125 bytes, different from those of pings still unanswered; made up when None.

        Returns:
            an awaitable of the latency in seconds. Not awaiting it is fine.

        Raises:
            ConfigurationError: the payload is too long or in use.
            ConnectionClosed: on awaiting, if the connection ends before the pong.
        """
        if self._pings is None:
            self._pings = Pings()
        payload, latency = self._pings.add(payload)
        if self._open:
            self.flush()
            self._transport.write(self._ws.ping(payload))
        else:
            self._pings.end()
        return latency

    def keepalive(self) -> None:
        """Send a ping of which only a sign of life is expected. Called by the lifecycle."""
        self._transport.write(self._ws.ping(b""))

    def ponged(self, payload: bytes) -> None:
        """Take a pong. Called by the lifecycle."""
        if self._pings is not None:
            self._pings.answered(payload)
