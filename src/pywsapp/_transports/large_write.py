"""A large frame on its way through a transport, in pieces.

Every transport takes whatever it is given: asyncio's copies what the kernel does not accept, and TLS encrypts all of it
at once. A message of 10 MiB to many peers that do not read would be held once for each of them. So a large frame stays
one object, which all receivers of a broadcast share, and a transport gets the next piece only when it takes more.

uvloop's transports without TLS copy nothing. They get a large frame whole, which is faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from pywsapp._transports.base import Transport

PIECE = 256 * 1024
"""Bytes of one piece, at least. Smaller ones cost more system calls: 64 KiB make an echo of 1 MiB a fifth slower."""


class LargeWrite:
    """Stands in for a transport while a large frame leaves through it, and has its methods.

    The caller calls `send_piece` as long as the transport takes more. A later write, for example a ping, follows the
    frame.

    Args:
        transport: the transport.
        piece_size: bytes of one piece.

    Attributes:
        transport: the transport.
    """

    __slots__ = ("_closing", "_piece_size", "_pieces", "_size", "transport")

    def __init__(self, transport: Transport, piece_size: int) -> None:
        self.transport = transport
        self._piece_size = piece_size
        self._pieces: deque[Iterator[memoryview]] = deque()
        self._size = 0
        self._closing = False

    def send_piece(self) -> bool:
        """Write the next piece to the transport; return whether there was one."""
        while self._pieces:
            piece = next(self._pieces[0], None)
            if piece is not None:
                self._size -= len(piece)
                self.transport.write(piece)  # type: ignore[arg-type] # every transport takes any buffer
                return True
            self._pieces.popleft()
        if self._closing:
            self.transport.close()
        return False

    def write(self, data: bytes, start: int = 0) -> None:
        """Send bytes, from an index on, after everything that was written before; does nothing after `close`."""
        if not self.is_closing():
            self._pieces.append(_cut(data, start, self._piece_size))
            self._size += len(data) - start

    def writelines(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def close(self) -> None:
        """Close the transport behind the last piece."""
        self._closing = True

    def abort(self) -> None:
        self._closing = True
        self._pieces.clear()
        self._size = 0
        self.transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self.transport.is_closing()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._size + self.transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.transport.set_write_buffer_limits(high, low)

    def set_protocol(self, protocol: Any) -> None:
        self.transport.set_protocol(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)


def copies(transport: Transport) -> bool:
    """Return whether a transport copies or encrypts at once what the kernel does not take."""
    kind = type(transport)
    return kind.__module__ != "uvloop.loop" or kind.__name__ not in ("TCPTransport", "UnixTransport")


def writes_after_end(transport: Transport) -> bool:
    """Return whether a transport can write after the end of the peer's stream; TLS of asyncio and uvloop cannot."""
    if isinstance(transport, LargeWrite):
        transport = transport.transport
    can_write_eof = getattr(transport, "can_write_eof", None)
    return can_write_eof is None or bool(can_write_eof())


def _cut(data: bytes, start: int, size: int) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[index : index + size] for index in range(start, len(view), size))
