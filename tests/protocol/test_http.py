"""The head of a request, parsed strictly: it has one meaning, or it is refused.

Mirrors the URI, version and Host cases of rfc6455's RequestVerifierTest (Ratchet's protocol library).
"""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request as WsprotoRequest

from pywsapp._protocol.http import parse_host, parse_request
from pywsapp.exceptions import Refuse
from pywsapp.http import Request

UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def parse(head: bytes, max_headers: int = 100) -> Request:
    return parse_request(head, max_headers=max_headers, scheme="https", remote_address="192.0.2.1")


def refused(head: bytes, max_headers: int = 100) -> Refuse:
    with pytest.raises(Refuse) as caught:
        parse(head, max_headers)
    body = caught.value.body
    assert isinstance(body, str)
    assert body
    assert "\n" not in body
    return caught.value


def wsproto_accepts(raw: bytes) -> bool:
    """Return whether wsproto reads a handshake in these bytes; its uncaught exceptions pass through."""
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(raw)
    return any(isinstance(event, WsprotoRequest) for event in server.events())


def test_ratchet_a_complete_head_becomes_a_request() -> None:
    request = parse(
        b"GET /chat/r%C3%B6om%2F1?x=%20&y HTTP/1.1\r\nHost: WWW.Example.com:8080\r\nX-Plain:value\r\n"
        b"X-Blank: \t caf\xe9 au lait\xa0 \t\r\nX-Empty:\r\nSec-WebSocket-Protocol: a, b\r\nsec-websocket-protocol: ,c,"
    )
    assert request.method == "GET"
    assert request.path == "/chat/röom/1"
    assert request.query_string == "x=%20&y"
    assert request.http_version == (1, 1)
    assert request.scheme == "https"
    assert request.host == "www.example.com"
    assert request.port == 8080
    assert request.remote_address == "192.0.2.1"
    assert request.subprotocols == ("a", "b", "c")
    assert request.headers.multi_items() == (
        ("host", "WWW.Example.com:8080"),  # wsproto drops it (C9)
        ("x-plain", "value"),
        ("x-blank", "café au lait\xa0"),
        ("x-empty", ""),
        ("sec-websocket-protocol", "a, b"),
        ("sec-websocket-protocol", ",c,"),
    )


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.1", None),
        (b"get / HTTP/1.1", None),
        (b"POST /?a?b HTTP/1.1", None),
        (b"GET //x HTTP/1.1", None),
        (b"GET / HTTP/1.0", None),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/1.10", 400),
        (b"GET / HTTP/1", 400),
        (b"GET / HTTP/1.\xb2", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET / hello", 400),
        (b"GET /", 400),
        (b"GET", 400),
        (b"", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"G(T / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET chat HTTP/1.1", 400),
        (b"GET http://h/ HTTP/1.1", 400),
        (b"GET /#a HTTP/1.1", 400),
        (b"GET /?a#b HTTP/1.1", 400),
        (b"GET /\xc3\xa9 HTTP/1.1", 400),
        (b"GET /?\xff HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1", 400),
        (b"GET /%ff HTTP/1.1", 400),
        (b"GET /%c0%af HTTP/1.1", 400),
        (b"GET /%00 HTTP/1.1", 400),
        (b"GET /% HTTP/1.1", 400),
        (b"GET /%4 HTTP/1.1", 400),
        (b"GET /%zz HTTP/1.1", 400),
        (b"GET /a/../b HTTP/1.1", 400),
        (b"GET /a/%2E%2e HTTP/1.1", 400),
        (b"GET /a%2f..%2fb HTTP/1.1", 400),
        (b"GET /./a HTTP/1.1", 400),
        (b"GET /. HTTP/1.1", 400),
        (b"GET /%252e%252e/a HTTP/1.1", None),
        (b"GET /.well-known/a..b/.../..;/ HTTP/1.1", None),
        (b"GET /?/../ HTTP/1.1", None),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r", 400),
    ],
)
def test_request_line(line: bytes, status: int | None) -> None:
    head = line + b"\r\nHost: h"
    if status is None:
        assert parse(head).method == line.split()[0].decode()
    else:
        assert refused(head).status == status


