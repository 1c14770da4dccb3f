"""The protocol of an open WebSocket, sans-IO: bytes in, events out, and frames for what the caller sends.

Theory

A connection is in one of three states, `State`. Each row is an event; each cell is what happens, and after the arrow
the next state. No arrow means that the state stays.

    event                        OPEN                          CLOSING                     CLOSED
    ---------------------------  ----------------------------  --------------------------  -------
    `close` is called            a close frame -> CLOSING      nothing                     nothing
    a message arrives            the message                   checked, then dropped       ignored
    a ping arrives               a pong is queued              dropped                     ignored
    a pong arrives               PongReceived                  PongReceived                ignored
    a close frame arrives        Ended, with reply -> CLOSED   Ended -> CLOSED             ignored
    a rule or limit is violated  Ended, with reply -> CLOSED   Ended -> CLOSED             ignored
    a message takes too long     Ended, with reply -> CLOSED   nothing                     nothing
    `abandon` is called          nothing -> CLOSED             nothing -> CLOSED           nothing

The reply is the close frame for the peer. In CLOSING our close frame was sent before, so there is none. In CLOSED
nothing is kept. `tick` is the only source of time.

Two paths read the same bytes, and the first byte of a frame decides between them.

The *fast path* reads data frames that are a whole message by themselves, between messages: nearly everything that ever
arrives. It finds, unmasks and decodes them in one pass. When only a part of such a frame has arrived, or fragments
arrive, a `PartialMessage` consumes the payload as it comes. The fast path also reads complete pings and pongs, because
after a round of pings as many pongs arrive at once as there are connections, and the usual close frames.

The *wsproto path*, `WsprotoPath`, reads everything else, one frame each: unusual close frames, control frames that
arrive in parts, and malformed input.

Both paths must be indistinguishable: the same messages and the same close codes, however the bytes are cut. A property
test compares them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pywsapp._protocol.events import MESSAGE_TIMEOUT, TOO_MANY_CONTROL_FRAMES, Ended, PongReceived, Received, State
from pywsapp._protocol.frame_assembly import PartialMessage
from pywsapp._protocol.frames import WRONG_SIZE, long_size, unmask, unmask_text
from pywsapp._protocol.opcodes import BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT
from pywsapp._protocol.sending import Sender
from pywsapp._protocol.wsproto_path import INVALID_UTF8, PingReceived, WsprotoPath, failure_frame
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp.options import Options

#: If more pings arrive at once, only the newest are answered (RFC 6455 section 5.5.3); Autobahn expects ten.
MAX_PENDING_PONGS = 16

# Messages after our close frame are inflated, because later ones may refer to them, and then dropped. This bounds
# them, in messages of the largest size.
_MESSAGES_AFTER_CLOSE = 16
_USUAL_CLOSES = frozenset({b"", b"\x03\xe8", b"\x03\xe9"})  # no code, 1000 and 1001: all that browsers send
_ANY_SIZE = (1 << 62) - 1
_ANY_NUMBER = 1 << 40
# Frames that are no whole message, such as fragments and pongs, cost a call of `receive` up to this many of them for
# each message that it may return.
_FRAMES_A_MESSAGE = 4

_OPEN, _CLOSING, _CLOSED = State  # an attribute of an Enum costs as much as a frame in the innermost loop


class WebSocket(Sender):
    """The protocol of one WebSocket after its handshake, in either role.

    Attributes:
        state: how far the close handshake is.
        has_more: `receive` left whole frames for its next call.
        has_pongs: pongs wait for `take_pongs`.
        control_limit: returns whether a ping or unsolicited pong is handled, or raises ProtocolError; None if all are.

    Args:
        client: True for the client role; clients mask their frames.
        options: the limits.
        deflate: the negotiated parameters of permessage-deflate, or None without it.
    """

    __slots__ = (
        "_control_budget",
        "_frames_left",
        "_inflate_budget",
        "_kind_bits",
        "_last_tick",
        "_mask_bit",
        "_max_frame",
        "_partial",
        "_pongs",
        "_pongs_due",
        "_started",
        "_tail",
        "_tail_start",
        "_unfinished",
        "_wsproto",
        "_wsproto_remaining",
        "control_limit",
        "has_more",
        "has_pongs",
        "state",
    )

    def __init__(self, *, client: bool, options: Options, deflate: DeflateParameters | None = None) -> None:
        super().__init__(client=client, options=options, deflate=deflate)
        self.state = _OPEN
        self.has_more = False
        self.has_pongs = False
        self._mask_bit = 0 if client else 0x80  # what the peer's second bytes must have
        self._kind_bits = 0xFF if self._deflate is None else 0xFF & ~RSV1  # these bits tell whole messages from others
        self.use_limits(options)
        self._inflate_budget = 0  # bytes that compressed messages may still inflate to
        self._frames_left = 0  # frames that are no whole message, and may still be read in this call
        self._tail = b""  # input that is not read yet
        self._tail_start = 0  # where it begins in `_tail`
        self._partial: PartialMessage | None = None
        self._wsproto: WsprotoPath | None = None
        self._wsproto_remaining = 0  # bytes of a frame that the wsproto path still expects
        self._pongs: deque[bytes] | None = None
        self._pongs_due = 0  # pongs that the peer owes for our pings
        self._control_budget = float(options.control_frames_burst)
        self.control_limit: Callable[[], bool] | None = None
        self._last_tick: float | None = None
        self._started = 0  # counts messages and control frames, so that `tick` sees whether a new one has begun
        self._unfinished: tuple[int, float] | None = None  # which message is unfinished, and since when

    def use_limits(self, options: Options) -> None:
        """Use other limits for received messages from now on; the compression stays that of the handshake."""
        self._options = options
        self._max_frame = min(options.max_frame_size or _ANY_SIZE, options.max_message_size, _ANY_SIZE)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, inflate: int = _ANY_SIZE, messages: int = _ANY_NUMBER) -> list[Received]:
        """Handle bytes from the peer, and return the events they cause.

        A call does a bounded amount of work, so that one large read can neither fill the memory nor block the event
        loop. It leaves the rest of the bytes for the next call, and sets `has_more`.

        Args:
            data: the bytes; empty to continue with what an earlier call left.
            inflate: bytes to which compressed messages may inflate in this call. The last message may exceed it.
            messages: events that this call may return, apart from the end of a message that an earlier call began. It
                reads at most four times as many fragments and control frames.

        Returns:
            messages (`str`, `bytes`), `PongReceived`, and at most one `Ended`, which is the last event. No input of a
            peer raises an exception.
        """
        events: list[Received] = []
        if self.state is _CLOSED:
            return events
        self.has_more = False
        self._inflate_budget = inflate if self.state is _OPEN else self._inflate_budget
        self._frames_left = (messages if 0 <= messages < _ANY_NUMBER else _ANY_NUMBER) * _FRAMES_A_MESSAGE
        try:
            self._read(data, events, messages)
            if self.state is _CLOSING and self._inflate_budget <= 0:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "too much data after the close frame")
        except ProtocolError as exc:
            events.append(self._fail(exc.code, exc.reason))
        except UnicodeDecodeError:
            events.append(self._fail(CloseCode.INVALID_PAYLOAD, INVALID_UTF8))
        return events

    def _read(self, data: bytes, events: list[Received], room: int) -> None:  # noqa: C901 - one loop; a call costs as much as a frame
        position = 0
        if self._tail:
            position = 0 if data else self._tail_start
            data = self._tail[self._tail_start :] + data if data else self._tail
            self._tail = b""
        if self._wsproto_remaining:
            position = self._feed_wsproto(data, position, self._wsproto_remaining, events)
        elif self._partial is not None and self._partial.remaining:
            position = self._continue_frame(data, position, events)
        end = len(data)
        reading = self._inflate_budget > 0 and self.state is not _CLOSED
        while reading and end - position >= 2 and len(events) < room:
            first = data[position]
            second = data[position + 1]
            kind = first & self._kind_bits
            if (kind != 0x81 and kind != 0x82) or second & 0x80 != self._mask_bit or self._partial is not None:
                stop = self._read_other(data, position, events)
                if stop < 0:
                    break  # the header has not arrived completely
                position = stop
                reading = self._inflate_budget > 0 and self._frames_left > 0 and self.state is not _CLOSED
                continue
            size = second & 0x7F
            start = position + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = long_size(data, position)
            if size > self._max_frame and not self._fits(first, size):
                position = self._read_by_wsproto(data, position, WRONG_SIZE, events)
                reading = self.state is not _CLOSED
                continue
            start += self._mask_bit >> 5  # four bytes of key, if there is one
            stop = start + size
            if stop > end:
                if start > end:
                    break
                self._started += 1
                position = self._begin_frame(first, size, data, start, events)
                break
            if first != kind:  # a compressed message: RSV1 is set
                message = self._inflate(first, data, start, stop)
                reading = self._inflate_budget > 0
            elif not self._mask_bit:
                message = data[start:stop].decode() if kind == 0x81 else data[start:stop]
            elif kind == 0x81:
                message = unmask_text(data, start, stop)
            else:
                message = unmask(data, start, stop)
            position = stop
            if self.state is _OPEN:
                events.append(message)
        if position < end and self.state is not _CLOSED:
            self.has_more = end - position >= 2 and not (reading and len(events) < room)
            self._tail = data if self.has_more else data[position:]
            self._tail_start = position if self.has_more else 0

    def _fits(self, first: int, size: int) -> bool:
        """Return whether the length of a frame is valid, and small enough.

        Raises:
            ProtocolError: the frame, or the message, is larger than allowed.
        """
        if size == WRONG_SIZE:
            return False  # the wsproto path, or the limit in it, says what is wrong
        options = self._options
        if options.max_frame_size is not None and size > options.max_frame_size:
            reason = f"the frame is larger than {options.max_frame_size} bytes"
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, reason)
        if size > options.max_message_size and not first & RSV1 and self._partial is None:
            reason = f"the message is larger than {options.max_message_size} bytes"
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, reason)
        return True

    def _inflate(self, first: int, data: bytes, start: int, stop: int) -> str | bytes:
        assert self._deflate is not None
        payload = unmask(data, start, stop) if self._mask_bit else data[start:stop]
        payload = self._deflate.decompress(payload, self._options.max_message_size, True)
        self._inflate_budget -= len(payload)
        return payload.decode() if first & TEXT else payload

    # -- partial frames and fragments ----------------------------------------------------------------------------------

    def _read_other(self, data: bytes, position: int, events: list[Received]) -> int:
        """Read a frame that is not a whole message, or the part of it that has arrived.

        Returns:
            the position after what was read; -1 if the header of a data frame has not arrived completely.
        """
        first, second = data[position], data[position + 1]
        self._frames_left -= 1
        if first & 0x0F >= CLOSE:
            stop = self._read_control(data, position, events)
            size = second & 0x7F
            if stop <= 0:
                stop = self._read_by_wsproto(data, position, size if size < 126 else WRONG_SIZE, events)
            return stop
        if self._partial is None:
            kind = first & self._kind_bits
            is_fragment = TEXT <= kind <= BINARY
        else:
            is_fragment = first & ~FIN == 0
        if not is_fragment or second & 0x80 != self._mask_bit:
            return self._read_by_wsproto(data, position, WRONG_SIZE, events)
        size = second & 0x7F
        start = position + 2
        if size >= 126:
            start += 2 if size == 126 else 8
            if start > len(data):
                return -1
            size = long_size(data, position)
        if size > self._max_frame and not self._fits(first, size):
            return self._read_by_wsproto(data, position, WRONG_SIZE, events)
        start += self._mask_bit >> 5
        if start > len(data):
            return -1
        self._started += self._partial is None
        return self._begin_frame(first, size, data, start, events)

    def _begin_frame(self, first: int, size: int, data: bytes, start: int, events: list[Received]) -> int:
        if self._partial is None:
            self._partial = PartialMessage(first, size, self._options, self._deflate)
        self._partial.begin_frame(first, size, data[start - 4 : start] if self._mask_bit else b"")
        return self._continue_frame(data, start, events)

    def _continue_frame(self, data: bytes, start: int, events: list[Received]) -> int:
        message = self._partial
        assert message is not None
        position = message.receive(data, start)
        if message.is_last_frame and not message.remaining:
            self._partial = None
            if self.state is _OPEN:
                events.append(message.message())
            self._inflate_budget -= message.inflated
        return position

    # -- control frames ------------------------------------------------------------------------------------------------

    def _read_control(self, data: bytes, position: int, events: list[Received]) -> int:
        """Read a ping, a pong or a usual close frame that has arrived completely.

        Returns:
            the position after the frame, or 0 if the frame is another one.
        """
        first, second = data[position], data[position + 1]
        size = second & 0x7F
        start = position + 2 + (self._mask_bit >> 5)
        complete = size < 126 and start + size <= len(data)
        if first < FIN | CLOSE or first > FIN | PONG or second & 0x80 != self._mask_bit or not complete:
            return 0
        stop = start + size
        payload = unmask(data, start, stop) if self._mask_bit else data[start:stop]
        if first == FIN | CLOSE:
            if payload not in _USUAL_CLOSES:
                return 0
            self._reply_close(payload, events)
            return stop
        self._started += self._partial is None
        if self._count_control(first & 0x0F) and first == FIN | PING:
            self._queue_pong(payload)
        elif first == FIN | PONG:
            events.append(PongReceived(payload))
        return stop

    def _queue_pong(self, payload: bytes) -> None:
        if self.state is _OPEN:
            if self._pongs is None:
                self._pongs = deque(maxlen=MAX_PENDING_PONGS)
            self._pongs.append(payload)
            self.has_pongs = True

    def _reply_close(self, payload: bytes, events: list[Received]) -> None:
        reply = b""
        if self.state is _OPEN:
            reply = self.take_pongs() + self._frame(FIN | CLOSE, payload)
        self._enter_closed()
        code = int.from_bytes(payload, "big") if payload else CloseCode.NO_STATUS_RECEIVED
        events.append(Ended(int(code), "", True, reply))

    def _count_control(self, opcode: int) -> bool:
        if opcode == PONG and self._pongs_due:
            self._pongs_due -= 1
        elif opcode != CLOSE:
            self._control_budget -= 1
            if self._control_budget < 0:
                raise ProtocolError(CloseCode.POLICY_VIOLATION, TOO_MANY_CONTROL_FRAMES)
            if self.control_limit is not None and self.state is _OPEN:
                return self.control_limit()
        return True

    # -- the wsproto path --------------------------------------------------------------------------------------------

    def _read_by_wsproto(self, data: bytes, position: int, size: int, events: list[Received]) -> int:
        """Pass the next frame to wsproto: a control frame, or a malformed frame.

        Args:
            data: the bytes that have arrived.
            position: where the frame begins.
            size: bytes of payload of a control frame. `WRONG_SIZE` for a frame that wsproto refuses by its header;
                should it not, the frame is too long ever to end.
            events: events are added to it.

        Returns:
            the position after what was passed, at most the end of the data.
        """
        first, second = data[position], data[position + 1]
        is_fragmented = self._partial is not None
        self._started += not is_fragmented
        is_within = first & 0x0F < CLOSE or self._count_control(first & 0x0F)
        size = _ANY_SIZE if size == WRONG_SIZE else 2 + (second >> 7) * 4 + size
        self._wsproto = WsprotoPath(
            self._options, client=self.client, has_deflate=self._deflate is not None, is_fragmented=is_fragmented
        )
        self._wsproto.answers_pings = is_within
        return self._feed_wsproto(data, position, size, events)

    def _feed_wsproto(self, data: bytes, position: int, size: int, events: list[Received]) -> int:
        """Pass the next `size` bytes to wsproto, or as many of them as have arrived; the others follow later."""
        chunk = data[position : position + size]
        self._wsproto_remaining = size - len(chunk)
        assert self._wsproto is not None
        for event in self._wsproto.receive(chunk):
            if isinstance(event, PingReceived):
                self._queue_pong(event.payload)
            elif isinstance(event, PongReceived):
                events.append(event)
            else:
                reply = self.take_pongs() + event.reply if self.state is _OPEN else b""
                self._enter_closed()
                events.append(Ended(event.code, event.reason, True, reply))
                break
        if not self._wsproto_remaining:
            self._wsproto = None
        return position + len(chunk)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _fail(self, code: int, reason: str) -> Ended:
        reply = b""
        if self.state is _OPEN:
            reply = self.take_pongs() + failure_frame(code, reason, client=self.client)
        self._enter_closed()
        return Ended(code, reason, False, reply)

    def _enter_closed(self) -> None:
        self.state = _CLOSED
        self.has_more = self.has_pongs = False
        self._tail = b""
        self._wsproto_remaining = 0
        self._partial = self._wsproto = self._deflate = self._pongs = None

    def close(self, code: int, reason: str) -> bytes:
        """Begin the close handshake.

        Args:
            code: the close code.
            reason: the close reason; `check_close` must have accepted both.

        Returns:
            the pongs that were due and the close frame; b"" if the close handshake began before.
        """
        if self.state is not _OPEN:
            return b""
        frame = self._frame(FIN | CLOSE, code.to_bytes(2, "big") + reason.encode())
        self.state = _CLOSING
        self._inflate_budget = min(_MESSAGES_AFTER_CLOSE * self._options.max_message_size, _ANY_SIZE)
        return self.take_pongs() + frame

    def abandon(self) -> None:
        """Enter the state CLOSED, because the transport is lost."""
        self._enter_closed()

    @property
    def is_unfinished(self) -> bool:
        """Whether a message or a frame has arrived in part."""
        return self._partial is not None or self._wsproto_remaining > 0

    def tick(self, now: float, *, paused: bool = False) -> Ended | None:
        """Refill the budget for control frames, and fail a connection whose message takes too long.

        Args:
            now: seconds of any monotonic clock.
            paused: reading from the peer is paused, so an unfinished message is not the peer's fault.

        Returns:
            the end of the connection, or None.
        """
        if self._last_tick is not None:
            earned = (now - self._last_tick) * self._options.control_frames_per_second
            self._control_budget = min(self._options.control_frames_burst, self._control_budget + earned)
        self._last_tick = now
        if paused or self.has_more or not self.is_unfinished:
            self._unfinished = None
        elif self._unfinished is None or self._unfinished[0] != self._started:
            self._unfinished = (self._started, now)
        elif now - self._unfinished[1] >= self._options.message_timeout and self.state is _OPEN:
            return self._fail(CloseCode.POLICY_VIOLATION, MESSAGE_TIMEOUT)
        return None

    # -- sending -----------------------------------------------------------------------------------------------------

    def ping(self, payload: bytes) -> bytes:
        """Return a ping frame with a payload of at most 125 bytes; its pong does not count against the budget."""
        self._pongs_due += 1
        return self._frame(FIN | PING, payload)

    def take_pongs(self) -> bytes:
        """Return the frames of all queued pongs, and clear the queue."""
        pongs, self._pongs = self._pongs, None
        self.has_pongs = False
        return b"".join([self._frame(FIN | PONG, payload) for payload in pongs or ()])
