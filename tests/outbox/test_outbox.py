"""The queue of frames, with large frames in two pieces, against a simple model."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serving import BINARY, Pipe, Recorder, RecordingTransport

from pywsapp._outbox.outbox import WRITELINES_PAUSES, Frame, Outbox, length
from pywsapp._protocol.sending import LARGE
from pywsapp.options import Options, SlowConsumer

FRAMES = st.one_of(st.binary(min_size=1, max_size=20), st.tuples(st.binary(min_size=1, max_size=5), st.binary()))


def filled(frames: list[Frame]) -> Outbox:
    outbox = Pipe(Recorder()).lifecycle.machine.outbox
    for frame in frames:
        outbox.add_last(frame)
    return outbox


def joined(frame: Frame) -> bytes:
    return b"".join(frame) if isinstance(frame, tuple) else frame


@given(st.lists(FRAMES, min_size=1), st.integers(1, 100))
def test_take_returns_whole_frames_in_order(frames: list[Frame], limit: int) -> None:
    outbox = filled(frames)
    ends = {0}
    for frame in frames:
        ends.add(max(ends) + length(frame))
    taken = b""
    while outbox.frames:
        before = outbox.size
        part = joined(outbox.take(limit))
        assert outbox.size == before - len(part) == sum(map(length, outbox.frames))
        assert len(part) >= min(limit, before)
        taken += part
        assert len(taken) in ends
    assert taken == b"".join(map(joined, frames))
    assert outbox.size == 0


@given(st.lists(FRAMES), st.integers(0, 100))
def test_drop_oldest_removes_whole_frames(frames: list[Frame], size: int) -> None:
    outbox = filled(frames)
    outbox.drop_oldest(size)
    assert outbox.size == sum(map(length, outbox.frames)) <= max(size, 0)
    assert outbox.frames == frames[len(frames) - len(outbox.frames) :]
    if len(outbox.frames) < len(frames):  # with one frame more, the size would exceed the limit
        assert outbox.size + length(frames[len(frames) - len(outbox.frames) - 1]) > size


class Endless(bytes):
    """An object that states a length of its own."""

    def __len__(self) -> int:
        return sys.maxsize


@pytest.mark.parametrize("frame", [Endless(), (b"head", Endless()), (Endless(), b"payload")])
def test_a_length_that_no_memory_holds_is_an_error(frame: Frame) -> None:
    outbox = filled([b"1"])
    outbox.frames.append(frame)
    with pytest.raises(OverflowError, match="longer than"):
        outbox.drop_oldest(-1)
    with pytest.raises(OverflowError, match="longer than"):
        outbox.add_last(frame)


def test_clear_removes_all_frames() -> None:
    outbox = filled([b"1", (b"2", b"3")])
    outbox.clear()
    assert (outbox.frames, outbox.size) == ([], 0)


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 65535, 65536])
def test_large_messages_keep_their_order(size: int) -> None:
    pipe = Pipe(Recorder())
    large = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for message in ("before", large, "between", large, large, "after"):
        pipe.conn.send(message)
    pipe.turn()
    assert pipe.messages() == ["before", large, "between", large, large, "after"]


@pytest.mark.skipif(not WRITELINES_PAUSES, reason="the outbox does not use writelines on this Python")
def test_a_large_message_is_not_copied() -> None:
    class Pieces(RecordingTransport):
        def __init__(self) -> None:
            super().__init__()
            self.pieces: list[object] = []

        def writelines(self, pieces: object) -> None:
            assert isinstance(pieces, tuple)
            self.pieces += pieces
            super().writelines(pieces)

    recorder = Pieces()
    pipe = Pipe(Recorder(), recorder=recorder)
    large = bytes(LARGE)
    pipe.conn.send(large)
    pipe.turn()
    assert any(piece is large for piece in recorder.pieces)
    assert pipe.messages() == [large]


@pytest.mark.parametrize("policy", SlowConsumer)
def test_large_messages_are_dropped_whole(policy: SlowConsumer) -> None:
    pipe = Pipe(Recorder(), Options(high_water=LARGE, max_outbox=8 * LARGE, slow_consumer=policy))
    pipe.client.transport.pause_reading()
    for number in range(40):
        pipe.conn.send(bytes([number]) * LARGE)
        pipe.host.flush()
    pipe.client.transport.resume_reading()
    pipe.turn()
    received = [payload for opcode, payload in pipe.client.frames if opcode == BINARY]
    assert all(len(payload) == LARGE and len(set(payload)) == 1 for payload in received)
    numbers = [payload[0] for payload in received]
    assert numbers == sorted(numbers)
    assert 0 < len(numbers) < 40
    assert (numbers[-1] == 39) == (policy is SlowConsumer.DROP_OLDEST)
    assert pipe.codes() == ([1013] if policy is SlowConsumer.CLOSE else [])
