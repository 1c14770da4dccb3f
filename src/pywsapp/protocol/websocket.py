"""The protocol of an open WebSocket, sans-IO: bytes in, events out; frames for what is to be sent.

Theory

Two lanes read the same bytes.

The *fast lane* takes data frames that are a whole message by themselves and stand between messages: nearly all that
ever arrives. Its frames are found, unmasked and decoded in one pass. A frame that has only arrived in part is
consumed as it comes (`ArrivingFrame`).

The *slow lane* is wsproto's `Connection`. Everything else goes there, cut at frame boundaries: control frames,
fragments, and whatever is malformed. It is made when first needed and dropped as soon as no message and no close
handshake is under way, so that idle connections do not pay for it. `Guard` hangs in it as an extension and adds what
wsproto lacks: limits and a bounded permessage-deflate.

Both lanes must be indistinguishable: same messages, same close codes, at any cut of the bytes. A property test holds
them side by side.

States: OPEN until either side sends a close frame; CLOSING after ours, until the peer's; CLOSED after the peer's or
after an error. In CLOSED all input is ignored and nothing is kept. Time is only known through `tick`.
"""

from __future__ import annotations

import io
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from pywsapp.protocol.arriving import ArrivingFrame
from pywsapp.protocol.deflate import PerMessageDeflate
from pywsapp.protocol.frames import (
    BINARY,
    CLOSE,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    apply_mask,
    encode_frame,
    encode_masked_frame,
)
from pywsapp.protocol.guard import Guard
from pywsapp.protocol.prepared import PreparedMessage, Sendable, payload_of
from pywsapp.values.close import CloseCode
from pywsapp.values.errors import ProtocolError
from pywsapp.values.options import SlowConsumer

if TYPE_CHECKING:
    from pywsapp.protocol.deflate import DeflateParameters
    from pywsapp.values.options import Options

#: Of more pings at once only the newest are answered (RFC 6455 section 5.5.3); Autobahn wants ten.
MAX_PENDING_PONGS = 16

_MESSAGES_BEHIND_CLOSE = 16  # of the largest size: inflated, since others may refer to them, and dropped
_ANY_SIZE = 1 << 63
_INVALID_UTF8 = "invalid UTF-8"


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


