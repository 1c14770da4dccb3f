"""Single frames as bytes: unmasking, and encoding whole data frames (RFC 6455 section 5.2).

These functions are the innermost loop of the library, and work on nothing but bytes. Masking is an XOR with a repeated
4-byte key. CPython has no such operation for bytes, so the pure Python build uses two others: the XOR of two big
integers, which is best for short payloads, and four strided passes of `bytes.translate`, which are linear in the size
and faster from a few hundred bytes on. The compiled build uses `frames.pyx` instead, with the same functions.
"""

from __future__ import annotations

import io
import os

_XOR_TABLES = tuple(bytes(a ^ b for a in range(256)) for b in range(256))
_TRANSLATE_FROM = 400
_integer = int.from_bytes
#: Multiplied with the integer of a key: the integer of that key repeated so many times.
_REPEATED = tuple(((1 << 32 * words) - 1) // ((1 << 32) - 1) for words in range(_TRANSLATE_FROM // 4 + 1))

_SHORT = 126  # from this size on, the length of a payload does not fit into the second byte
_HEADS = {first: tuple(bytes((first, size)) for size in range(_SHORT)) for first in (0x81, 0x82)}  # of whole messages

#: The result of `long_size` for an invalid length: one not encoded in the shortest form, or one of 2 ** 62 and more.
WRONG_SIZE = 1 << 62


def apply_mask(data: bytes, mask: bytes) -> bytes:
    """XOR a payload with its 4-byte masking key, in either direction (RFC 6455 section 5.3)."""
    size = len(data)
    if size < _TRANSLATE_FROM:
        words = size + 3 >> 2
        masked_words = _integer(data, "little") ^ _integer(mask, "little") * _REPEATED[words]
        return masked_words.to_bytes(4 * words, "little")[:size]
    masked = bytearray(data)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_XOR_TABLES[mask[offset]])
    return bytes(masked)


def rotate_mask(mask: bytes, count: int) -> bytes:
    """Return the masking key for the part of a payload that follows after `count` bytes."""
    shift = count & 3
    return mask[shift:] + mask[:shift]


def unmask(data: bytes, start: int, stop: int) -> bytes:
    """Return the unmasked payload between `start` and `stop`; its masking key is the four bytes before `start`."""
    return apply_mask(data[start:stop], data[start - 4 : start])


def unmask_text(data: bytes, start: int, stop: int) -> str:
    """Return the unmasked payload between `start` and `stop` as text.

    Raises:
        UnicodeDecodeError: the payload is not UTF-8.
    """
    size = stop - start
    if size >= _TRANSLATE_FROM:
        return apply_mask(data[start:stop], data[start - 4 : start]).decode()
    words = size + 3 >> 2
    masked_words = _integer(data[start:stop], "little") ^ _integer(data[start - 4 : start], "little") * _REPEATED[words]
    return masked_words.to_bytes(4 * words, "little")[:size].decode()


def long_size(data: bytes, position: int) -> int:
    """Return the extended payload length of the frame at a position (RFC 6455 section 5.2).

    All bytes of the length must have arrived. The result for an invalid length is `WRONG_SIZE`.
    """
    if data[position + 1] & 0x7F == 126:
        size = data[position + 2] << 8 | data[position + 3]
        return size if size >= 126 else WRONG_SIZE
    size = int.from_bytes(data[position + 2 : position + 10], "big")
    return size if 65536 <= size < WRONG_SIZE else WRONG_SIZE


class PayloadBuffer:
    """The part of a payload that has arrived.

    Memory is allocated only as parts arrive, because announcing a large payload costs a peer nothing.

    Args:
        size: bytes that the header announces.
    """

    __slots__ = ("_sink",)

    def __init__(self, size: int) -> None:
        self._sink = io.BytesIO()

    def add(self, data: bytes, start: int, stop: int, mask: bytes) -> None:
        """Append the bytes between `start` and `stop`, unmasked unless the mask is empty."""
        part = data[start:stop]
        self._sink.write(apply_mask(part, mask) if mask else part)

    def since(self, start: int) -> bytes:
        """Return the payload from an offset on."""
        return self._sink.getbuffer()[start:].tobytes()

    def payload(self) -> bytes:
        """Return the whole payload; call it once, at the end."""
        return self._sink.getvalue()


def encode_frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked frame, as servers send it; `first` is FIN, RSV bits and opcode."""
    return frame_head(first, len(payload)) + payload


def frame_head(first: int, size: int) -> bytes:
    """Return the bytes before an unmasked payload of a size."""
    if size < _SHORT:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 255))
    return bytes((first, 127)) + size.to_bytes(8, "big")


def encode_text_frame(first: int, text: str) -> bytes:
    """Return an unmasked frame for text that is a whole message.

    Raises:
        UnicodeEncodeError: the text has no UTF-8 form.
    """
    payload = text.encode()
    size = len(payload)
    return _HEADS[first][size] + payload if size < _SHORT else encode_frame(first, payload)


def encode_masked_frame(first: int, payload: bytes) -> bytes:
    """Return a masked frame, as clients send it, with a new unpredictable key."""
    size = len(payload)
    mask = os.urandom(4)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0xFE, size >> 8, size & 255))
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + mask + apply_mask(payload, mask)
