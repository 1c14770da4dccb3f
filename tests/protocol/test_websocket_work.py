"""A call of `receive` does a bounded amount of work, and leaves the rest for the next call."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    deflated,
    frame,
    websocket,
)

from pywsapp._protocol.events import Ended, Received


@given(
    st.lists(st.integers(0, 6), max_size=12),
    st.integers(1, 500),
    st.integers(1, 5),
    st.lists(st.integers(1, 200), min_size=1, max_size=9),
)
@settings(max_examples=200, deadline=None)
def test_messages_left_for_later_keep_their_order(
    kinds: list[int], inflate: int, at_once: int, cuts: list[int]
) -> None:
    kinds_of_frames = [
        frame(TEXT, deflated(b"a" * 100), rsv=COMPRESSED),
        frame(BINARY, deflated(b"b" * 300)[:5], rsv=COMPRESSED, fin=False)
        + frame(PING)
        + frame(CONTINUATION, deflated(b"b" * 300)[5:]),
        frame(TEXT, b"plain"),
        frame(PONG, b"pong"),
        frame(BINARY, b"c" * 150),
        frame(TEXT, b"d", fin=False) + frame(CONTINUATION, fin=False) * 40 + frame(CONTINUATION, b"e"),
        close_frame(),
    ]
    data = b"".join([kinds_of_frames[kind] for kind in kinds])
    expected = websocket(deflate=True).receive(data)
    ws, events, position = websocket(deflate=True), list[Received](), 0
    for cut in [*cuts, len(data)]:
        events += ws.receive(data[position : position + cut], inflate, at_once)
        position += cut
        while ws.has_more:
            left = ws.receive(b"", inflate, at_once)
            assert len(left) <= at_once + 1
            compressed = [event for event in left if isinstance(event, (str, bytes)) and len(event) in (100, 300)]
            assert sum(map(len, compressed[:-1])) < inflate
            events += left
    assert comparable(events) == comparable(expected)
    assert not ws.has_more


def comparable(events: list[Received]) -> list[Received]:
    """Return events without the replies of an end, which contain pongs depending on when `take_pongs` was called."""
    return [event._replace(reply=b"") if isinstance(event, Ended) else event for event in events]


@pytest.mark.parametrize("unit", [frame(TEXT, b"x"), frame(TEXT, b"x", fin=False) + frame(CONTINUATION)])
def test_a_call_returns_as_many_messages_as_asked(unit: bytes) -> None:
    ws = websocket()
    assert ws.receive(unit * 10, messages=4) == ["x"] * 4
    assert ws.has_more
    assert ws.receive(unit, messages=4) == ["x"] * 4  # more bytes can arrive before the next call
    assert ws.has_more
    assert ws.receive(b"", messages=4) == ["x"] * 3
    assert not ws.has_more


def test_a_call_for_no_message_keeps_the_bytes() -> None:
    ws = websocket()
    assert ws.receive(frame(TEXT, b"x"), messages=0) == []
    assert ws.has_more
    assert ws.receive(b"") == ["x"]


@pytest.mark.parametrize("unit", [frame(CONTINUATION, fin=False), frame(PING)], ids=["fragments", "pings"])
def test_a_call_reads_a_bounded_number_of_other_frames(unit: bytes) -> None:
    ws = websocket(control_frames_burst=1000)
    assert ws.receive(frame(TEXT, fin=False) + unit * 79 + frame(CONTINUATION, b"x"), messages=2) == []
    calls = 1
    while ws.has_more:
        events = ws.receive(b"", messages=2)
        calls += 1
    assert events == ["x"]
    assert calls == 11  # 81 frames, 8 in each call


def test_uncompressed_bytes_do_not_count_as_inflated() -> None:
    ws = websocket(deflate=True)
    assert len(ws.receive(frame(TEXT, b"x" * 1000) * 100, 1)) == 100
    assert not ws.has_more