class WebSocket:
    """The state of one WebSocket after its handshake, for either role.

    Attributes:
        client: the role.
        state: how far the close handshake is.
        has_more: `receive` left whole frames for its next call.

    Args:
        client: the role: clients mask what they send.
        options: the limits.
        deflate: what was negotiated for permessage-deflate, None for nothing.
    """

    __slots__ = (
        "_arriving",
        "_control_budget",
        "_deflate",
        "_fragmented",
        "_frame",
        "_guard",
        "_last_tick",
        "_mask_bit",
        "_options",
        "_partial",
        "_pongs",
        "_pongs_due",
        "_slow",
        "_slow_remaining",
        "_started",
        "_tail",
        "_to_inflate",
        "_unfinished",
        "_window_bits",
        "client",
        "has_more",
        "state",
    )

    def __init__(self, *, client: bool, options: Options, deflate: DeflateParameters | None = None) -> None:
        self.client = client
        self.state = State.OPEN
        self.has_more = False
        self._to_inflate = 0
        self._mask_bit = 0 if client else 0x80
        self._frame = encode_masked_frame if client else encode_frame
        self._options = options
        self._deflate: PerMessageDeflate | None = None
        self._window_bits = 0
        if deflate is not None and options.deflate is not None:
            self._deflate = PerMessageDeflate(deflate, options.deflate, client=client)
            self._window_bits = deflate.client_max_window_bits if client else deflate.server_max_window_bits
        self._tail = b""
        self._arriving: ArrivingFrame | None = None
        self._slow: Connection | None = None
        self._guard: Guard | None = None
        self._slow_remaining = 0
        self._fragmented = False
        self._partial: io.BytesIO | None = None
        self._pongs: deque[bytes] | None = None
        self._pongs_due = 0
        self._control_budget = float(options.control_frames_burst)
        self._last_tick: float | None = None
        self._started = 0
        self._unfinished: tuple[int, float] | None = None

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, inflate: int = _ANY_SIZE) -> list[Received]:
        """Take bytes from the peer and give what they amount to.

        Args:
            data: what came; empty to go on with what an earlier call left.
            inflate: bytes that compressed messages may inflate to before the rest is left for the next call, so that
                what one large read holds cannot fill the memory; the last message may go beyond it.

        Returns:
            messages (`str`, `bytes`), `PongReceived`, and at most one `Ended`, last. Never raises for anything that
            a peer sends.
        """
        events: list[Received] = []
        if self.state is State.CLOSED:
            return events
        self.has_more = False
        self._to_inflate = inflate if self.state is State.OPEN else self._to_inflate
        try:
            self._read(data, events)
            if self.state is State.CLOSING and self._to_inflate <= 0:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "too much came behind the close frame")
        except ProtocolError as exc:
            events.append(self._failed(exc.code, exc.reason))
        except UnicodeDecodeError:
            events.append(self._failed(CloseCode.INVALID_PAYLOAD, _INVALID_UTF8))
        if self._slow is not None and not self._fragmented and not self._slow_remaining and self.state is State.OPEN:
            self._slow = self._guard = None
        return events

    def _read(self, data: bytes, events: list[Received]) -> None:  # noqa: C901 - one pass; a call costs what a frame does
        if self._tail:
            data = self._tail + data
            self._tail = b""
        position = 0
        if self._arriving is not None:
            position = self._continue_frame(data, events)
        elif self._slow_remaining:
            position = self._feed_slow(data, 0, self._slow_remaining, events)
            if self.state is State.CLOSED:
                return
        end = len(data)
        mask_bit = self._mask_bit
        maximum = self._options.max_frame_size or _ANY_SIZE
        limit = self._options.max_message_size
        while end - position >= 2 and self._to_inflate > 0:
            first = data[position]
            second = data[position + 1]
            size = second & 0x7F
            start = position + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                start += width
                long = first & 0x0F <= BINARY
                if long and start > end:
                    break
                size = int.from_bytes(data[start - width : start], "big")
                if not long or size < 126 or (width == 8 and (size < 65536 or size >> 63)):
                    self._begin_slow(first)  # no such length may stand there: wsproto says why
                    self._feed_slow(data, position, end - position, events)
                    return
            whole = first == 0x81 or first == 0x82 or (self._deflate is not None and (first == 0xC1 or first == 0xC2))
            if not whole or self._fragmented or second & 0x80 != mask_bit or size > maximum:
                self._begin_slow(first)
                position = self._feed_slow(data, position, start - position + (second >> 7) * 4 + size, events)
                if self.state is State.CLOSED:
                    return
                continue
            if size > limit and not first & RSV1:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"the message is larger than {limit} bytes")
            mask = b""
            if mask_bit:
                start += 4
                if start > end:
                    break
                mask = data[start - 4 : start]
            stop = start + size
            if stop > end:
                self._begin_frame(first, size, mask, data[start:])
                return
            payload = apply_mask(data[start:stop], mask) if mask else data[start:stop]
            position = stop
            if first & RSV1:
                assert self._deflate is not None
                payload = self._deflate.decompress(payload, limit, True)
                self._to_inflate -= len(payload)
            message = payload.decode() if first & TEXT else payload
            if self.state is State.OPEN:
                events.append(message)
        self._tail = data[position:]
        self.has_more = self._to_inflate <= 0 and end - position >= 2

    def _begin_frame(self, first: int, size: int, mask: bytes, data: bytes) -> None:
        self._started += 1
        self._arriving = ArrivingFrame(first, mask, size, self._options.max_message_size, self._deflate)
        self._arriving.receive(data)

    def _continue_frame(self, data: bytes, events: list[Received]) -> int:
        frame = self._arriving
        assert frame is not None
        part = data[: frame.remaining]
        frame.receive(part)
        if not frame.remaining:
            self._arriving = None
            if self.state is State.OPEN:
                events.append(frame.message())
            self._to_inflate -= frame.inflated
        return len(part)

    # -- the slow lane -----------------------------------------------------------------------------------------------

    def _wsproto(self) -> Connection:
        if self._slow is None:
            self._guard = Guard(self._options, self._deflate)
            self._slow = Connection(self._role, extensions=[self._guard])
        return self._slow

    @property
    def _role(self) -> ConnectionType:
        return ConnectionType.CLIENT if self.client else ConnectionType.SERVER

    def _begin_slow(self, first: int) -> None:
        opcode = first & 0x0F
        if not self._fragmented:
            self._started += 1
        if opcode < CLOSE:
            self._fragmented = not first & FIN
        elif opcode == PONG and self._pongs_due:
            self._pongs_due -= 1
        elif opcode != CLOSE:
            self._control_budget -= 1
            if self._control_budget < 0:
                raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many control frames")

    def _feed_slow(self, data: bytes, position: int, size: int, events: list[Received]) -> int:
        """Give wsproto the next `size` bytes, or what is there of them; the rest goes to it when it comes."""
        chunk = data[position : position + size]
        self._slow_remaining = size - len(chunk)
        connection = self._wsproto()
        connection.receive_data(chunk)
        for event in connection.events():
            self._take(event, connection, events)
            if self.state is State.CLOSED:
                break
        return position + len(chunk)

    def _take(self, event: Event, connection: Connection, events: list[Received]) -> None:
        if isinstance(event, (TextMessage, BytesMessage)):
            self._collect(event, events)
        elif isinstance(event, Ping):
            if self.state is State.OPEN:
                if self._pongs is None:
                    self._pongs = deque(maxlen=MAX_PENDING_PONGS)
                self._pongs.append(bytes(event.payload))
        elif isinstance(event, Pong):
            events.append(PongReceived(bytes(event.payload)))
        elif isinstance(event, CloseConnection):
            assert self._guard is not None
            if connection.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
                # wsproto reports its own parse errors with the peer's closes; only the state tells them apart
                reason = _INVALID_UTF8 if event.code == CloseCode.INVALID_PAYLOAD else event.reason or "protocol error"
                events.append(self._failed(int(event.code), self._guard.reason or reason))
                return
            code = CloseCode.BAD_GATEWAY if self._guard.bad_gateway else int(event.code)
            reply = b""
            if connection.state is ConnectionState.REMOTE_CLOSING:
                answer = CloseConnection(code=code if self._guard.bad_gateway else event.code)
                reply = self.take_pongs() + bytes(connection.send(answer))
            self._end()
            events.append(Ended(code, event.reason or "", True, reply))

    def _collect(self, event: TextMessage | BytesMessage, events: list[Received]) -> None:
        message: str | bytes = event.data if isinstance(event.data, str) else bytes(event.data)
        if self._partial is not None or not event.message_finished:
            if self._partial is None:
                self._partial = io.BytesIO()
            self._partial.write(message.encode() if isinstance(message, str) else message)
            if not event.message_finished:
                return
            gathered = self._partial.getvalue()
            self._partial = None
            if self._deflate is not None:
                self._to_inflate -= len(gathered)
            message = gathered.decode() if isinstance(message, str) else gathered
        if self.state is State.OPEN:
            events.append(message)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _failed(self, code: int, reason: str) -> Ended:
        reply = b""
        if self.state is State.OPEN:  # by a connection of its own: the one in use may have died of the error
            reply = self.take_pongs() + bytes(Connection(self._role).send(CloseConnection(code=code, reason=reason)))
        self._end()
        return Ended(code, reason, False, reply)

    def _end(self) -> None:
        self.state = State.CLOSED
        self.has_more = False
        self._tail = b""
        self._slow_remaining = 0
        self._arriving = self._slow = self._guard = self._partial = self._deflate = self._pongs = None

    def close(self, code: int, reason: str) -> bytes:
        """Begin the close handshake and give the close frame, after pongs that were due; b"" if it began before.

        The code and the reason must have passed `check_close`. Messages that still arrive are dropped.
        """
        if self.state is not State.OPEN:
            return b""
        frame = bytes(self._wsproto().send(CloseConnection(code=code, reason=reason)))
        self.state = State.CLOSING
        self._to_inflate = _MESSAGES_BEHIND_CLOSE * self._options.max_message_size
        return self.take_pongs() + frame

    def abandon(self) -> None:
        """Let go of everything: the transport is gone."""
        self._end()

    def tick(self, now: float, *, paused: bool = False) -> Ended | None:
        """Learn the time: refills budgets, and ends a message that takes too long.

        Args:
            now: seconds of any monotonic clock.
            paused: nothing is read from the peer, so it is not its fault that something stays unfinished.
        """
        if self._last_tick is not None:
            earned = (now - self._last_tick) * self._options.control_frames_per_second
            self._control_budget = min(self._options.control_frames_burst, self._control_budget + earned)
        self._last_tick = now
        unfinished = self._arriving is not None or self._fragmented or self._slow_remaining
        if paused or self.has_more or not unfinished:
            self._unfinished = None
        elif self._unfinished is None or self._unfinished[0] != self._started:
            self._unfinished = (self._started, now)
        elif now - self._unfinished[1] >= self._options.message_timeout and self.state is State.OPEN:
            return self._failed(CloseCode.POLICY_VIOLATION, "a message stayed unfinished for too long")
        return None

    # -- sending -----------------------------------------------------------------------------------------------------

    def encode(self, message: Sendable | PreparedMessage, compress: bool | None = None) -> bytes:
        """Give the frame for a message.

        Args:
            message: text, bytes, or a message prepared for several connections.
            compress: False never compresses it, True always, None from the threshold on (where negotiated).

        Raises:
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the text has no UTF-8 form.
        """
        if isinstance(message, PreparedMessage):
            opcode, payload, compress = message.opcode, message.payload, message.compress
            shared = None if self.client else message
        else:
            opcode, payload = payload_of(message)
            shared = None
        deflate, config = self._deflate, self._options.deflate
        if compress is None and config is not None:
            compress = len(payload) >= config.threshold
        if deflate is None or config is None or not compress:
            return self._frame(FIN | opcode, payload) if shared is None else shared.plain_frame()
        if shared is not None or self._options.slow_consumer is not SlowConsumer.CLOSE:
            deflate.forget()  # the next message must be readable without this one, which goes its own way or nowhere
        if shared is None:
            return self._frame(FIN | RSV1 | opcode, deflate.compress(payload))
        return shared.deflated_frame(self._window_bits, config)

    def ping(self, payload: bytes) -> bytes:
        """Give the frame of a ping with at most 125 bytes; its pong will not count against the budget."""
        self._pongs_due += 1
        return self._frame(FIN | PING, payload)

    def take_pongs(self) -> bytes:
        """Give the pongs that are to be sent, and forget them."""
        pongs = self._pongs
        if not pongs:
            return b""
        self._pongs = None
        return b"".join([self._frame(FIN | PONG, payload) for payload in pongs])

    @property
    def has_pongs(self) -> bool:
        """Whether `take_pongs` has something to give."""
        return bool(self._pongs)
