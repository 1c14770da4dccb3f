"""The frames of one connection that wait to be sent, and how they leave.

`send` encodes a message and appends its frame; it does no I/O. The flusher calls `flush` for all outboxes that were
filled during a turn of the event loop, at its end: one write for each. While the transport has more than
`Options.high_water` bytes queued, frames stay here; when the outbox is full, `Options.slow_consumer` decides.

Frames stay whole here, so that they can still be dropped: half of what a transport has taken can be on the wire
already. That is why a transport never gets much more than it is willing to queue, and a large frame leaves in pieces
(`LargeWrite`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel

from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, LazyCoroutine
from pywsapp._outbox.threads import current_thread, wrong_thread
from pywsapp._protocol.prepared import PreparedMessage, Sendable
from pywsapp._protocol.sending import LARGE
from pywsapp._protocol.websocket import WebSocket
from pywsapp._transports.large_write import PIECE, LargeWrite, copies
from pywsapp.options import Options, SlowConsumer

if TYPE_CHECKING:
    from pywsapp._transports.base import Transport

_VERSION = sys.version_info[:3]
#: In CPython 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 `writelines` of asyncio's transports never pauses the writer
#: (CVE-2024-12254): a peer that does not read could fill the memory.
WRITELINES_PAUSES = not ((3, 12, 0) <= _VERSION < (3, 12, 9) or (3, 13, 0) <= _VERSION < (3, 13, 2))

#: A frame is one piece of bytes; a large one is a pair, its head and its payload, which saves a copy.
Frame = bytes | tuple[bytes, bytes]


class Flusher:
    """Flushes outboxes at the end of the event loop's turn; a base class.

    Made in the thread of the event loop.

    Attributes:
        filled: the outboxes to flush.
        thread: the number of the thread that may use the connections.
    """

    __slots__ = ("filled", "thread")

    def __init__(self) -> None:
        self.filled: list[Outbox] = []
        self.thread = current_thread()

    def add(self, outbox: Outbox) -> None:
        """Flush an outbox at the end of this turn."""
        if not self.filled:
            self.schedule()
        self.filled.append(outbox)

    def schedule(self) -> None:
        """Arrange that the outboxes in `filled` are flushed; called for the first of them."""
        raise NotImplementedError


class OutboxOwner(Protocol):
    """The owner of an outbox, which gets its reports: the lifecycle of its connection."""

    def outbox_overflowed(self, queued: int) -> None:
        """Close the connection, because its peer reads too slowly; `queued` bytes were waiting."""

    def outbox_emptied(self) -> None:
        """Handle that the last frame has gone to the transport."""

    def abort(self) -> None:
        """Drop the connection, because flushing failed."""


class Outbox:
    """The outgoing side of one connection.

    Args:
        owner: the lifecycle of the connection.
        ws: encodes the messages.
        transport: takes the frames.
        flusher: calls `flush` at the end of the turn.
        options: the limits.

    Attributes:
        frames: the waiting frames, in the order of sending.
        size: their bytes.
        transport: the transport, or the `LargeWrite` that stands in for it.
        high_water: the bytes above which `send` waits; `Options.high_water`.
        is_open: whether messages are accepted; the lifecycle sets it from its state.
        is_writable: whether the transport takes more; otherwise it has more than `Options.high_water` bytes queued.
        reports_empty: whether the outbox calls `outbox_emptied` of the owner, once, when the last frame has gone.
    """

    __slots__ = (
        "_drained",
        "_flusher",
        "_is_lost",
        "_large",
        "_max_size",
        "_owner",
        "_policy",
        "_ws",
        "frames",
        "high_water",
        "is_open",
        "is_writable",
        "reports_empty",
        "size",
        "transport",
    )

    def __init__(
        self, owner: OutboxOwner, ws: WebSocket, transport: Transport, flusher: Flusher, options: Options
    ) -> None:
        self.frames: list[Frame] = []
        self.size = 0
        self.is_open = True
        self.is_writable = True
        self.reports_empty = False
        self._is_lost = False
        self._owner: OutboxOwner | None = owner
        self._ws = ws
        self.transport: Transport = transport
        self._large: LargeWrite | None = None
        self._flusher = flusher
        self.high_water = min(options.high_water, sys.maxsize)  # what the compiled build can hold
        self._max_size = min(options.max_outbox, sys.maxsize)
        self._policy = options.slow_consumer
        self._drained: anyio.Event | None = None

    # -- filling -----------------------------------------------------------------------------------------------------

    def send(self, message: Sendable | PreparedMessage, compress: bool | None) -> LazyCoroutine[None]:
        """Queue the frame of a message; see `Connection.send`."""
        if current_thread() != self._flusher.thread:
            raise wrong_thread("conn.send")
        if not self.is_open:
            return LazyAwaitable(self._wait_drained)
        frame: Frame
        if type(message) is bytes and len(message) >= LARGE:
            frame = self._ws.encode_large(message, compress)
            size = length(frame)
        else:
            frame = self._ws.encode(message, compress)
            size = len(frame)
        return ALREADY_DONE if self._queue(frame, size) else LazyAwaitable(self._wait_drained)

    def send_prepared(self, message: PreparedMessage) -> None:
        """Queue a message as `send` does, with nothing to await and no check of the thread; broadcasts call this."""
        if self.is_open:
            frame = self._ws.encode_prepared(message)
            self._queue(frame, len(frame))

    def add_last(self, frame: Frame) -> None:
        """Queue a close frame without a check of the limits, and wake the tasks that wait for space."""
        self.size += length(frame)
        self.frames.append(frame)
        self._flusher.add(self)
        self.wake()

    def check_thread(self, what: str) -> None:
        """Check that the caller runs in the thread of the event loop.

        Raises:
            ConfigurationError: it does not.
        """
        if current_thread() != self._flusher.thread:
            raise wrong_thread(what)

    def _queue(self, frame: Frame, size: int) -> bool:
        """Queue a frame, or apply the policy; return whether there is nothing to wait for."""
        if self.size + size > self._max_size and not self._make_room(size):
            return False
        traffic = self._ws.traffic
        traffic.messages_sent += 1
        traffic.bytes_sent += size
        if not self.frames:
            self._flusher.add(self)
        self.frames.append(frame)
        self.size += size
        return self.is_writable and self.size <= self.high_water

    def _make_room(self, size: int) -> bool:
        """Make room for `size` more bytes, or apply the policy; return whether the frame may be queued."""
        self.flush()
        if not self.frames or self.size + size <= self._max_size:
            return True
        if self._policy is SlowConsumer.DROP_OLDEST:
            self.drop_oldest(self._max_size - size)
            return True
        traffic = self._ws.traffic
        traffic.messages_dropped += 1
        if self._policy is SlowConsumer.CLOSE:
            queued = self.buffered
            traffic.messages_dropped += len(self.frames)
            self.clear()
            if self._owner is not None:
                self._owner.outbox_overflowed(queued)
        return False

    # -- emptying ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write to the transport what it takes now: pongs first, then frames."""
        if self._is_lost:
            return
        pongs = self._ws.take_pongs() if self._ws.has_pongs else b""
        if not self.frames or not self.is_writable:
            if pongs:
                self.transport.write(pongs)
            if self.reports_empty:
                self._report_empty()
            return
        while self.frames and self.is_writable:
            limit = self.high_water
            if self.size - limit > limit:
                limit = self._limit_of_next_write()
            data = self.take(limit)
            if limit > self.high_water:
                self._write_large(pongs, data)
            elif isinstance(data, tuple):
                write_all(self.transport, (pongs, *data) if pongs else data)
            else:
                self.transport.write(pongs + data if pongs else data)
            pongs = b""
        if self.reports_empty:
            self._report_empty()

    def is_empty(self) -> bool:
        """Return whether the last frame has gone to the transport, all of its pieces included."""
        return not self.frames and self._large is None

    def _report_empty(self) -> None:
        if self.is_empty() and self._owner is not None:
            self.reports_empty = False
            self._owner.outbox_emptied()

    def _limit_of_next_write(self) -> int:
        """Return how many bytes to take from the front, so that a large frame is taken alone.

        A limit above `high_water` means that the first frame is a large one, which leaves in pieces.
        """
        largest = 2 * max(self.high_water, PIECE)
        if self.size <= largest or not copies(self.transport):
            return self.high_water
        size = 0
        for frame in self.frames:
            added = length(frame)
            if added > largest:
                return size or added
            size += added
            if size >= self.high_water:
                break
        return self.high_water

    def _write_large(self, pongs: bytes, frame: Frame) -> None:
        """Write a large frame in pieces, as many as the transport takes; `resume` goes on with the others."""
        size = max(self.high_water, PIECE)
        head, payload = frame if isinstance(frame, tuple) else (b"", frame)
        write_all(self.transport, (pongs + head, memoryview(payload)[:size]))
        self.transport = self._large = large = LargeWrite(self.transport, size)
        large.write(payload, start=size)
        self._send_pieces()

    def _send_pieces(self) -> None:
        large = self._large
        while large is not None and self.is_writable:
            if not large.send_piece():
                self.transport = large.transport
                self._large = large = None

    def pause(self) -> None:
        """Keep frames from now on: the transport has enough."""
        self.is_writable = False

    def resume(self) -> None:
        """Flush again, because the transport takes more.

        The owner gets the report that the outbox is empty at the end of the turn, and then closes the transport.
        asyncio's transports would end twice if they were closed in the call of `resume_writing`.
        """
        self.is_writable = True
        reports, self.reports_empty = self.reports_empty, False
        self._send_pieces()
        self.flush()
        if reports:
            self.reports_empty = True
            if self.is_empty():
                self._flusher.add(self)
        if self.is_writable:
            self.wake()

    def fail(self) -> None:
        """Drop the connection, because flushing raised."""
        if self._owner is not None:
            self._owner.abort()

    def lose(self) -> None:
        """Drop everything, because the transport has ended."""
        self._is_lost = True
        self.is_open = False
        if self._large is not None:
            self.transport = self._large.transport
            self._large = None
        self.clear()
        self.wake()

    def release(self) -> None:
        """Forget the owner, which refers to this outbox, when the connection has ended."""
        self._owner = None

    @property
    def buffered(self) -> int:
        """The bytes that wait in this process: here and in the transport."""
        return self.size + (0 if self._is_lost else self.transport.get_write_buffer_size())

    def wake(self) -> None:
        """Wake the tasks that wait for space."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def _wait_drained(self) -> None:
        # always a checkpoint, or `while True: await conn.send(...)` would block the loop after the close
        await anyio.lowlevel.checkpoint()
        while self.is_open:
            if self.is_writable:
                self.flush()
            if self.is_writable and self.size <= self.high_water:
                return
            if self._drained is None:
                self._drained = anyio.Event()
            await self._drained.wait()

    # -- frames ------------------------------------------------------------------------------------------------------

    def take(self, limit: int) -> Frame:
        """Remove frames from the front until they have `limit` bytes, or all; return them as one piece or as a pair."""
        frames = self.frames
        if len(frames) == 1 or self.size <= limit:
            data = frames[0] if len(frames) == 1 else _joined(frames)
            frames.clear()  # `pop` would allocate memory for an empty list
            self.size = 0
            return data
        number = size = 0
        while size < limit:
            size += length(frames[number])
            number += 1
        data = frames[0] if number == 1 else _joined(frames[:number])
        del frames[:number]
        self.size -= size
        return data

    def drop_oldest(self, size: int) -> None:
        """Drop frames from the front until at most `size` bytes are left."""
        frames = self.frames
        number = 0
        while number < len(frames) and self.size > size:
            self.size -= length(frames[number])
            number += 1
        del frames[:number]
        self._ws.traffic.messages_dropped += number

    def clear(self) -> None:
        """Drop all frames."""
        self.frames.clear()
        self.size = 0


def length(frame: Frame) -> int:
    """Return the number of bytes of a frame.

    Raises:
        OverflowError: an object that is not a frame states a length that no memory holds.
    """
    head_size = 0
    if isinstance(frame, tuple):
        head_size = len(frame[0])
        size = len(frame[1])
    else:
        size = len(frame)
    if head_size > 1 << 48 or size > 1 << 48:  # a sum of such lengths overflows a C integer
        raise OverflowError("a frame is longer than 2**48 bytes")
    return head_size + size


def _joined(frames: list[Frame]) -> bytes:
    try:
        return b"".join(frames)  # type: ignore[arg-type]
    except TypeError:  # one of them is a pair
        return b"".join([b"".join(frame) if isinstance(frame, tuple) else frame for frame in frames])


def write_all(transport: Any, pieces: Sequence[bytes | memoryview]) -> None:
    """Write pieces one behind the other, without a copy where that is safe."""
    if WRITELINES_PAUSES:
        transport.writelines(pieces)
    else:
        transport.write(b"".join(pieces))
