"""The protocol of an open WebSocket, sans-IO: bytes in, events out; frames for what is to be sent.

Theory

Two lanes read the same bytes.

The *fast lane* takes data frames that are a whole message by themselves and stand between messages: nearly all that
ever arrives. Its frames are found, unmasked and decoded in one pass. A frame that has only arrived in part is
consumed as it comes (`PartialFrame`). Pings and pongs that are there as a whole are taken here as well: after a sweep
of pings, as many pongs come at once as there are connections.

The *slow lane* is wsproto's `Connection` (`WsprotoPath`). Everything else goes there, cut at frame boundaries:
fragments, the closing handshake, and whatever is malformed.

Both lanes must be indistinguishable: same messages, same close codes, at any cut of the bytes. A property test holds
them side by side.

States: OPEN until either side sends a close frame; CLOSING after ours, until the peer's; CLOSED after the peer's or
after an error. In CLOSED all input is ignored and nothing is kept. Time is only known through `tick`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pywsapp._protocol.events import Ended, PongReceived, Received, State
from pywsapp._protocol.frame_assembly import PartialFrame
from pywsapp._protocol.frames import (
    WRONG_SIZE,
    long_size,
    unmask,
    unmask_text,
)
from pywsapp._protocol.opcodes import BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT
from pywsapp._protocol.sending import Sender
from pywsapp._protocol.wsproto_path import INVALID_UTF8, PingReceived, WsprotoPath, failure_frame
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp.options import Options

#: Of more pings at once only the newest are answered (RFC 6455 section 5.5.3); Autobahn wants ten.
MAX_PENDING_PONGS = 16

_MESSAGES_BEHIND_CLOSE = 16  # of the largest size: inflated, since others may refer to them, and dropped
_USUAL_CLOSES = frozenset({b"", b"\x03\xe8", b"\x03\xe9"})  # no code, 1000 and 1001: all that browsers send
_ANY_SIZE = (1 << 62) - 1


_OPEN, _CLOSING, _CLOSED = State  # in the innermost loop an attribute of an Enum would cost as much as a frame


class WebSocket(Sender):
    """The state of one WebSocket after its handshake, for either role.

    Attributes:
        state: how far the close handshake is.
        has_more: `receive` left whole frames for its next call.
        has_pongs: `take_pongs` has something to give.

    Args:
        client: the role: clients mask what they send.
        options: the limits.
        deflate: what was negotiated for permessage-deflate, None for nothing.
    """

    __slots__ = (
        "_any_rsv",
        "_arriving",
        "_control_budget",
        "_fragmented",
        "_last_tick",
        "_mask_bit",
        "_max_frame",
        "_pongs",
        "_pongs_due",
        "_slow",
        "_slow_remaining",
        "_started",
        "_tail",
        "_to_inflate",
        "_unfinished",
        "has_more",
        "has_pongs",
        "state",
    )

    def __init__(self, *, client: bool, options: Options, deflate: DeflateParameters | None = None) -> None:
        super().__init__(client=client, options=options, deflate=deflate)
        self.state = _OPEN
        self.has_more = False
        self.has_pongs = False
        self._to_inflate = 0
        self._mask_bit = 0 if client else 0x80
        self._any_rsv = 0xFF if self._deflate is None else 0xFF & ~RSV1  # what tells whole frames from others
        self._max_frame = min(options.max_frame_size or _ANY_SIZE, options.max_message_size, _ANY_SIZE)
        self._tail = b""
        self._arriving: PartialFrame | None = None
        self._slow: WsprotoPath | None = None
        self._slow_remaining = 0
        self._fragmented = False
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
        if self.state is _CLOSED:
            return events
        self.has_more = False
        self._to_inflate = inflate if self.state is _OPEN else self._to_inflate
        try:
            self._read(data, events)
            if self.state is _CLOSING and self._to_inflate <= 0:
                raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "too much came behind the close frame")
        except ProtocolError as exc:
            events.append(self._failed(exc.code, exc.reason))
        except UnicodeDecodeError:
            events.append(self._failed(CloseCode.INVALID_PAYLOAD, INVALID_UTF8))
        if self._slow is not None and not self._fragmented and not self._slow_remaining and self.state is _OPEN:
            self._slow = None
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
        end = len(data)
        going = self._to_inflate > 0 and self.state is not _CLOSED
        while going and end - position >= 2:
            first = data[position]
            second = data[position + 1]
            kind = first & self._any_rsv
            if (kind != 0x81 and kind != 0x82) or second & 0x80 != self._mask_bit or self._fragmented:
                stop = self._read_control(data, position, events)
                position = stop if stop > 0 else self._read_slowly(data, position, events)
                going = position >= 0 and self._to_inflate > 0 and self.state is not _CLOSED
                continue
            size = second & 0x7F
            start = position + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = long_size(data, position)
            if size > self._max_frame and not self._fits(first, size):
                position = self._read_slowly(data, position, events)
                going = self.state is not _CLOSED
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
                going = self._to_inflate > 0
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
            self.has_more = self._to_inflate <= 0 and end - position >= 2

    def _fits(self, first: int, size: int) -> bool:
        """Tell whether a frame is small enough for the fast lane.

        Raises:
            ProtocolError: it is more than a message may have.
        """
        limit = self._options.max_message_size
        if size == WRONG_SIZE or size > (self._options.max_frame_size or _ANY_SIZE):
            return False  # wsproto, or the guard in it, says why
        if size > limit and not first & RSV1:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"the message is larger than {limit} bytes")
        return True

    def _inflate(self, first: int, data: bytes, start: int, stop: int) -> str | bytes:
        assert self._deflate is not None
        payload = unmask(data, start, stop) if self._mask_bit else data[start:stop]
        payload = self._deflate.decompress(payload, self._options.max_message_size, True)
        self._to_inflate -= len(payload)
        return payload.decode() if first & TEXT else payload

    def _begin_frame(self, first: int, size: int, data: bytes, start: int) -> None:
        self._started += 1
        mask = data[start - 4 : start] if self._mask_bit else b""
        self._arriving = PartialFrame(first, mask, size, self._options.max_message_size, self._deflate)
        self._arriving.receive(data, start)

    def _continue_frame(self, data: bytes, events: list[Received]) -> int:
        frame = self._arriving
        assert frame is not None
        position = frame.receive(data, 0)
        if not frame.remaining:
            self._arriving = None
            if self.state is _OPEN:
                events.append(frame.message())
            self._to_inflate -= frame.inflated
        return position

    def _read_control(self, data: bytes, position: int, events: list[Received]) -> int:
        """Take a ping, a pong or a usual close frame that is there as a whole; give where it ends, 0 if it is none."""
        first, second = data[position], data[position + 1]
        size = second & 0x7F
        start = position + 2 + (self._mask_bit >> 5)
        whole = size < 126 and start + size <= len(data)
        if first < FIN | CLOSE or first > FIN | PONG or second & 0x80 != self._mask_bit or not whole:
            return 0
        stop = start + size
        payload = unmask(data, start, stop) if self._mask_bit else data[start:stop]
        if first == FIN | CLOSE:
            if payload not in _USUAL_CLOSES:
                return 0
            self._take_close(payload, events)
            return stop
        self._started += not self._fragmented
        self._count_control(first & 0x0F)
        if first == FIN | PONG:
            events.append(PongReceived(payload))
        else:
            self._take_ping(payload)
        return stop

    def _take_ping(self, payload: bytes) -> None:
        if self.state is _OPEN:
            if self._pongs is None:
                self._pongs = deque(maxlen=MAX_PENDING_PONGS)
            self._pongs.append(payload)
            self.has_pongs = True

    def _take_close(self, payload: bytes, events: list[Received]) -> None:
        reply = b""
        if self.state is _OPEN:
            reply = self.take_pongs() + self._frame(FIN | CLOSE, payload)
        self._end()
        code = int.from_bytes(payload, "big") if payload else CloseCode.NO_STATUS_RECEIVED
        events.append(Ended(int(code), "", True, reply))

    def _count_control(self, opcode: int) -> None:
        if opcode == PONG and self._pongs_due:
            self._pongs_due -= 1
        elif opcode != CLOSE:
            self._control_budget -= 1
            if self._control_budget < 0:
                raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many control frames")

    # -- the slow lane -----------------------------------------------------------------------------------------------

    def _read_slowly(self, data: bytes, position: int, events: list[Received]) -> int:
        """Give wsproto the next frame.

        Returns:
            Where it ends, at most the end of the data; -1 while its length is not there yet, with the data kept.
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
        self._begin_slow(first)
        # wsproto refuses a length that must not be; or it is one that nobody lives to see the end of.
        size = _ANY_SIZE if size == WRONG_SIZE else start - position + (second >> 7) * 4 + size
        return self._feed_slow(data, position, size, events)

    def _begin_slow(self, first: int) -> None:
        opcode = first & 0x0F
        if not self._fragmented:
            self._started += 1
        if opcode < CLOSE:
            self._fragmented = not first & FIN
        else:
            self._count_control(opcode)

    def _feed_slow(self, data: bytes, position: int, size: int, events: list[Received]) -> int:
        """Give wsproto the next `size` bytes, or what is there of them; the rest goes to it when it comes."""
        chunk = data[position : position + size]
        self._slow_remaining = size - len(chunk)
        lane = self._slow_lane()
        for event in lane.receive(chunk):
            if isinstance(event, (str, bytes)):
                if self._deflate is not None:
                    self._to_inflate -= lane.message_size
                if self.state is _OPEN:
                    events.append(event)
            elif isinstance(event, PingReceived):
                self._take_ping(event.payload)
            elif isinstance(event, PongReceived):
                events.append(event)
            else:
                reply = self.take_pongs() + event.reply if self.state is _OPEN else b""
                self._end()
                events.append(Ended(event.code, event.reason, True, reply))
                break
        return position + len(chunk)

    def _slow_lane(self) -> WsprotoPath:
        if self._slow is None:
            self._slow = WsprotoPath(self._options, self._deflate, client=self.client)
        return self._slow

    # -- ending ------------------------------------------------------------------------------------------------------

    def _failed(self, code: int, reason: str) -> Ended:
        reply = b""
        if self.state is _OPEN:
            reply = self.take_pongs() + failure_frame(code, reason, client=self.client)
        self._end()
        return Ended(code, reason, False, reply)

    def _end(self) -> None:
        self.state = _CLOSED
        self.has_more = self.has_pongs = False
        self._tail = b""
        self._slow_remaining = 0
        self._arriving = self._slow = self._deflate = self._pongs = None

    def close(self, code: int, reason: str) -> bytes:
        """Begin the close handshake and give the close frame, after pongs that were due; b"" if it began before.

        The code and the reason must have passed `check_close`. Messages that still arrive are dropped.
        """
        if self.state is not _OPEN:
            return b""
        frame = self._frame(FIN | CLOSE, code.to_bytes(2, "big") + reason.encode())
        self.state = _CLOSING
        self._to_inflate = min(_MESSAGES_BEHIND_CLOSE * self._options.max_message_size, _ANY_SIZE)
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
        elif now - self._unfinished[1] >= self._options.message_timeout and self.state is _OPEN:
            return self._failed(CloseCode.POLICY_VIOLATION, "a message stayed unfinished for too long")
        return None

    # -- sending -----------------------------------------------------------------------------------------------------

    def ping(self, payload: bytes) -> bytes:
        """Give the frame of a ping with at most 125 bytes; its pong will not count against the budget."""
        self._pongs_due += 1
        return self._frame(FIN | PING, payload)

    def take_pongs(self) -> bytes:
        """Give the pongs that are to be sent, and forget them."""
        pongs, self._pongs = self._pongs, None
        self.has_pongs = False
        return b"".join([self._frame(FIN | PONG, payload) for payload in pongs or ()])
