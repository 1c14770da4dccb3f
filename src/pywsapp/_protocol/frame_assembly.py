"""A data frame that is a whole message and has only arrived in part.

Its payload is unmasked, inflated and checked as it comes, so that invalid UTF-8 and bombs fail at the first wrong byte,
whatever the frame promises to bring. What is kept is bytes, for text as well: they are as compact in a million parts as
in one, and text of which one character is an emoji would take four times as much.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING

from pywsapp._protocol.frames import Gathering, apply_mask, rotated
from pywsapp._protocol.opcodes import RSV1, TEXT

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import PerMessageDeflate

_Utf8Decoder = getincrementaldecoder("utf-8")


class PartialFrame:
    """One frame between its header and the last byte of its payload.

    Attributes:
        remaining: bytes of payload that are still to come.

    Args:
        first: its first byte: FIN, RSV bits and opcode.
        mask: its masking key, empty if it has none.
        size: bytes of payload that it will bring, at least one.
        limit: bytes that the message may have, after inflation.
        deflate: inflates it if it is compressed.
    """

    __slots__ = ("_decoder", "_deflate", "_gathering", "_limit", "_mask", "_size", "remaining")

    def __init__(self, first: int, mask: bytes, size: int, limit: int, deflate: PerMessageDeflate | None) -> None:
        self._gathering = Gathering(size)
        self._decoder = _Utf8Decoder() if first & TEXT else None
        self._deflate = deflate if first & RSV1 else None
        self._mask = mask
        self._limit = limit
        self._size = 0
        self.remaining = size

    @property
    def inflated(self) -> int:
        """Bytes that came out of it; 0 if it is not compressed."""
        return self._size if self._deflate is not None else 0

    def receive(self, data: bytes, start: int) -> int:
        """Take the next part, which begins somewhere in the data; give where it ends.

        Raises:
            ProtocolError: it cannot be inflated, or inflates to too much.
            UnicodeDecodeError: it cannot be text.
        """
        stop = min(len(data), start + self.remaining)
        self.remaining -= stop - start
        before = self._size
        if self._deflate is not None:
            self._inflate(self._deflate, data[start:stop])
        else:
            self._gathering.add(data, start, stop, self._mask)
            self._size += stop - start
        self._mask = rotated(self._mask, stop - start)
        if self._decoder is not None:
            self._decoder.decode(self._gathering.since(before), not self.remaining)
        return stop

    def _inflate(self, deflate: PerMessageDeflate, part: bytes) -> None:
        if self._mask:
            part = apply_mask(part, self._mask)
        part = deflate.decompress(part, self._limit - self._size, not self.remaining)
        self._gathering.add(part, 0, len(part), b"")
        self._size += len(part)

    def message(self) -> str | bytes:
        """Give the message; to be called once, when nothing remains."""
        payload = self._gathering.payload()
        return payload if self._decoder is None else payload.decode()
