"""Responses to plain HTTP requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pywsapp._http_text import phrase
from pywsapp._protocol.http import encode_response
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Response


async def pieces() -> AsyncIterator[bytes]:
    yield b"piece"


def test_text_and_bytes() -> None:
    text, data = Response("grüße"), Response(b"\x00\x01")
    assert (text.status, text.body, text.content_length) == (200, "grüße".encode(), 7)
    assert text.headers == (("Content-Type", "text/plain; charset=utf-8"),)
    assert (data.body, data.content_length) == (b"\x00\x01", 2)
    assert data.headers == (("Content-Type", "application/octet-stream"),)


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_everything_like_bytes_is_bytes(make: Any) -> None:
    response = Response(make(b"abc"))
    assert type(response.body) is bytes
    assert (response.body, response.content_length) == (b"abc", 3)


def test_a_given_content_type_wins() -> None:
    assert Response("x", headers={"content-TYPE": "text/csv"}).headers == (("content-TYPE", "text/csv"),)
    assert Response("x", content_type="text/csv").headers == (("Content-Type", "text/csv"),)
    assert Response("x", headers=[("X-A", "1"), ("X-A", "2")]).headers[1:] == (("X-A", "1"), ("X-A", "2"))


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_content_has_no_type(status: int) -> None:
    assert Response(status=status).headers == ()


@pytest.mark.parametrize("status", [200, 599])
def test_statuses(status: int) -> None:
    assert Response(status=status).status == status


@pytest.mark.parametrize("status", [199, 101, 0, 600, -1, "200", 200.0, None])
def test_invalid_statuses(status: Any) -> None:
    with pytest.raises(ConfigurationError, match="a Response's status must be from 200 to 599"):
        Response(status=status)


def test_a_body_in_pieces_needs_its_length() -> None:
    body = pieces()
    assert Response(body, content_length=5).content_length == 5
    with pytest.raises(ConfigurationError, match="needs content_length"):
        Response(pieces())
    for length in (-1, "5", 5.0):
        with pytest.raises(ConfigurationError, match="content_length"):
            Response(pieces(), content_length=length)  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [{"a": 1}, ["x"], 7, None])
def test_other_bodies_are_refused_with_advice(body: Any) -> None:
    with pytest.raises(TypeError, match=rf"not {type(body).__name__}; .*Response\.json"):
        Response(body)


def test_html_and_json() -> None:
    page = Response.html("<p>ü", 404, {"X-A": "1"})
    assert (page.status, page.body) == (404, "<p>ü".encode())
    assert page.headers == (("Content-Type", "text/html; charset=utf-8"), ("X-A", "1"))
    answer = Response.json({"a": ["ü", None, 1.5]}, 201)
    assert (answer.status, answer.body) == (201, '{"a":["ü",null,1.5]}'.encode())
    assert answer.headers == (("Content-Type", "application/json"),)
    with pytest.raises(TypeError):
        Response.json(object())


@pytest.mark.parametrize(
    ("refuse", "body"),
    [
        (Refuse(403), b"Forbidden\n"),
        (Refuse(403, body="no entry"), b"no entry\n"),
        (Refuse(403, body="no entry\n"), b"no entry\n"),
        (Refuse(403, body=b"\xff"), b"\xff"),
        (Refuse(403, body=""), b"\n"),
        (Refuse(499), b"\n"),
    ],
)
def test_refusals(refuse: Refuse, body: bytes) -> None:
    response = Response.refusal(refuse)
    assert (response.status, response.body) == (refuse.status, body)
    assert response.headers == (("Content-Type", "text/plain; charset=utf-8"),)


def test_headers_of_a_refusal() -> None:
    response = Response.refusal(Refuse(503, {"Retry-After": "3"}))
    assert response.headers[1:] == (("Retry-After", "3"),)


def test_phrases() -> None:
    assert [phrase(status) for status in (200, 404, 426, 431, 299, 599)] == [
        "OK",
        "Not Found",
        "Upgrade Required",
        "Request Header Fields Too Large",
        "",
        "",
    ]


def test_a_refusal_is_plain_text_of_one_message() -> None:
    """What a client has sent can be part of the reason, and is neither HTML nor a header field."""
    hostile = "<script>alert(1)</script>\r\nSet-Cookie: session=x\r\n\r\nHTTP/1.1 200 OK"
    response = Response.refusal(Refuse(403, body=hostile))
    assert response.headers == (("Content-Type", "text/plain; charset=utf-8"),)
    assert isinstance(response.body, bytes)
    data = encode_response(response.status, response.headers, response.body, content_length=None)
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"Set-Cookie" not in head
    assert b"Content-Length: %d" % len(body) in head
    assert body == f"{hostile}\n".encode()
    for headers in ([("X", "a\r\nSet-Cookie: b")], [("X\r\nSet-Cookie", "b")], [("X", "a\nb")], [("X", "a\0b")]):
        with pytest.raises(ConfigurationError):
            encode_response(403, Refuse(403, headers).headers, b"", content_length=None)
