"""The assembly of a message that has arrived only in part: the beginning of a frame, or fragments.

The payload is unmasked, inflated and checked part by part, so that invalid UTF-8 and decompression bombs fail at the
first wrong byte, whatever length the headers announce. The payload is kept as bytes, text too: bytes take no more
memory in a million parts than in one, while a str with a single emoji in it takes four bytes for each character.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING

from pywsapp._protocol.frames import PayloadBuffer, apply_mask, rotate_mask
from pywsapp._protocol.opcodes import FIN, RSV1, TEXT
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import PerMessageDeflate
    from pywsapp.options import Options

_Utf8Decoder = getincrementaldecoder("utf-8")


class PartialMessage:
    """One message from the header of its first frame to the last byte of its last frame (RFC 6455 section 5.4).

    `begin_frame` is called with the header of each frame, `receive` with the payload.

    Attributes:
        remaining: bytes of the frame's payload that have not arrived yet.
        is_last_frame: whether the frame is the last one of the message.

    Args:
        first: the first byte of the first frame: FIN, RSV bits and opcode.
        size: bytes of payload that the header of the first frame announces.
        options: the limits of the message.
        deflate: inflates the payload of a compressed message.
    """

    __slots__ = (
        "_buffer",
        "_decoder",
        "_deflate",
        "_frames",
        "_limit",
        "_mask",
        "_max_frames",
        "_size",
        "is_last_frame",
        "remaining",
    )

    def __init__(self, first: int, size: int, options: Options, deflate: PerMessageDeflate | None) -> None:
        self._buffer = PayloadBuffer(size)
        self._decoder = _Utf8Decoder() if first & TEXT else None
        self._deflate = deflate if first & RSV1 else None
        self._frames = 0
        self._limit = options.max_message_size
        self._mask = b""
        self._max_frames = options.max_fragments
        self._size = 0
        self.is_last_frame = False
        self.remaining = 0

    @property
    def inflated(self) -> int:
        """Bytes to which the payload has inflated; 0 for a message that is not compressed."""
        return self._size if self._deflate is not None else 0

    def begin_frame(self, first: int, size: int, mask: bytes) -> None:
        """Begin the next frame; nothing of the one before may remain.

        Args:
            first: the first byte of the frame.
            size: bytes of payload that its header announces.
            mask: the masking key, or b"" without one.

        Raises:
            ProtocolError: 1009 for more frames than `Options.max_fragments`, or an uncompressed message that would be
                larger than `Options.max_message_size`.
        """
        if self._frames >= self._max_frames:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"the message has more than {self._max_frames} fragments")
        if self._deflate is None and self._size + size > self._limit:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, f"the message is larger than {self._limit} bytes")
        self._frames += 1
        self._mask = mask
        self.is_last_frame = first & FIN != 0
        self.remaining = size

    def receive(self, data: bytes, start: int) -> int:
        """Add the next part of the frame's payload.

        Args:
            data: the bytes that have arrived.
            start: where the part begins in them.

        Returns:
            where the part ends in them.

        Raises:
            ProtocolError: the payload cannot be inflated, or inflates to more than the limit.
            UnicodeDecodeError: the payload of a text message is not UTF-8.
        """
        stop = min(len(data), start + self.remaining)
        self.remaining -= stop - start
        is_end = self.is_last_frame and not self.remaining
        before = self._size
        if self._deflate is not None:
            self._inflate(self._deflate, data[start:stop], is_end)
        else:
            self._buffer.add(data, start, stop, self._mask)
            self._size += stop - start
        if self.remaining:
            self._mask = rotate_mask(self._mask, stop - start)
        if self._decoder is not None:
            self._decoder.decode(self._buffer.since(before), is_end)
        return stop

    def _inflate(self, deflate: PerMessageDeflate, part: bytes, is_end: bool) -> None:
        if self._mask:
            part = apply_mask(part, self._mask)
        part = deflate.decompress(part, self._limit - self._size, is_end)
        self._buffer.add(part, 0, len(part), b"")
        self._size += len(part)

    def message(self) -> str | bytes:
        """Return the message; call it once, when nothing remains of the last frame."""
        payload = self._buffer.payload()
        return payload if self._decoder is None else payload.decode()
