"""WebSocket frames at the border to an ASGI server, which has whole messages in their place.

A lifecycle reads and writes frames. So a message that the server has received becomes a frame here, masked with a key
of zeros, and the frames that the lifecycle writes become messages. None of them is compressed or fragmented.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pywsapp._protocol.opcodes import BINARY, CLOSE, FIN, TEXT

_MASKED = 0x80
_ZERO_KEY = bytes(4)
#: Codes that only say how a connection ended, and that no close frame has (RFC 6455 section 7.4.1).
_NOT_SENT = (1004, 1005, 1006, 1015)


class WrittenFrame(NamedTuple):
    """One frame that the lifecycle has written.

    Args:
        opcode: its opcode.
        payload: its payload.
    """

    opcode: int
    payload: bytes


class FrameReader:
    """Finds the frames in what a lifecycle writes, which comes in any pieces."""

    __slots__ = ("_missing", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._missing = 0  # bytes that the frame in `_pieces` still needs, at least

    def feed(self, data: bytes) -> Iterator[WrittenFrame]:
        """Yield the frames that are complete."""
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._pieces)
            self._pieces = []
        position, end = 0, len(data)
        while position < end:
            start, stop = _payload(data, position)
            if stop > end:
                self._pieces, self._missing = [data[position:]], stop - end
                return
            yield WrittenFrame(data[position] & 0x0F, bytes(data[start:stop]))
            position = stop


def _payload(data: bytes, position: int) -> tuple[int, int]:
    """Return where the payload of a frame begins and ends, or the head if that is not complete."""
    start = position + 2
    if len(data) < start:
        return start, start
    size = data[position + 1]
    if size < 126:
        return start, start + size
    stop = start + (2 if size == 126 else 8)
    if len(data) < stop:
        return stop, stop
    return stop, stop + int.from_bytes(data[start:stop], "big")


def message_frame(message: str | bytes) -> bytes:
    """Return the frame of a message that the server has received.

    A str with lone surrogates becomes a frame that is not UTF-8, so the connection is closed with 1007.
    """
    if isinstance(message, str):
        return _frame(TEXT, message.encode("utf-8", "surrogatepass"))
    return _frame(BINARY, message)


def close_frame(code: int, reason: str) -> bytes | None:
    """Return the close frame of a peer; None if the connection ended without one.

    Args:
        code: the code that the server reports; 1005 for a close frame without a code.
        reason: the reason.
    """
    if code == 1005:
        return _frame(CLOSE, b"")
    if code in _NOT_SENT or not 1000 <= code < 5000:
        return None
    return _frame(CLOSE, code.to_bytes(2, "big") + reason.encode("utf-8", "replace")[:123])


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((FIN | opcode, _MASKED | size))
    elif size < 65536:
        head = bytes((FIN | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
    return b"".join((head, _ZERO_KEY, payload))
