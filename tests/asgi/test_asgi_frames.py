"""The border between frames and the messages of ASGI: frames in any pieces, and messages as frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pywsapp import Options
from pywsapp._protocol.events import Ended
from pywsapp._protocol.websocket import WebSocket
from pywsapp.asgi.frames import FrameReader, WrittenFrame, close_frame, message_frame

SIZES = st.one_of(st.integers(0, 130), st.sampled_from([65535, 65536, 70000]))


def server_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    width, code = (2, 126) if size < 65536 else (8, 127)
    return bytes((0x80 | opcode, code)) + size.to_bytes(width, "big") + payload


@given(st.lists(st.tuples(st.sampled_from([1, 2, 8]), SIZES), max_size=5), st.lists(st.integers(1, 80000), max_size=20))
def test_frames_are_found_in_any_pieces(frames: list[tuple[int, int]], cuts: list[int]) -> None:
    expected = [WrittenFrame(opcode, bytes([number % 251]) * size) for number, (opcode, size) in enumerate(frames)]
    data = b"".join(server_frame(*frame) for frame in expected)
    reader, position = FrameReader(), 0
    found: list[WrittenFrame] = []
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[position : position + cut])
        position += cut
    assert found == expected


def test_a_frame_in_many_pieces_is_joined_once() -> None:
    reader, payload = FrameReader(), bytes(1_000_000)
    data = server_frame(2, payload)
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    found = [frame for piece in pieces for frame in reader.feed(piece)]
    assert found == [WrittenFrame(2, payload)]
    assert not reader._pieces


@given(st.one_of(st.text(), st.binary()))
def test_a_message_becomes_a_frame_that_the_protocol_reads(message: str | bytes) -> None:
    ws = WebSocket(client=False, options=Options(), deflate=None)
    assert list(ws.receive(message_frame(message))) == [message]


def test_large_messages() -> None:
    for size in (125, 126, 65535, 65536, 200_000):
        ws = WebSocket(client=False, options=Options(), deflate=None)
        assert list(ws.receive(message_frame(bytes(size)))) == [bytes(size)]


def test_text_that_is_no_utf8_ends_the_connection() -> None:
    (event,) = WebSocket(client=False, options=Options(), deflate=None).receive(message_frame("\ud800"))
    assert isinstance(event, Ended)
    assert event.code == 1007


@given(st.integers(-10, 70000), st.text(max_size=200))
def test_close_codes(code: int, reason: str) -> None:
    frame = close_frame(code, reason)
    ws = WebSocket(client=False, options=Options(), deflate=None)
    if frame is None:
        assert code in (1004, 1006, 1015) or not 1000 <= code < 5000
        return
    (event,) = ws.receive(frame)
    assert isinstance(event, Ended)
    if event.by_peer:
        assert event.code == code
