"""The frames that wait to be sent on one connection.

Frames stay whole here, so that they can still be dropped; what a transport has taken may be on the wire by half. That
is why a transport is never given much more than it is willing to queue, and the rest waits here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pywsapp.connection import Connection


class ByteSink(Protocol):
    """What a connection needs of its transport; see `pywsapp.hosting.transport.Transport`."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class Flusher(Protocol):
    """What flushes connections at the end of the loop's turn."""

    def add(self, connection: Connection) -> None:
        """Call `connection.flush` at the end of this turn."""


class Outbox(list[bytes]):
    """A list of frames that knows its size.

    Attributes:
        size: the bytes of all of them; who appends one adds to it.
    """

    __slots__ = ("size",)

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def take(self, limit: int) -> bytes:
        """Take frames from the front until they have `limit` bytes, or all; give them as one piece."""
        if self.size <= limit:
            data = self[0] if len(self) == 1 else b"".join(self)
            del self[:]
            self.size = 0
            return data
        number = size = 0
        while size < limit:
            size += len(self[number])
            number += 1
        data = b"".join(self[:number])
        del self[:number]
        self.size -= size
        return data

    def drop_oldest(self, size: int) -> None:
        """Drop frames from the front until there are no more than `size` bytes."""
        number = 0
        while number < len(self) and self.size > size:
            self.size -= len(self[number])
            number += 1
        del self[:number]

    def clear(self) -> None:
        """Drop all frames."""
        del self[:]
        self.size = 0
