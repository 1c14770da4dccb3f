"""The format of event streams: any message arrives as it was sent, and an `EventStream` stands in for a WebSocket."""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._protocol.event_stream import KEEPALIVE, MAX_INPUT, EventFormat, EventStream, id_only
from pywsapp._protocol.events import Ended
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.options import Options
from pywsapp.testing.event_stream import EventParser, StreamEvent
from pywsapp.topics import Publication

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text("\r\n :d\0\ufeff", max_size=20)


def stream(event: str | None = None) -> EventStream:
    return EventStream(EventFormat(event), Options(), 2)


def in_pieces(data: bytes, cuts: list[int]) -> list[StreamEvent]:
    """Return the events of a stream that arrives in pieces."""
    parser = EventParser()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(edges)]
    return [event for piece in pieces for event in parser.receive(piece)]


def as_browsers_have_it(text: str) -> str:
    return re.sub("\r\n?", "\n", text)


@given(st.lists(TEXTS, max_size=5), st.sampled_from([None, "token", "ä b:c"]), st.lists(st.integers(0), max_size=4))
def test_any_text_arrives(messages: list[str], event: str | None, cuts: list[int]) -> None:
    one = stream(event)
    data = one.retry_line() + b"".join(one.encode(message) + KEEPALIVE for message in messages)
    expected = [StreamEvent(as_browsers_have_it(message), event or "message", "") for message in messages]
    assert in_pieces(data, cuts) == expected


@given(st.binary(max_size=100))
def test_any_bytes_arrive(message: bytes) -> None:
    (event,) = EventParser().receive(stream("token").encode_large(message))
    assert event.event == "binary"
    assert base64.b64decode(event.data) == message


@given(TEXTS | st.binary(max_size=100))
def test_a_message_with_a_position(content: str | bytes) -> None:
    prepared = PreparedMessage("what wrap has made")
    prepared.publication = Publication("room:1", "17-5f3c", content)
    (event,) = EventParser().receive(stream().encode(prepared))
    assert event.id == "17-5f3c"
    text = base64.b64encode(content).decode() if isinstance(content, bytes) else as_browsers_have_it(content)
    assert event.data == text


def test_lost_messages() -> None:
    prepared = PreparedMessage("what wrap has made")
    prepared.publication = Publication('room:"1"', "17-5f3c", None)
    (event,) = EventParser().receive(stream("token").encode(prepared))
    assert event == StreamEvent(event.data, "lost", "17-5f3c")
    assert json.loads(event.data) == {"topic": 'room:"1"', "position": "17-5f3c"}


def test_an_id_without_an_event() -> None:
    parser = EventParser()
    assert list(parser.receive(id_only("3-a"))) == []
    assert parser.last_id == "3-a"


def test_a_prepared_message_is_encoded_once_for_all_streams_of_a_format() -> None:
    prepared, wire_format = PreparedMessage("x"), EventFormat()
    first = EventStream(wire_format, Options(), 1).encode(prepared)
    assert EventStream(wire_format, Options(), 1).encode(prepared) is first
    assert stream("token").encode(prepared) == b"event: token\n" + first


def test_the_end() -> None:
    one = stream()
    assert re.fullmatch(rb"retry: [0-9]+\n\n", one.close(1000, ""))
    assert one.close(1000, "") == b""
    assert one.receive(b"x" * (MAX_INPUT + 1)) == []


def test_a_client_that_sends() -> None:
    one = stream()
    assert one.receive(b"x" * MAX_INPUT) == []
    (ended,) = one.receive(b"x")
    assert isinstance(ended, Ended)
    assert (ended.code, ended.by_peer, ended.reply) == (1009, False, b"")
    assert one.close(1000, "") == b""


def test_what_stands_in_for_a_websocket() -> None:
    one = stream()
    assert one.ping(b"") == KEEPALIVE
    assert one.tick(1e9) is None
    assert one.take_pongs() == b""
    with pytest.raises(TypeError):
        one.encode(3)  # type: ignore[arg-type]
