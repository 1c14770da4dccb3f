"""The frames that wait to be sent on one connection.

Frames stay whole here, so that they can still be dropped; what a transport has taken may be on the wire by half. That
is why a transport is never given much more than it is willing to queue, and the rest waits here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pywsapp.connection import Connection


_VERSION = sys.version_info[:3]
#: In CPython 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 the writelines of asyncio's transports pauses nobody (CVE-2024-12254):
#: who does not read could fill the memory.
WRITELINES_PAUSES = not ((3, 12, 0) <= _VERSION < (3, 12, 9) or (3, 13, 0) <= _VERSION < (3, 13, 2))


class ByteSink(Protocol):
    """What a connection needs of its transport; see `pywsapp._transports.base.Transport`."""

    def write(self, data: bytes) -> None: ...
    def writelines(self, pieces: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class Flusher:
    """What flushes connections at the end of the loop's turn; to be subclassed.

    Attributes:
        filled: connections to be flushed.
    """

    __slots__ = ("filled",)

    def __init__(self) -> None:
        self.filled: list[Connection] = []

    def add(self, connection: Connection) -> None:
        """Flush a connection at the end of this turn."""
        if not self.filled:
            self.schedule()
        self.filled.append(connection)

    def schedule(self) -> None:
        """See to it that what is `filled` is flushed; called for the first one."""
        raise NotImplementedError


Frame = bytes | tuple[bytes, bytes]


class Outbox:
    """Frames and their size; a large frame is a pair, its head and its payload.

    Attributes:
        frames: in the order of sending.
        size: the bytes of all of them.
    """

    __slots__ = ("frames", "size")

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.size = 0

    def add(self, frame: Frame, size: int) -> None:
        """Add a frame of so many bytes."""
        self.frames.append(frame)
        self.size += size

    def take(self, limit: int) -> Frame:
        """Take frames from the front until they have `limit` bytes, or all; give them as one piece, or as a pair."""
        frames = self.frames
        number = len(frames)
        if number == 1:
            self.size = 0
            return frames.pop()
        if self.size <= limit:
            size = self.size
        else:
            number = size = 0
            while size < limit:
                size += length(frames[number])
                number += 1
        data = frames[0] if number == 1 else _joined(frames[:number])
        del frames[:number]
        self.size -= size
        return data

    def drop_oldest(self, size: int) -> None:
        """Drop frames from the front until there are no more than `size` bytes."""
        frames = self.frames
        number = 0
        while number < len(frames) and self.size > size:
            self.size -= length(frames[number])
            number += 1
        del frames[:number]

    def clear(self) -> None:
        """Drop all frames."""
        self.frames.clear()
        self.size = 0


def length(frame: Frame) -> int:
    """Give the bytes of a frame."""
    return len(frame[0]) + len(frame[1]) if isinstance(frame, tuple) else len(frame)


def _joined(frames: list[Frame]) -> bytes:
    try:
        return b"".join(frames)  # type: ignore[arg-type]
    except TypeError:  # there is a pair among them
        return b"".join([b"".join(frame) if isinstance(frame, tuple) else frame for frame in frames])


def write_all(transport: ByteSink, pieces: Sequence[bytes]) -> None:
    """Write pieces one behind the other, without a copy where that is safe."""
    if WRITELINES_PAUSES:
        transport.writelines(pieces)
    else:
        transport.write(b"".join(pieces))
