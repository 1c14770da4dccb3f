"""Bytes of single frames: unmasking, and writing whole data frames (RFC 6455 section 5.2).

These few functions are the innermost loop of the library and know nothing but bytes. Masking is an XOR with a
repeated 4-byte key; CPython has no such operation, so two are borrowed: the XOR of two big integers, best for short
payloads, and four strided `bytes.translate` passes, which do not grow with the square and win above a few hundred
bytes. `frames.pyx` says the same to a compiler, which has an XOR.
"""

from __future__ import annotations

import io
import os

_XOR_TABLES = tuple(bytes(a ^ b for a in range(256)) for b in range(256))
_TRANSLATE_FROM = 400
_integer = int.from_bytes
#: Times the integer of a key, the integer of that key repeated so many times.
_REPEATED = tuple(((1 << 32 * words) - 1) // ((1 << 32) - 1) for words in range(_TRANSLATE_FROM // 4 + 1))


_SHORT = 126  # from here on a payload's length needs more than the second byte
_HEADS = {first: tuple(bytes((first, size)) for size in range(_SHORT)) for first in (0x81, 0x82)}  # of whole messages

#: What `long_size` gives for a length that must not be written like that.
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


def rotated(mask: bytes, count: int) -> bytes:
    """Give the masking key for what follows after `count` bytes of a payload."""
    shift = count & 3
    return mask[shift:] + mask[:shift]


def unmask(data: bytes, start: int, stop: int) -> bytes:
    """Give the payload from `start` to `stop`, of which the masking key stands right before it."""
    return apply_mask(data[start:stop], data[start - 4 : start])


def unmask_text(data: bytes, start: int, stop: int) -> str:
    """Do the same for text.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    size = stop - start
    if size >= _TRANSLATE_FROM:
        return apply_mask(data[start:stop], data[start - 4 : start]).decode()
    words = size + 3 >> 2
    masked_words = _integer(data[start:stop], "little") ^ _integer(data[start - 4 : start], "little") * _REPEATED[words]
    return masked_words.to_bytes(4 * words, "little")[:size].decode()


def long_size(data: bytes, position: int) -> int:
    """Read the extended length of the frame at a position, all of which must be there (RFC 6455 section 5.2)."""
    if data[position + 1] & 0x7F == 126:
        size = data[position + 2] << 8 | data[position + 3]
        return size if size >= 126 else WRONG_SIZE
    size = int.from_bytes(data[position + 2 : position + 10], "big")
    return size if 65536 <= size < WRONG_SIZE else WRONG_SIZE


class Gathering:
    """A payload that comes in parts.

    Args:
        size: bytes that are expected. Memory is only asked for as parts come, for expecting costs a peer nothing.
    """

    __slots__ = ("_sink",)

    def __init__(self, size: int) -> None:
        self._sink = io.BytesIO()

    def add(self, data: bytes, start: int, stop: int, mask: bytes) -> None:
        """Add what stands from `start` to `stop`, unmasked if there is a mask."""
        part = data[start:stop]
        self._sink.write(apply_mask(part, mask) if mask else part)

    def since(self, start: int) -> bytes:
        """Give what was added from a place on."""
        return self._sink.getbuffer()[start:].tobytes()

    def payload(self) -> bytes:
        """Give all of it; to be called once, at the end."""
        return self._sink.getvalue()


def encode_frame(first: int, payload: bytes) -> bytes:
    """Write an unmasked frame, as servers send them; `first` is FIN, RSV bits and opcode."""
    return frame_head(first, len(payload)) + payload


def frame_head(first: int, size: int) -> bytes:
    """Write what stands before an unmasked payload of that size."""
    if size < _SHORT:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 255))
    return bytes((first, 127)) + size.to_bytes(8, "big")


def encode_text_frame(first: int, text: str) -> bytes:
    """Do the same for text that is a whole message.

    Raises:
        UnicodeEncodeError: it has no UTF-8 form.
    """
    payload = text.encode()
    size = len(payload)
    return _HEADS[first][size] + payload if size < _SHORT else encode_frame(first, payload)


def encode_masked_frame(first: int, payload: bytes) -> bytes:
    """Write a masked frame, as clients send them, with a fresh unpredictable key."""
    size = len(payload)
    mask = os.urandom(4)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0xFE, size >> 8, size & 255))
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + mask + apply_mask(payload, mask)
