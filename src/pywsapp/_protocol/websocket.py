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
arrives. It finds, unmasks and decodes them in one pass. When only a part of such a frame has arrived, a `PartialFrame`
consumes the payload as it comes. The fast path also reads complete pings and pongs, because after a round of pings as
many pongs arrive at once as there are connections, and the usual close frames.

The *wsproto path*, `WsprotoPath`, reads everything else, cut at frame boundaries: fragments, unusual close frames, and
malformed input.

Both paths must be indistinguishable: the same messages and the same close codes, however the bytes are cut. A property
test compares them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pywsapp._protocol.events import Ended, PongReceived, Received, State
from pywsapp._protocol.frame_assembly import PartialFrame
from pywsapp._protocol.frames import WRONG_SIZE, long_size, unmask, unmask_text
from pywsapp._protocol.opcodes import BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT
from pywsapp._protocol.sending import Sender
from pywsapp._protocol.wsproto_path import INVALID_UTF8, PingReceived, WsprotoPath, failure_frame
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp.options import Options

#: Of more pings at once only the newest are answered (RFC 6455 section 5.5.3); Autobahn expects ten.
MAX_PENDING_PONGS = 16

# Messages after our close frame are inflated, because later ones may refer to them, and then dropped. This bounds
# them, in messages of the largest size.
_MESSAGES_AFTER_CLOSE = 16
_USUAL_CLOSES = frozenset({b"", b"\x03\xe8", b"\x03\xe9"})  # no code, 1000 and 1001: all that browsers send
_ANY_SIZE = (1 << 62) - 1

_OPEN, _CLOSING, _CLOSED = State  # an attribute of an Enum costs as much as a frame in the innermost loop


