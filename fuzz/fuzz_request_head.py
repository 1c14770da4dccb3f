"""Any bytes are one request or one refusal, the same wherever they are cut; a request has no forbidden character."""

from __future__ import annotations

from harness import fuzz, instrumented, pieces

with instrumented():
    from pywsapp._protocol.handshake import accept, check_upgrade
    from pywsapp._protocol.http import HeadBuffer, parse_request
    from pywsapp.exceptions import Refuse
    from pywsapp.http import Request
    from pywsapp.options import Deflate

MAX_SIZE = 600
MAX_HEADERS = 20
STATUSES = {400, 405, 414, 426, 431, 505}


def read(parts: list[bytes]) -> tuple[bytes, bytes] | None:
    """Return a head and the bytes after it, or None if the head is not complete.

    Raises:
        Refuse: the bytes are not a head.
    """
    buffer = HeadBuffer(MAX_SIZE)
    for number, part in enumerate(parts):
        head = buffer.receive(part)
        if head is not None:
            return head, buffer.rest + b"".join(parts[number + 1 :])
    return None


def outcome(parts: list[bytes]) -> tuple[bytes, bytes] | int | None:
    try:
        return read(parts)
    except Refuse as exc:
        return status_of(exc)


def status_of(refuse: Refuse) -> int:
    assert refuse.status in STATUSES, refuse.status
    return refuse.status


def check(request: Request) -> None:
    for name, value in request.headers.multi_items():
        assert name == name.lower()
        assert name.isascii()
        assert "\r" not in value
        assert "\n" not in value
        assert "\0" not in value
        assert value == value.strip(" \t")
    assert request.path.startswith("/")
    assert "\0" not in request.path
    assert {".", ".."}.isdisjoint(request.path.split("/"))
    assert len(request.headers.multi_items()) <= MAX_HEADERS
    for name in ("host", "origin", "sec-websocket-key", "sec-websocket-version", "content-length"):
        assert len(request.headers.getlist(name)) <= 1
    assert request.port is None or 0 <= request.port <= 65535
    assert isinstance(request.cookies, dict)
    assert isinstance(dict(request.query_params), dict)


def one_input(data: bytes) -> None:
    """Run one input: three bytes of cuts, and a stream."""
    stream = data[3:]
    if not stream:
        return
    whole, cut = outcome([stream]), outcome(list(pieces(stream, data[:3])))
    if isinstance(whole, int) or isinstance(cut, int):
        assert isinstance(whole, int)
        assert isinstance(cut, int)
        return
    assert whole == cut
    if whole is None:
        assert len(stream) < MAX_SIZE + 4 + 8  # plus a few empty lines before it
        return
    head, rest = whole
    assert stream.endswith(head + b"\r\n\r\n" + rest)
    try:
        request = parse_request(head, max_headers=MAX_HEADERS, scheme="http", remote_address="")
        check(request)
        check_upgrade(request)
        response, _ = accept(request, subprotocol=None, deflate=Deflate())
    except Refuse as exc:
        status_of(exc)
        return
    assert response.startswith(b"HTTP/1.1 101 ")
    assert response.count(b"\r\n\r\n") == 1


def seeds() -> list[bytes]:
    valid = (
        b"GET /chat/%C3%BC?a=b HTTP/1.1\r\nHost: example.com:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://example.com\r\n"
        b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"Cookie: a=b; c=d\r\n\r\n"
    )
    others = [
        b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\nafter",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        b"GET /a/..%2f./b/../.c HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\nX : y\r\n\r\n",
        b"GET /" + b"a" * 700 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 30 + b"\r\n",
    ]
    return [cuts + stream for cuts in (b"\1\0\0", b"\5\3\7") for stream in [valid, valid + b"\x81\x80abcd", *others]]


if __name__ == "__main__":
    fuzz(one_input, seeds())