@pytest.mark.parametrize(
    "field",
    [
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\n\rb",
        b"X: a\rb\nc",
        b"X: a\x00",
        b"X: a\x0b",
        b"X: a\x1f",
        b"X: a\x7f",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b" X: a",
        b"X : a",
        b"X\t: a",
        b"X a",
        b": a",
        b"",
        b"X(: a",
        b"X\xe9: a",
        b"X\nY: a",
        b"X: a\r",
        b"X: a\n",
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_malformed_field(field: bytes, last: bool) -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + field + (b"" if last else b"\r\nY: b")
    assert refused(head).status == 400


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"h", "h", None),
        (b"EXAMPLE.com.", "example.com.", None),
        (b"my_host-1:80", "my_host-1", 80),
        (b"h:", "h", None),
        (b"192.0.2.1:65535", "192.0.2.1", 65535),
        (b"[::1]", "::1", None),
        (b"[2001:DB8::1]:443", "2001:db8::1", 443),
    ],
)
def test_host(value: bytes, host: str, port: int | None) -> None:
    request = parse(b"GET / HTTP/1.1\r\nHost: " + value)
    assert (request.host, request.port) == (host, port)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a b",
        b"a,b",
        b"a/b",
        b"user@h",
        b"http://h",
        b".h",
        b"a..b",
        b":80",
        b"h:x",
        b"h:-1",
        b"h:65536",
        b"h:000080",
        b"h:\xb2",
        b"h\xe9",
        b"xn--\xff.example",
        b"[::1",
        b"[]",
        b"[1.2.3.4]",
        b"[::1%25lo]",
        b"::1",
        b"h#",
        b"h#@evil.example",
        b"h?x",
        b"h?@evil.example",
        b"h@evil.example",
        b"h:80@evil.example",
        b"h/..",
        b"h/@evil.example",
        b"h\\evil.example",
        b"[::1]@evil.example",
        b"h%00",
        b"h%2f",
        b"h" * 300,
    ],
)
def test_malformed_host(value: bytes) -> None:
    assert refused(b"GET / HTTP/1.1\r\nHost: " + value).status == 400


@given(
    st.binary(max_size=40)
    | st.tuples(
        st.sampled_from([b"h", b"h.example", b"[::1]", b"192.0.2.1", b""]),
        st.text(alphabet="/?#@:[]\\%. a0", max_size=8).map(str.encode),
    ).map(b"".join)
)
def test_any_host_is_a_name_or_a_400(value: bytes) -> None:
    """Whatever the Host field is: no other exception, and nothing that could change a URL that it is put into."""
    head = b"GET /chat HTTP/1.1\r\nHost: " + value
    status, request = 0, None
    try:
        request = parse(head)
    except Refuse as exc:
        status = exc.status
    if request is None:
        assert status in (400, 431)
        return
    name = f"[{request.host}]" if ":" in request.host else request.host
    parts = urlsplit(f"https://{name}{'' if request.port is None else f':{request.port}'}/chat")
    assert (parts.hostname, parts.port, parts.path, parts.query) == (request.host, request.port, "/chat", "")
    assert parts.username is None


def test_a_path_is_no_host_and_no_query() -> None:
    for target, path, query in (
        (b"//evil.example/x", "//evil.example/x", ""),
        (b"/@evil.example", "/@evil.example", ""),
        (b"/%3F%23%40x", "/?#@x", ""),
        (b"/x?a=/?@b", "/x", "a=/?@b"),
    ):
        request = parse(b"GET " + target + b" HTTP/1.1\r\nHost: h")
        assert (request.path, request.query_string, request.host) == (path, query, "h")


def test_wsproto_c1_a_non_ascii_host_is_refused() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\xff\r\n" + UPGRADE + b"\r\n"
    with pytest.raises(UnicodeError):  # not one of wsproto's own exceptions
        wsproto_accepts(raw)
    assert refused(raw[:-4]).status == 400


def test_missing_host_is_refused_except_in_http_1_0() -> None:
    assert refused(b"GET / HTTP/1.1\r\nX: a").status == 400
    assert refused(b"GET / HTTP/1.1").status == 400
    assert refused(b"GET / HTTP/1.0\r\nHost: ").status == 400
    health_check = parse(b"GET /health HTTP/1.0")
    assert (health_check.host, health_check.port, health_check.http_version) == ("", None, (1, 0))


@pytest.mark.parametrize(
    "name", [b"Host", b"Origin", b"Sec-WebSocket-Key", b"sec-websocket-VERSION", b"Content-Length"]
)
def test_fields_that_must_not_repeat(name: bytes) -> None:
    field = name + b": 0\r\n"
    once = b"POST / HTTP/1.1\r\n" + (b"" if name == b"Host" else b"Host: h\r\n") + field
    assert parse(once[:-2]).headers.getlist(name.decode()) == ["0"]
    assert refused(once + field[:-2]).status == 400


