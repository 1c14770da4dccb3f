"""The end of the head of a request: found wherever the bytes are cut, within limits.

Mirrors Ratchet's HttpRequestParserTest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection

from pywsapp._protocol.http import HeadBuffer, parse_request
from pywsapp.exceptions import Refuse
from pywsapp.http import Request

MAX_SIZE = 16 * 1024
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def parse(head: bytes, max_headers: int = 100) -> Request:
    return parse_request(head, max_headers=max_headers, scheme="https", remote_address="192.0.2.1")


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(edges))


def heads(buffer: HeadBuffer, chunks: Iterable[bytes]) -> list[bytes]:
    return [head for chunk in chunks if (head := buffer.receive(chunk)) is not None]


# -- finding the end of the head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (b"GET / HTTP/1.1\r\nHost: h", None),
        (b"GET / HTTP/1.1\r\nHost: h\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n1", b"1"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\nHixie\xe2\x9c\x96", b"Hixie\xe2\x9c\x96"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\nbody\r\n\r\n", b"body\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\nbody\r\n", b"body\r\n"),
    ],
)
def test_ratchet_end_of_message(data: bytes, rest: bytes | None) -> None:
    buffer = HeadBuffer(MAX_SIZE)
    head = buffer.receive(data)
    assert head == (None if rest is None else b"GET / HTTP/1.1\r\nHost: h")
    assert buffer.rest == (rest or b"")


def test_ratchet_limit_of_an_unfinished_head() -> None:
    buffer = HeadBuffer(20)
    assert buffer.receive(b"GET / HTTP/1.1\r\n") is None
    with pytest.raises(Refuse) as caught:
        buffer.receive(b"Header-Is: Too Long")
    assert caught.value.status == 431


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("size", "status"), [(63, None), (64, None), (65, 431)])
def test_limit_is_exact(whole: bool, size: int, status: int | None) -> None:
    head = b"GET / HTTP/1.1\r\nHost: ".ljust(size, b"h")
    buffer = HeadBuffer(64)
    data = head + b"\r\n\r\n"
    chunks = [data] if whole else [bytes([byte]) for byte in data]
    if status is None:
        assert heads(buffer, chunks) == [head]
    else:
        with pytest.raises(Refuse) as caught:
            heads(buffer, chunks)
        assert caught.value.status == status


def test_an_endless_head_is_refused_with_the_first_byte_too_many() -> None:
    buffer = HeadBuffer(64)
    # 64 bytes of head and three of the four that end it can still become a complete head.
    assert buffer.receive(b"GET / HTTP/1.1\r\nHost: ".ljust(67, b"h")) is None
    with pytest.raises(Refuse) as caught:
        buffer.receive(b"h")
    assert caught.value.status == 431


@pytest.mark.parametrize(("size", "status"), [(64, 431), (65, 414)])
def test_a_long_first_line_has_its_own_status(size: int, status: int) -> None:
    with pytest.raises(Refuse) as caught:
        HeadBuffer(64).receive(b"GET /".ljust(size, b"a") + b"\r\nHost: h\r\n\r\n")
    assert caught.value.status == status


def test_wsproto_c4_limit_holds_for_a_head_in_one_read() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 17 * 1024 + b"\r\n" + UPGRADE + b"\r\n"
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(raw)
    assert len(list(server.events())) == 1  # wsproto accepts it
    with pytest.raises(Refuse) as caught:
        HeadBuffer(MAX_SIZE).receive(raw)
    assert caught.value.status == 431


def test_wsproto_c3_nothing_is_kept_beyond_the_limit() -> None:
    buffer = HeadBuffer(MAX_SIZE)
    accepted = 0
    with pytest.raises(Refuse):  # noqa: PT012 - the assertion is about the progress before it
        while accepted < 1024 * 1024:
            buffer.receive(b"a" * 1000)
            accepted += 1000
    assert accepted <= MAX_SIZE + len(b"\r\n\r\n")


def test_wsproto_c2_bytes_after_the_request_are_kept() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\n" + UPGRADE + b"\r\n"
    frame = b"\x81\x82abcd\x09\x0b"
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(raw + frame)
    assert len(list(server.events())) == 1
    server.send(AcceptConnection())
    assert list(server.events()) == []  # the message is lost
    buffer = HeadBuffer(MAX_SIZE)
    assert buffer.receive(raw + frame) == raw[:-4]
    assert buffer.rest == frame


@pytest.mark.parametrize("dribble", [True, False])
@pytest.mark.parametrize(("lines", "taken"), [(0, True), (1, True), (4, True), (5, False), (5000, False)])
def test_empty_lines_before_the_request(lines: int, taken: bool, dribble: bool) -> None:
    buffer = HeadBuffer(MAX_SIZE)
    data = b"\r\n" * lines + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    chunks = [bytes([byte]) for byte in data] if dribble else [data]
    if taken:
        assert heads(buffer, chunks) == [b"GET / HTTP/1.1\r\nHost: h"]
    else:
        with pytest.raises(Refuse) as caught:
            heads(buffer, chunks)
        assert caught.value.status == 400


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"\x00", b"\x80\x2e", b" GET /", b"\n", b"\rG", b"\r\n\x16"])
def test_what_cannot_be_http_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(Refuse) as caught:
        HeadBuffer(MAX_SIZE).receive(data)
    assert caught.value.status == 400


def test_a_head_that_dribbles_in_is_searched_once() -> None:
    # Searching or copying all of it for each byte would touch 500 gigabytes, and exceed the timeout of pytest.
    size = 1024 * 1024
    buffer = HeadBuffer(size)
    data = b"GET / HTTP/1.1\r\nX: ".ljust(size, b"\r")
    for start in range(size):
        assert buffer.receive(data[start : start + 1]) is None
    assert buffer.receive(b"\r\n\r\n") is not None


# -- any bytes at any cuts ---------------------------------------------------------------------------------------------

VALID = b"GET /a%20b?c HTTP/1.1\r\nHost: h:1\r\n" + UPGRADE + b"\r\nrest"
LIMIT = len(VALID) - 8  # the head of VALID just fits


@st.composite
def almost_valid(draw: st.DrawFn) -> bytes:
    data = bytearray(VALID)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 3))
        data[start : start + size] = draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"%00", b"\xff"])
            )
        )
    return bytes(data)


def outcome(data: bytes, cuts: list[int]) -> tuple[object, ...]:
    """Return everything that a caller sees of a head that arrived in pieces."""
    buffer = HeadBuffer(LIMIT)
    chunks = pieces(data, cuts)
    try:
        for chunk in chunks:
            if (head := buffer.receive(chunk)) is not None:
                request = parse(head, max_headers=6)
                fields = tuple(getattr(request, name) for name in Request.__slots__ if name != "headers")
                return (*fields, request.headers.multi_items(), buffer.rest + b"".join(chunks))
    except Refuse as refuse:
        return refuse.status, refuse.body
    return (None,)


@settings(deadline=None, max_examples=300)
@given(
    data=st.one_of(st.binary(max_size=300), almost_valid()),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    each=st.booleans(),
)
def test_any_bytes_at_any_cuts_are_a_request_or_a_refusal(data: bytes, cuts: list[int], each: bool) -> None:
    assert outcome(data, list(range(len(data))) if each else cuts) == outcome(data, [])


@settings(deadline=None, max_examples=300)
@given(almost_valid())
def test_h11_reads_accepted_heads_the_same(data: bytes) -> None:
    buffer = HeadBuffer(MAX_SIZE)
    try:
        head = buffer.receive(data)
        request = None if head is None else parse(head)
    except Refuse:
        return
    if head is None or request is None:
        return
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(head + b"\r\n\r\n")
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    assert event.method.decode() == request.method
    assert [(name.decode(), value.decode("latin-1")) for name, value in event.headers] == list(
        request.headers.multi_items()
    )


def test_the_bytes_of_an_incomplete_head_are_counted() -> None:
    buffer = HeadBuffer(1000)
    counts = []
    for data in (b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\nrest"):
        buffer.receive(data)
        counts.append(buffer.received)
    assert counts == [16, 25, 0]
