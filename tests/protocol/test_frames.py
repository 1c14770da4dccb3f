"""Single frames as bytes: masks, lengths, and how another implementation reads them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import ConnectionType
from wsproto.frame_protocol import FrameProtocol, Opcode

from pywsapp._protocol.frames import apply_mask, encode_frame, encode_masked_frame, rotate_mask
from pywsapp._protocol.opcodes import BINARY, FIN, PING, TEXT

#: Sizes for both ways of masking, around the change from one to the other, with every remainder of four.
SIZES = [*range(20), *range(395, 406), *range(510, 516), 4096, 4097, 65535, 65536]
MASKS = st.binary(min_size=4, max_size=4)


def xor(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", [b"\x00\x00\x00\x00", b"\x01\x02\x03\x04", b"\xff\x00\x80\x7f"])
def test_masking(size: int, mask: bytes) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    masked = apply_mask(data, mask)
    assert masked == xor(data, mask)
    assert type(masked) is bytes
    assert apply_mask(masked, mask) == data


def test_leading_zeros_are_kept() -> None:
    assert apply_mask(b"\x01\x02\x03\x04\x01", b"\x01\x02\x03\x04") == bytes(5)
    assert apply_mask(bytes(5), bytes(4)) == bytes(5)


@given(st.binary(max_size=1000), MASKS)
def test_any_payload_is_masked(data: bytes, mask: bytes) -> None:
    assert apply_mask(data, mask) == xor(data, mask)


@given(st.binary(max_size=1000), MASKS, st.lists(st.integers(0, 1000), max_size=5))
def test_a_payload_can_be_masked_in_parts(data: bytes, mask: bytes, cuts: list[int]) -> None:
    whole, parts = apply_mask(data, mask), b""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(edges):
        parts += apply_mask(data[start:end], mask)
        mask = rotate_mask(mask, end - start)
    assert parts == whole


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "00"),
        (125, "7d"),
        (126, "7e007e"),
        (127, "7e007f"),
        (255, "7e00ff"),
        (256, "7e0100"),
        (65535, "7effff"),
        (65536, "7f0000000000010000"),
        (1 << 20, "7f0000000000100000"),
    ],
)
def test_lengths_have_their_shortest_form(size: int, head: str) -> None:
    expected = bytearray.fromhex(head)
    assert encode_frame(FIN | BINARY, bytes(size)) == b"\x82" + expected + bytes(size)
    expected[0] |= 0x80
    frame = encode_masked_frame(FIN | BINARY, bytes(size))
    start = 1 + len(expected)
    assert frame[:start] == b"\x82" + expected
    assert apply_mask(frame[start + 4 :], frame[start : start + 4]) == bytes(size)


def test_the_examples_of_rfc_6455() -> None:
    """Section 5.7."""
    assert encode_frame(FIN | TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert encode_frame(TEXT, b"Hel") == bytes.fromhex("010348656c")
    assert encode_frame(FIN | PING, b"Hello") == bytes.fromhex("890548656c6c6f")
    assert apply_mask(b"Hello", bytes.fromhex("37fa213d")) == bytes.fromhex("7f9f4d5158")
    assert encode_frame(FIN | BINARY, bytes(256)) == bytes.fromhex("827e0100") + bytes(256)
    assert encode_frame(FIN | BINARY, bytes(65536)) == bytes.fromhex("827f0000000000010000") + bytes(65536)


def test_every_frame_has_a_new_masking_key() -> None:
    assert len({encode_masked_frame(FIN | TEXT, b"")[2:] for _ in range(1000)}) > 990


@given(st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=125) | st.sampled_from([b"x" * 126, b"y" * 65536]))
def test_wsproto_reads_our_frames(opcode: int, payload: bytes) -> None:
    if opcode == PING:
        payload = payload[:125]
    if opcode == TEXT:
        payload = payload.decode("latin-1").encode()
    for role, encode in ((ConnectionType.CLIENT, encode_frame), (ConnectionType.SERVER, encode_masked_frame)):
        reader = FrameProtocol(role is ConnectionType.CLIENT, [])
        reader.receive_bytes(encode(FIN | opcode, payload))
        (frame,) = reader.received_frames()
        assert frame.opcode is Opcode(opcode)
        assert frame.message_finished
        assert frame.payload == (payload.decode() if opcode == TEXT else payload)
