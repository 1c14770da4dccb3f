"""A data frame that is a whole message and has only arrived in part.

Its payload is unmasked, inflated and checked as it comes, so that invalid UTF-8 and bombs fail at the first wrong byte,
whatever the frame promises to bring. What is kept is bytes, for text as well: they are as compact in a million parts as
in one, and text of which one character is an emoji would take four times as much.
"""

from __future__ import annotations

import io
from codecs import getincrementaldecoder
from typing import TYPE_CHECKING

from pywsapp.protocol.frames import RSV1, TEXT, apply_mask, rotated

if TYPE_CHECKING:
    from pywsapp.protocol.deflate import PerMessageDeflate

_Utf8Decoder = getincrementaldecoder("utf-8")


class ArrivingFrame:
    """One frame between its header and the last byte of its payload.

    Attributes:
        remaining: bytes of payload that are still to come.
        inflated: bytes that came out of it; 0 if it is not compressed.

    Args:
        first: its first byte: FIN, RSV bits and opcode.
        mask: its masking key, empty if it has none.
        size: bytes of payload that it will bring, at least one.
        limit: bytes that the message may have, after inflation.
        deflate: inflates it if it is compressed.
    """

    __slots__ = ("_decoder", "_deflate", "_limit", "_mask", "_sink", "inflated", "remaining")

    def __init__(self, first: int, mask: bytes, size: int, limit: int, deflate: PerMessageDeflate | None) -> None:
        self._sink = io.BytesIO()
        self._decoder = _Utf8Decoder() if first & TEXT else None
        self._deflate = deflate if first & RSV1 else None
        self._mask = mask
        self._limit = limit
        self.inflated = 0
        self.remaining = size

    def receive(self, payload: bytes) -> None:
        """Take the next part, of at most `remaining` bytes.

        Raises:
            ProtocolError: it cannot be inflated, or inflates to too much.
            UnicodeDecodeError: it cannot be text.
        """
        self.remaining -= len(payload)
        final = not self.remaining
        if self._mask:
            mask = self._mask
            self._mask = rotated(mask, len(payload))
            payload = apply_mask(payload, mask)
        if self._deflate is not None:
            payload = self._deflate.decompress(payload, self._limit - self.inflated, final)
            self.inflated += len(payload)
        if self._decoder is not None:
            self._decoder.decode(payload, final)
        self._sink.write(payload)

    def message(self) -> str | bytes:
        """Give the message; to be called once, when nothing remains."""
        payload = self._sink.getvalue()
        return payload if self._decoder is None else payload.decode()
