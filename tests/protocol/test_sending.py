"""Messages as frames: large ones without a copy, and compressed ones that can be dropped before they are sent."""

from __future__ import annotations

import random
import zlib

import pytest
from support.protocol_peer import TAKEOVER, parse_frames

from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import Deflate, Options, SlowConsumer

TAIL = b"\x00\x00\xff\xff"
SIZES = [0, 125, 126, 65535, 65536, 1 << 20]


def compressing(policy: SlowConsumer = SlowConsumer.CLOSE, *, threshold: int = 0) -> WebSocket:
    options = Options(deflate=Deflate(threshold=threshold), slow_consumer=policy)
    return WebSocket(client=False, options=options, deflate=TAKEOVER)


@pytest.mark.parametrize("size", SIZES)
def test_a_large_message_is_its_head_and_the_same_payload(size: int) -> None:
    message = bytes(size)
    ws = WebSocket(client=False, options=Options())
    pieces = ws.encode_large(message)
    assert isinstance(pieces, tuple)
    head, payload = pieces
    assert payload is message
    assert head + payload == ws.encode(message)


@pytest.mark.parametrize("size", SIZES)
def test_a_client_copies_a_large_message_to_mask_it(size: int) -> None:
    data = WebSocket(client=True, options=Options()).encode_large(bytes(size))
    assert isinstance(data, bytes)
    assert data[1] & 0x80
    assert parse_frames(data) == [(0x82, bytes(size))]


@pytest.mark.parametrize(
    ("compress", "is_compressed"), [(None, True), (True, True), (False, False)], ids=["default", "yes", "no"]
)
def test_a_large_message_is_compressed_where_that_was_negotiated(compress: bool | None, is_compressed: bool) -> None:
    data = compressing(threshold=100).encode_large(bytes(1000), compress)
    assert isinstance(data, bytes)
    [(first, payload)] = parse_frames(data)
    assert first == (0xC2 if is_compressed else 0x82)
    assert (zlib.decompressobj(-15).decompress(payload + TAIL) if is_compressed else payload) == bytes(1000)


RANDOM = random.Random(0).randbytes(16 * 1024)


@pytest.mark.parametrize(
    ("message", "compress", "is_compressed"),
    [
        (RANDOM, None, False),
        (RANDOM, True, True),
        (RANDOM[:-1], None, True),
        (RANDOM.hex(), None, True),
        (b"GIF89a" * 1000 + RANDOM, None, False),
    ],
    ids=["random", "random, as asked", "short", "text", "image"],
)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_large_message_that_looks_random_is_not_compressed(
    message: str | bytes, compress: bool | None, is_compressed: bool, is_prepared: bool
) -> None:
    """It would block the event loop, and become no smaller."""
    ws = compressing()
    frame = ws.encode(PreparedMessage(message, compress=compress)) if is_prepared else ws.encode(message, compress)
    [(first, _)] = parse_frames(frame)
    assert bool(first & 0x40) == is_compressed


@pytest.mark.parametrize("policy", SlowConsumer)
def test_a_message_refers_to_earlier_ones_only_if_none_can_be_dropped(policy: SlowConsumer) -> None:
    """A peer whose messages are dropped does not have their text in its window."""
    ws = compressing(policy)
    [(_, first), (_, second)] = parse_frames(ws.encode(b"the same text" * 3) + ws.encode(b"the same text" * 3))
    if policy is SlowConsumer.CLOSE:
        assert len(second) < len(first)
    else:
        assert second == first
        assert zlib.decompressobj(-15).decompress(second + TAIL) == b"the same text" * 3
