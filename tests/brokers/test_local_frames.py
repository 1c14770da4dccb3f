"""The frames of the local bus are read as they were encoded, however they are split, and nothing else is accepted."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywsapp.brokers.base import Keep, Outgoing
from pywsapp.brokers.local.frames import (
    CONFIRM,
    HEAD,
    KEEP,
    MAX_FRAME,
    MAX_ITEMS,
    MESSAGES,
    SUBSCRIBE,
    BusError,
    FrameReader,
    decode_keep,
    decode_text,
    encode,
    encode_lists,
    encode_messages,
    items_of,
)

Frame = tuple[int, bytes, list[bytes]]

#: The machine may be busy with something else.
patient = settings(deadline=None)

frames = st.lists(
    st.tuples(st.integers(0, 255), st.binary(max_size=255), st.lists(st.binary(max_size=40), max_size=5)), max_size=6
)
topics = st.sampled_from(["a", "room:42", "部屋:四十二"])
keeps = st.none() | st.builds(
    Keep,
    st.tuples(st.text("abc", max_size=5), st.integers(0, 2**64 - 1)),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1e9),
    st.integers(0, 2**32 - 1),
)
messages = st.lists(st.builds(Outgoing, topics, st.binary(max_size=200), keeps), max_size=30)


def read(reader: FrameReader, data: bytes) -> list[Frame]:
    return [(cut[0], cut[2], items_of(reader.buffer, cut)) for cut in reader.read(data)]


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        yield data[start:end]


@patient
@given(frames, st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_are_read_as_they_were_encoded(written: list[Frame], cuts: list[int]) -> None:
    reader = FrameReader()
    data = b"".join(encode(*frame) for frame in written)
    assert [frame for piece in pieces(data, cuts) for frame in read(reader, piece)] == written


@patient
@given(frames)
def test_a_frame_is_yielded_with_its_last_byte(written: list[Frame]) -> None:
    reader = FrameReader()
    for frame in written:
        data = encode(*frame)
        for number in range(len(data) - 1):
            assert list(reader.read(data[number : number + 1])) == []
        (cut,) = reader.read(data[-1:])
        assert reader.buffer[cut[3] : cut[5]] == data


def check_that_nothing_else_is_read(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader()
    found = []
    try:
        for piece in pieces(data, cuts):
            for cut in reader.read(piece):
                found.append(reader.buffer[cut[3] : cut[5]])
                assert encode(cut[0], cut[2], items_of(reader.buffer, cut)) == found[-1]
    except BusError:
        pass
    assert data.startswith(b"".join(found))


@patient
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_other_bytes_are_frames_or_refused(data: bytes, cuts: list[int]) -> None:
    check_that_nothing_else_is_read(data, cuts)


@patient
@given(frames, st.integers(0, 10_000), st.integers(0, 255))
def test_a_frame_with_one_wrong_byte_is_another_frame_or_refused(written: list[Frame], place: int, byte: int) -> None:
    data = bytearray(b"".join(encode(*frame) for frame in written) or b"\0")
    data[place % len(data)] = byte
    check_that_nothing_else_is_read(bytes(data), [place])


def test_a_large_frame_is_refused_by_its_head() -> None:
    good = encode(MESSAGES, b"a", [b"x"])
    reader = FrameReader()
    cuts = reader.read(good + HEAD.pack(MAX_FRAME + 1, MESSAGES, 1, 1))
    assert next(cuts)[0] == MESSAGES
    with pytest.raises(BusError, match="larger than"):
        next(cuts)
    assert list(FrameReader().read(HEAD.pack(MAX_FRAME, MESSAGES, 1, 1))) == []


@pytest.mark.parametrize(
    "data",
    [
        HEAD.pack(2, MESSAGES, 3, 1) + b"ab",  # the name is longer than the frame
        HEAD.pack(2, MESSAGES, 1, 0) + b"ab",  # there is more than no items
        HEAD.pack(4, MESSAGES, 1, 3) + b"a" + b"xyz",  # no room for the sizes
        HEAD.pack(8, MESSAGES, 0, 2) + struct.pack("<I", 5) + b"wxyz",  # the first item is longer than all
        HEAD.pack(12, MESSAGES, 0, 3) + struct.pack("<II", 2**32 - 1, 5) + b"wxyz",
    ],
)
def test_a_frame_whose_items_do_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(BusError, match="does not have the length"):
        list(FrameReader().read(data))


@pytest.mark.parametrize(
    ("name", "items"),
    [(b"n" * 256, []), (b"", [b""] * (MAX_ITEMS + 1)), (b"", [bytes(MAX_FRAME + 1)]), (b"n", [bytes(MAX_FRAME)])],
)
def test_content_that_does_not_fit_into_a_frame_is_not_encoded(name: bytes, items: list[bytes]) -> None:
    with pytest.raises(BusError, match="do not fit"):
        encode(MESSAGES, name, items)


def outgoing(frame: Frame) -> list[Outgoing]:
    kind, name, items = frame
    if kind & ~CONFIRM == KEEP:
        return [Outgoing(name.decode(), items[2], decode_keep(items[0], items[1]))]
    return [Outgoing(name.decode(), item) for item in items]


@patient
@given(messages)
def test_messages_stay_in_order_on_their_topics_and_the_last_frame_has_confirm(written: list[Outgoing]) -> None:
    found = read(FrameReader(), b"".join(encode_messages(written)))
    came = [message for frame in found for message in outgoing(frame)]
    for name in {message.topic for message in came + written}:
        assert [message for message in came if message.topic == name] == [m for m in written if m.topic == name]
    assert [frame[0] & CONFIRM for frame in found] == [0] * (len(found) - 1) + [CONFIRM] * bool(found)


def test_messages_on_one_topic_share_frames_of_moderate_size() -> None:
    assert len(encode_messages([Outgoing("a", b"x")] * 500)) == 1
    assert len(encode_messages([Outgoing("a", b"x"), Outgoing("b", b"x")] * 250)) == 2
    assert len(encode_messages([Outgoing("a", b"")] * 10_000)) == 10
    sizes = [len(frame) for frame in encode_messages([Outgoing("a", bytes(100_000))] * 10)]
    assert len(sizes) == 5
    assert max(sizes) < 300_000
    large, small = Outgoing("a", bytes(1_000_000)), Outgoing("a", b"x")
    assert len(encode_messages([small, small, large, small, small])) == 3


@pytest.mark.parametrize(("count", "number"), [(0, 0), (1, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_lists_are_divided_and_the_last_frame_has_confirm(count: int, number: int) -> None:
    written = [b"%d" % item for item in range(count)]
    found = read(FrameReader(), b"".join(encode_lists(SUBSCRIBE, written)))
    assert [item for _, _, items in found for item in items] == written
    assert [kind for kind, _, _ in found] == [SUBSCRIBE] * (number - 1) + [SUBSCRIBE | CONFIRM] * bool(number)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e300])
def test_invalid_times_to_keep_a_message(seconds: float) -> None:
    with pytest.raises(BusError, match="seconds"):
        decode_keep(b"me", struct.pack("<QIxxxxd", 1, 1, seconds))


@patient
@given(st.binary(max_size=300), st.binary(max_size=30))
def test_any_keep_is_decoded_or_refused(process: bytes, how: bytes) -> None:
    try:
        keep = decode_keep(process, how)
    except BusError:
        return
    assert keep.seconds >= 0
    assert len(keep.id[0]) <= 255


def test_a_name_is_utf8() -> None:
    with pytest.raises(BusError, match="is not UTF-8"):
        decode_text(b"\xff")
