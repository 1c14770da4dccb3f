"""Bytes that attackers send: requests, frames and compressed payloads."""

from __future__ import annotations

import zlib

KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
#: The reserved bit of a compressed message, for `frame(rsv=...)`.
COMPRESSED = 4


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a masked frame with a key of zeros, as a client may send it."""
    return head(opcode, len(payload), fin=fin, rsv=rsv) + payload


def head(opcode: int, size: int, *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return the head of a masked frame with a key of zeros, for a payload of `size` bytes."""
    first = bytes((fin << 7 | rsv << 4 | opcode,))
    if size < 126:
        return first + bytes((0x80 | size,)) + bytes(4)
    if size < 65536:
        return first + b"\xfe" + size.to_bytes(2, "big") + bytes(4)
    return first + b"\xff" + size.to_bytes(8, "big") + bytes(4)


def compressed(payload: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def fragments(count: int, *, rsv: int = 0, first: bytes = b"") -> bytes:
    """Return one message in fragments without payload, apart from the first one."""
    return frame(BINARY, first, fin=False, rsv=rsv) + frame(CONTINUATION, fin=False) * count + frame(CONTINUATION)


def cut(payload: bytes, size: int, *, rsv: int = 0) -> bytes:
    """Return one binary message in fragments of `size` bytes."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    frames = [
        frame(CONTINUATION if number else BINARY, part, fin=False, rsv=0 if number else rsv)
        for number, part in enumerate(parts)
    ]
    return b"".join(frames) + frame(CONTINUATION)


def request(port: int, path: str, *, deflate: bool = True) -> bytes:
    """Return the request of a WebSocket handshake, with or without an offer of permessage-deflate."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
        + "Sec-WebSocket-Extensions: permessage-deflate\r\n" * deflate
        + "\r\n"
    ).encode()
