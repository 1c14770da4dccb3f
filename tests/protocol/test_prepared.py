"""Messages for many connections: checked at once, and encoded at most once for each wire format."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import parse_frames

from pywsapp._protocol.prepared import PreparedMessage, payload_of
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Deflate

CONFIG = Deflate()


def inflate(payload: bytes, bits: int) -> bytes:
    return zlib.decompressobj(-bits).decompress(payload + b"\x00\x00\xff\xff")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", (1, b"")),
        ("é", (1, b"\xc3\xa9")),
        ("a\x00\ufeff", (1, b"a\x00\xef\xbb\xbf")),
        (b"", (2, b"")),
        (b"\xff", (2, b"\xff")),
        (bytearray(b"ab"), (2, b"ab")),
        (memoryview(b"abcd")[1:3], (2, b"bc")),
        (memoryview(b"abcdef")[::2], (2, b"ace")),
        (memoryview(b"\x01\x00\x02\x00").cast("H"), (2, b"\x01\x00\x02\x00")),
    ],
)
def test_payload_of_a_message(message: Any, expected: tuple[int, bytes]) -> None:
    opcode, payload = payload_of(message)
    assert (opcode, payload) == expected
    assert type(payload) is bytes
    prepared = PreparedMessage(message)
    assert (prepared.opcode, prepared.payload) == expected


@pytest.mark.parametrize("message", [None, 1, {}, [], ("a",), {b"a"}])
def test_other_types_are_refused(message: Any) -> None:
    with pytest.raises(TypeError, match=rf"not {type(message).__name__}; encode it, for instance with json\.dumps"):
        PreparedMessage(message)


def test_text_without_a_utf8_form() -> None:
    with pytest.raises(ConfigurationError, match=r"must be encodable as UTF-8: .*surrogates not allowed") as caught:
        PreparedMessage("secret \ud800")
    assert caught.value.__cause__ is None


def test_bytes_are_not_copied() -> None:
    message = bytes(1000)
    assert PreparedMessage(message).payload is message


def test_the_plain_frame_is_made_once() -> None:
    message = PreparedMessage("grüße")
    frame = message.plain_frame()
    assert frame == b"\x81\x07" + "grüße".encode()
    assert message.plain_frame() is frame


def test_a_deflated_frame_is_made_once_for_each_window_and_strength() -> None:
    message = PreparedMessage(b"many many words " * 50)
    variants = [
        (9, CONFIG),
        (12, CONFIG),
        (15, CONFIG),
        (12, Deflate(level=1)),
        (12, Deflate(mem_level=9)),
    ]
    frames = [message.deflated_frame(bits, config) for bits, config in variants]
    assert len({id(frame) for frame in frames}) == len(variants)
    for (bits, config), frame in zip(variants, frames, strict=True):
        same = Deflate(level=config.level, mem_level=config.mem_level, threshold=7)
        assert message.deflated_frame(bits, same) is frame
        ((first, payload),) = parse_frames(frame)
        assert first == 0xC2
        assert inflate(payload, bits) == message.payload


@given(st.binary(max_size=3000) | st.text(max_size=1000), st.integers(9, 15), st.integers(0, 9), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_any_message_in_any_format(message: str | bytes, bits: int, level: int, mem_level: int) -> None:
    prepared = PreparedMessage(message)
    expected = message.encode() if isinstance(message, str) else message
    opcode = 1 if isinstance(message, str) else 2
    assert parse_frames(prepared.plain_frame()) == [(0x80 | opcode, expected)]
    ((first, payload),) = parse_frames(prepared.deflated_frame(bits, Deflate(level=level, mem_level=mem_level)))
    assert first == 0xC0 | opcode
    assert inflate(payload, bits) == expected
