"""The head of a response: parsed strictly in the client role, and written so that no field can leave its line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywsapp._protocol.http import encode_fields, encode_response, parse_response
from pywsapp.exceptions import ConfigurationError, HandshakeError

# -- reading a response ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 101 Switching Protocols", 101, "Switching Protocols"),
        (b"HTTP/1.1 404 ", 404, ""),
        (b"HTTP/1.0 599", 599, ""),
        (b"HTTP/1.1 500 \xe9\xe9", 500, "éé"),
    ],
)
def test_response(line: bytes, status: int, reason: str) -> None:
    answer = parse_response(line + b"\r\nX: a\r\nX: b ", max_headers=2)
    assert (answer.status, answer.reason) == (status, reason)
    assert answer.headers.getlist("x") == ["a", "b"]
    assert answer.http_version == (1, int(line[7:8]))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 1\xb21 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 OK\nX: a",
        b"HTTP/1.1 200 OK\r\n X: a",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b",
        b"HTTP/1.1 200 OK\r\nX : a",
        b"HTTP/1.1 200 OK\r\nX: a\r\nX: a\r\nX: a",
    ],
)
def test_malformed_response(head: bytes) -> None:
    with pytest.raises(HandshakeError):
        parse_response(head, max_headers=2)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=40).map(b"HTTP/1.1 200 ".__add__)))
def test_any_response_is_parsed_or_an_error(head: bytes) -> None:
    try:
        answer = parse_response(head, max_headers=3)
    except HandshakeError:
        return
    assert head.startswith(b"HTTP/1.%d %d" % (answer.http_version[1], answer.status))


# -- writing a response ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "body", "content_length", "date", "expected"),
    [
        (
            200,
            [("X", "é")],
            b"hi",
            None,
            None,
            b"200 OK\r\nX: \xe9\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (404, [], b"", None, None, b"404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        (200, [], None, 7, None, b"200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n"),
        (200, [], None, None, "now", b"200 OK\r\nConnection: close\r\nDate: now\r\n\r\n"),
        (204, [], b"x", 1, None, b"204 No Content\r\nConnection: close\r\n\r\n"),
        (304, [("ETag", '"a"')], None, 9, None, b'304 Not Modified\r\nETag: "a"\r\nConnection: close\r\n\r\n'),
        (499, [], b"", None, None, b"499 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_encode_response(
    status: int,
    headers: list[tuple[str, str]],
    body: bytes | None,
    content_length: int | None,
    date: str | None,
    expected: bytes,
) -> None:
    encoded = encode_response(status, headers, body, content_length=content_length, date=date)
    assert encoded == b"HTTP/1.1 " + expected


def test_a_426_keeps_its_connection_field() -> None:
    encoded = encode_response(426, [("Upgrade", "websocket"), ("Connection", "Upgrade")], b"", content_length=None)
    answer = parse_response(encoded.partition(b"\r\n\r\n")[0], max_headers=10)
    assert answer.headers.getlist("connection") == ["Upgrade", "close"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nSet-Cookie: b"),
        ("X", "a\n"),
        ("X", "a\r"),
        ("X", "a\0"),
        ("X", "a\x7f"),
        ("X", "☃"),
        ("X", 5),
        ("X", b"bytes"),
        ("X", None),
        ("X Y", "a"),
        ("X:", "a"),
        ("X\n", "a"),
        ("é", "a"),
        ("", "a"),
        (5, "a"),
        (b"Y", "a"),
        ("Content-Length", "5"),
        ("transfer-ENCODING", "chunked"),
    ],
)
def test_fields_that_cannot_be_sent(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=r".") as caught:
        encode_response(200, [(name, value)], b"", content_length=None)
    assert repr(name)[1:-1] in str(caught.value)
    if name == "X" and isinstance(value, str):
        assert value not in str(caught.value)


def test_a_malformed_date_cannot_be_sent() -> None:
    with pytest.raises(ConfigurationError, match="Date"):
        encode_response(200, [], b"", content_length=None, date="a\r\nb")


@given(st.text(max_size=5), st.text(max_size=8))
def test_a_field_never_leaves_its_line(name: str, value: str) -> None:
    try:
        line = "".join(encode_fields([(name, value)]))
    except ConfigurationError:
        return
    head = ("HTTP/1.1 200 OK\r\n" + line).encode("latin-1")[:-2]
    assert parse_response(head, max_headers=1).headers.multi_items() == ((name.lower(), value.strip(" \t")),)
