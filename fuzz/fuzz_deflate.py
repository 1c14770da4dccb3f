"""No compressed message inflates beyond its limit; below it, the result is that of zlib, wherever the input is cut."""

from __future__ import annotations

import zlib

from harness import fuzz, instrumented, pieces

with instrumented():
    from pywsapp._protocol.deflate import DeflateParameters, PerMessageDeflate
    from pywsapp.exceptions import ProtocolError
    from pywsapp.options import Deflate

TAIL = b"\x00\x00\xff\xff"
LIMITS = (0, 1, 100, 5000)


def inflate(deflate: PerMessageDeflate, parts: list[bytes], limit: int) -> bytes | None:
    """Return a message, or None if it is refused."""
    inflated = b""
    try:
        for number, part in enumerate(parts):
            inflated += deflate.decompress(part, limit - len(inflated), number == len(parts) - 1)
            assert len(inflated) <= limit
    except ProtocolError as exc:
        check(exc)
        return None
    return inflated


def check(error: ProtocolError) -> None:
    assert error.code in (1007, 1009)
    assert error.reason


def expected(message: bytes, limit: int) -> bytes | None:
    """Return what zlib inflates the first message of a connection to; None if zlib alone does not define the result."""
    inflater = zlib.decompressobj(-15)
    try:
        inflated = inflater.decompress(message + TAIL, limit + 1)
    except zlib.error:
        return None
    return None if inflater.eof or len(inflated) > limit else inflated


def one_input(data: bytes) -> None:
    """Run one input: a byte of choices, two of cuts, and up to three messages, each after a byte with its length."""
    if len(data) < 4:
        return
    no_takeover, limit = bool(data[0] & 1), LIMITS[data[0] >> 1 & 3]
    parameters = DeflateParameters(no_takeover, no_takeover, 15, 15)
    whole, cut = (PerMessageDeflate(parameters, Deflate(), client=False) for _ in range(2))
    rest, messages = data[3:], list[bytes]()
    while rest and len(messages) < 3:
        size = rest[0]
        messages.append(rest[1 : 1 + size])
        rest = rest[1 + size :]
    messages[-1] += rest
    for number, message in enumerate(messages):
        inflated = inflate(whole, [message], limit)
        assert inflate(cut, list(pieces(message, data[1:3])) or [b""], limit) == inflated
        if inflated is None:
            return  # the connection has failed
        if number == 0 or no_takeover:
            reference = expected(message, limit)
            assert reference is None or reference == inflated


def seeds() -> list[bytes]:
    found = []
    for choice in range(8):
        compressor = zlib.compressobj(wbits=-15)
        stream = b""
        for payload in (b"hello hello", b"hello hello again" * 20, bytes(9000)):
            message = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            stream += bytes((len(message),)) + message
        found.append(bytes((choice, 1, 0)) + stream)
    ended = bytes.fromhex("f348cdc9c9070000")
    found += [
        b"\x06\x03\x00" + bytes((len(message),)) + message for message in (ended, ended * 3, b"\x03\x00" * 40, b"\0")
    ]
    return found


if __name__ == "__main__":
    fuzz(one_input, seeds())