def test_wsproto_c5_two_keys_make_no_token() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + UPGRADE + b"\r\n"
    assert wsproto_accepts(raw)
    assert refused(raw[:-4]).status == 400


def test_wsproto_c5_an_empty_host() -> None:
    raw = b"GET / HTTP/1.1\r\nHost:\r\n" + UPGRADE + b"\r\n"
    assert wsproto_accepts(raw)
    assert refused(raw[:-4]).status == 400


@pytest.mark.parametrize(
    ("method", "fields", "allowed"),
    [
        ("GET", b"Content-Length: 0", True),
        ("GET", b"Content-Length: 000", True),
        ("POST", b"Content-Length: 5", True),
        ("POST", b"Transfer-Encoding: chunked", True),
        ("GET", b"Content-Length: 5", False),
        ("HEAD", b"Content-Length: 5", False),
        ("get", b"Content-Length: 5", False),
        ("GET", b"Content-Length: " + b"9" * 5000, False),
        ("GET", b"Transfer-Encoding: chunked", False),
        ("GET", b"Transfer-Encoding: identity", False),
        ("POST", b"Content-Length: -1", False),
        ("POST", b"Content-Length: +1", False),
        ("POST", b"Content-Length: 1_0", False),
        ("POST", b"Content-Length: \xb2", False),
        ("POST", b"Content-Length:", False),
        ("POST", b"Content-Length: 5, 5", False),
        ("POST", b"Content-Length: 5\r\nContent-Length: 5", False),
        ("POST", b"Content-Length: 5\r\nContent-Length: 6", False),
        ("POST", b"Content-Length: 5\r\nTransfer-Encoding: chunked", False),
    ],
)
def test_a_body(method: str, fields: bytes, allowed: bool) -> None:
    head = method.encode() + b" / HTTP/1.1\r\nHost: h\r\n" + fields
    if allowed:
        assert parse(head).method == method
    else:
        assert refused(head).status == 400


def test_wsproto_c5_a_handshake_with_a_body() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n" + UPGRADE + b"\r\n"
    assert wsproto_accepts(raw)
    assert refused(raw[:-4]).status == 400


@pytest.mark.parametrize(("count", "status"), [(99, None), (100, None), (101, 431)])
def test_number_of_fields(count: int, status: int | None) -> None:
    head = b"GET / HTTP/1.1\r\nHost: h" + b"\r\nX: a" * (count - 1)
    if status is None:
        assert len(parse(head).headers.multi_items()) == count
    else:
        assert refused(head).status == status


def test_wsproto_c4_five_thousand_fields() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 5000 + UPGRADE + b"\r\n"
    assert wsproto_accepts(raw)
    assert refused(raw[:-4]).status == 431


@pytest.mark.parametrize(
    ("start", "repeated", "end"),
    [
        (b"", b"A", b""),
        (b"GET /", b"a", b""),
        (b"GET /", b"?", b""),
        (b"GET /", b"%", b" HTTP/1.1"),
        (b"GET / HTTP/1.1\r\n", b"A", b""),
        (b"GET / HTTP/1.1\r\nHost: ", b"a", b""),
        (b"GET / HTTP/1.1\r\nHost: ", b"a.", b"!"),
        (b"GET / HTTP/1.1\r\nX:", b" ", b"\x00"),
        (b"GET / HTTP/1.1\r\nX:", b" a", b"\nb"),
        (b"GET / HTTP/1.1", b"\r\n", b""),
        (b"GET / HTTP/1.1", b"\r\n:", b""),
        (b"GET / HTTP/1.1", b"\r", b""),
    ],
)
def test_hostile_heads_cost_linear_time(start: bytes, repeated: bytes, end: bytes) -> None:
    # At quadratic cost, a million characters would exceed the timeout of pytest.
    assert refused(start + repeated * 1_000_000 + end, max_headers=1_000_000).status == 400


def test_parse_host_is_strict() -> None:
    assert parse_host("[::FFFF:192.0.2.1]:0") == ("::ffff:192.0.2.1", 0)
    with pytest.raises(ValueError, match="Host"):
        parse_host("h\n")


def test_requests_share_what_they_have_in_common() -> None:
    """An open connection keeps its request: these objects would be a tenth of the memory of an idle connection."""
    head = b"GET / HTTP/1.1\r\nHost: Www.Example.com:8080"
    first, second = parse(head), parse(head)
    assert first.method is second.method
    assert first.http_version is second.http_version
    assert first.host is second.host
    assert first.port is second.port
