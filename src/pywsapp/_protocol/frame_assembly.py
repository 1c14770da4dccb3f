"""The assembly of a data frame that is a whole message and has arrived only in part.

The payload is unmasked, inflated and checked part by part, so that invalid UTF-8 and decompression bombs fail at the
first wrong byte, whatever length the header announces. The payload is kept as bytes, text too: bytes take no more
memory in a million parts than in one, while a str with a single emoji in it takes four bytes for each character.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING

from pywsapp._protocol.frames import PayloadBuffer, apply_mask, rotate_mask
from pywsapp._protocol.opcodes import RSV1, TEXT

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import PerMessageDeflate

_Utf8Decoder = getincrementaldecoder("utf-8")


class PartialFrame:
    """One frame from its header to the last byte of its payload.

    Attributes:
        remaining: bytes of payload that have not arrived yet.

    Args:
        first: the first byte of the frame: FIN, RSV bits and opcode.
        mask: the masking key, or b"" without one.
        size: bytes of payload that the header announces, at least one.
        limit: bytes that the message may have after inflating.
        deflate: inflates the payload of a compressed frame.
    """

    __slots__ = ("_buffer", "_decoder", "_deflate", "_limit", "_mask", "_size", "remaining")

    def __init__(self, first: int, mask: bytes, size: int, limit: int, deflate: PerMessageDeflate | None) -> None:
        self._buffer = PayloadBuffer(size)
        self._decoder = _Utf8Decoder() if first & TEXT else None
        self._deflate = deflate if first & RSV1 else None
        self._mask = mask
        self._limit = limit
        self._size = 0
        self.remaining = size

    @property
    def inflated(self) -> int:
        """Bytes to which the payload has inflated; 0 for a frame that is not compressed."""
        return self._size if self._deflate is not None else 0

    def receive(self, data: bytes, start: int) -> int:
        """Add the next part of the payload.

        Args:
            data: the bytes that have arrived.
            start: where the payload begins in them.

        Returns:
            where the payload ends in them.

        Raises:
            ProtocolError: the payload cannot be inflated, or inflates to more than the limit.
            UnicodeDecodeError: the payload of a text frame is not UTF-8.
        """
        stop = min(len(data), start + self.remaining)
        self.remaining -= stop - start
        before = self._size
        if self._deflate is not None:
            self._inflate(self._deflate, data[start:stop])
        else:
            self._buffer.add(data, start, stop, self._mask)
            self._size += stop - start
        self._mask = rotate_mask(self._mask, stop - start)
        if self._decoder is not None:
            self._decoder.decode(self._buffer.since(before), not self.remaining)
        return stop

    def _inflate(self, deflate: PerMessageDeflate, part: bytes) -> None:
        if self._mask:
            part = apply_mask(part, self._mask)
        part = deflate.decompress(part, self._limit - self._size, not self.remaining)
        self._buffer.add(part, 0, len(part), b"")
        self._size += len(part)

    def message(self) -> str | bytes:
        """Return the message; call it once, when nothing remains."""
        payload = self._buffer.payload()
        return payload if self._decoder is None else payload.decode()