class WebSocket(Sender):
    """The protocol of one WebSocket after its handshake, in either role.

    Attributes:
        state: how far the close handshake is.
        has_more: `receive` left whole frames for its next call.
        has_pongs: pongs wait for `take_pongs`.

    Args:
        client: True for the client role; clients mask their frames.
        options: the limits.
        deflate: the negotiated parameters of permessage-deflate, or None without it.
    """

    __slots__ = (
        "_control_budget",
        "_fragmented",
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
        "_unfinished",
        "_wsproto",
        "_wsproto_remaining",
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
        self._max_frame = min(options.max_frame_size or _ANY_SIZE, options.max_message_size, _ANY_SIZE)
        self._inflate_budget = 0  # bytes that compressed messages may still inflate to
        self._tail = b""  # input that is not read yet
        self._partial: PartialFrame | None = None
        self._wsproto: WsprotoPath | None = None
        self._wsproto_remaining = 0  # bytes of a frame that the wsproto path still expects
        self._fragmented = False  # a fragmented message has begun
        self._pongs: deque[bytes] | None = None
        self._pongs_due = 0  # pongs that the peer owes for our pings
        self._control_budget = float(options.control_frames_burst)
        self._last_tick: float | None = None
        self._started = 0  # counts messages and control frames, so that `tick` sees whether a new one has begun
        self._unfinished: tuple[int, float] | None = None  # which message is unfinished, and since when

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, inflate: int = _ANY_SIZE) -> list[Received]:
        """Handle bytes from the peer, and return the events they cause.

        Args:
            data: the bytes; empty to continue with what an earlier call left.
            inflate: bytes to which compressed messages may inflate in this call. The rest is left for the next call, so
                that one large read cannot fill the memory. The last message may exceed the number.

        Returns:
            messages (`str`, `bytes`), `PongReceived`, and at most one `Ended`, which is the last event. No input of a
            peer raises an exception.
        """
        events: list[Received] = []
        if self.state is _CLOSED:
            return events
        self.has_more = False
        self._inflate_budget = inflate if self.state is _OPEN else self._inflate_budget
        try:
            self._read(data, events)
            if self.state is _CLOSING and self._inflate_budget <= 0:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "too much data after the close frame")
        except ProtocolError as exc:
            events.append(self._fail(exc.code, exc.reason))
        except UnicodeDecodeError:
            events.append(self._fail(CloseCode.INVALID_PAYLOAD, INVALID_UTF8))
        if self._wsproto is not None and not self._fragmented and not self._wsproto_remaining and self.state is _OPEN:
            self._wsproto = None
        return events

    def _read(self, data: bytes, events: list[Received]) -> None:  # noqa: C901 - one loop; a call costs as much as a frame
        if self._tail:
            data = self._tail + data
            self._tail = b""
        position = 0
        if self._partial is not None:
            position = self._continue_frame(data, events)
        elif self._wsproto_remaining:
            position = self._feed_wsproto(data, 0, self._wsproto_remaining, events)
        end = len(data)
        reading = self._inflate_budget > 0 and self.state is not _CLOSED
        while reading and end - position >= 2:
            first = data[position]
            second = data[position + 1]
            kind = first & self._kind_bits
            if (kind != 0x81 and kind != 0x82) or second & 0x80 != self._mask_bit or self._fragmented:
                stop = self._read_control(data, position, events)
                position = stop if stop > 0 else self._read_by_wsproto(data, position, events)
                reading = position >= 0 and self._inflate_budget > 0 and self.state is not _CLOSED
                continue
            size = second & 0x7F
            start = position + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = long_size(data, position)
            if size > self._max_frame and not self._fits(first, size):
                position = self._read_by_wsproto(data, position, events)
                reading = self.state is not _CLOSED
                continue
            start += self._mask_bit >> 5  # four bytes of key, if there is one
            stop = start + size
            if stop > end:
                if start > end:
                    break
                self._begin_frame(first, size, data, start)
                return
            if first & RSV1:
                message = self._inflate(first, data, start, stop)
                reading = self._inflate_budget > 0
            elif not self._mask_bit:
                message = data[start:stop].decode() if first & TEXT else data[start:stop]
            elif first & TEXT:
                message = unmask_text(data, start, stop)
            else:
                message = unmask(data, start, stop)
            position = stop
            if self.state is _OPEN:
                events.append(message)
        if 0 <= position < end and self.state is not _CLOSED:
            self._tail = data[position:]
            self.has_more = self._inflate_budget <= 0 and end - position >= 2

    def _fits(self, first: int, size: int) -> bool:
        """Return whether a frame is small enough for the fast path.

        Raises:
            ProtocolError: the frame is larger than a message may be.
        """
        limit = self._options.max_message_size
        if size == WRONG_SIZE or size > (self._options.max_frame_size or _ANY_SIZE):
            return False  # the wsproto path, or the limits in it, says what is wrong
        if size > limit and not first & RSV1:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"the message is larger than {limit} bytes")
        return True

    def _inflate(self, first: int, data: bytes, start: int, stop: int) -> str | bytes:
        assert self._deflate is not None
        payload = unmask(data, start, stop) if self._mask_bit else data[start:stop]
        payload = self._deflate.decompress(payload, self._options.max_message_size, True)
        self._inflate_budget -= len(payload)
        return payload.decode() if first & TEXT else payload

    def _begin_frame(self, first: int, size: int, data: bytes, start: int) -> None:
        self._started += 1
        mask = data[start - 4 : start] if self._mask_bit else b""
        self._partial = PartialFrame(first, mask, size, self._options.max_message_size, self._deflate)
        self._partial.receive(data, start)

    def _continue_frame(self, data: bytes, events: list[Received]) -> int:
        frame = self._partial
        assert frame is not None
        position = frame.receive(data, 0)
        if not frame.remaining:
            self._partial = None
            if self.state is _OPEN:
                events.append(frame.message())
            self._inflate_budget -= frame.inflated
        return position

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
        self._started += not self._fragmented
        self._count_control(first & 0x0F)
        if first == FIN | PONG:
            events.append(PongReceived(payload))
        else:
            self._queue_pong(payload)
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

    def _count_control(self, opcode: int) -> None:
        if opcode == PONG and self._pongs_due:
            self._pongs_due -= 1
        elif opcode != CLOSE:
            self._control_budget -= 1
            if self._control_budget < 0:
                raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many control frames")

    # -- the wsproto path --------------------------------------------------------------------------------------------

    def _read_by_wsproto(self, data: bytes, position: int, events: list[Received]) -> int:
        """Pass the next frame to wsproto.

        Returns:
            the position after what was passed, at most the end of the data; -1 if the length of the frame has not
            arrived completely. The data is then kept for the next call.
        """
        first, second = data[position], data[position + 1]
        size = second & 0x7F
        start = position + 2
        if size >= 126:
            start += 2 if size == 126 else 8
            if first & 0x0F <= BINARY:
                if start > len(data):
                    self._tail = data[position:]
                    return -1
                size = long_size(data, position)
            else:
                size = WRONG_SIZE  # for a control frame
        self._begin_wsproto_frame(first)
        # wsproto refuses an invalid length by the header. Should it not, the frame is too long ever to end.
        size = _ANY_SIZE if size == WRONG_SIZE else start - position + (second >> 7) * 4 + size
        return self._feed_wsproto(data, position, size, events)

    def _begin_wsproto_frame(self, first: int) -> None:
        opcode = first & 0x0F
        if not self._fragmented:
            self._started += 1
        if opcode < CLOSE:
            self._fragmented = not first & FIN
        else:
            self._count_control(opcode)

    def _feed_wsproto(self, data: bytes, position: int, size: int, events: list[Received]) -> int:
        """Pass the next `size` bytes to wsproto, or as many of them as have arrived; the others follow later."""
        chunk = data[position : position + size]
        self._wsproto_remaining = size - len(chunk)
        path = self._wsproto_path()
        for event in path.receive(chunk):
            if isinstance(event, (str, bytes)):
                if self._deflate is not None:
                    self._inflate_budget -= path.message_size
                if self.state is _OPEN:
                    events.append(event)
            elif isinstance(event, PingReceived):
                self._queue_pong(event.payload)
            elif isinstance(event, PongReceived):
                events.append(event)
            else:
                reply = self.take_pongs() + event.reply if self.state is _OPEN else b""
                self._enter_closed()
                events.append(Ended(event.code, event.reason, True, reply))
                break
        return position + len(chunk)

    def _wsproto_path(self) -> WsprotoPath:
        if self._wsproto is None:
            self._wsproto = WsprotoPath(self._options, self._deflate, client=self.client)
        return self._wsproto

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
        unfinished = self._partial is not None or self._fragmented or self._wsproto_remaining
        if paused or self.has_more or not unfinished:
            self._unfinished = None
        elif self._unfinished is None or self._unfinished[0] != self._started:
            self._unfinished = (self._started, now)
        elif now - self._unfinished[1] >= self._options.message_timeout and self.state is _OPEN:
            return self._fail(CloseCode.POLICY_VIOLATION, "a message stayed unfinished for too long")
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
