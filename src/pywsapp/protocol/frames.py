"""Bytes of single frames: unmasking, and writing whole data frames (RFC 6455 section 5.2).

These few functions are the innermost loop of the library and know nothing but bytes. Masking is an XOR with a
repeated 4-byte key; CPython has no such operation, so two are borrowed: the XOR of two big integers, best for short
payloads, and four strided `bytes.translate` passes, which do not grow with the square and win above a few hundred
bytes.
"""

from __future__ import annotations

import os

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA
FIN = 0x80
RSV1 = 0x40

_XOR_TABLES = tuple(bytes(a ^ b for a in range(256)) for b in range(256))
_TRANSLATE_FROM = 400


def apply_mask(data: bytes, mask: bytes) -> bytes:
    """XOR a payload with its 4-byte masking key, in either direction (RFC 6455 section 5.3)."""
    size = len(data)
    if size < _TRANSLATE_FROM:
        key = int.from_bytes((mask * ((size >> 2) + 1))[:size], "little")
        return (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")
    masked = bytearray(data)
    for offset in range(4):
        masked[offset::4] = masked[offset::4].translate(_XOR_TABLES[mask[offset]])
    return bytes(masked)


def rotated(mask: bytes, count: int) -> bytes:
    """Give the masking key for what follows after `count` bytes of a payload."""
    shift = count & 3
    return mask[shift:] + mask[:shift]


def encode_frame(first: int, payload: bytes) -> bytes:
    """Write an unmasked frame, as servers send them; `first` is FIN, RSV bits and opcode."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 255)) + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


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
