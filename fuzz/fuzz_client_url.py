"""Any text is a WebSocket URL or refused without its secrets; the request for a URL asks our server for the same.

A URL adds nothing to the request: no field, no blank, no other host than the one that the client connects to.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from harness import check_status, fuzz, instrumented

with instrumented():
    from pywsapp._connecting.arguments import check_arguments
    from pywsapp._connecting.target import Target
    from pywsapp._protocol.http import HeadBuffer, parse_request
    from pywsapp.exceptions import ConfigurationError, Refuse

FIELDS = {"host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version"}
SECRET = "hunter2"


def arguments(url: str) -> tuple[Target, bytes] | None:
    """Return where a client connects to and what it sends."""
    try:
        checked = check_arguments(url)
    except ConfigurationError as exc:
        plain, _, query = url.partition("?")
        if url.count(SECRET) == 1 and (f":{SECRET}@" in plain or SECRET in query):
            check_hidden(str(exc))
        return None
    return checked.target, checked.handshake.request


def check_hidden(text: str) -> None:
    assert SECRET not in text, "a secret is shown"


def one_input(data: bytes) -> None:
    """Run one input: a URL, and the same with a user."""
    url = data.decode("utf-8", "surrogateescape")
    scheme, separator, rest = url.partition("//")
    assert arguments(f"{scheme}{separator}user:{SECRET}@{rest}") is None or "/" in scheme or not separator
    found = arguments(url)
    if found is None:
        return
    target, sent = found
    parts = urlsplit(url)
    assert target.secure == (parts.scheme == "wss")
    assert target.host == parts.hostname
    assert 0 <= target.port <= 65535
    head = HeadBuffer(len(sent)).receive(sent)
    assert head is not None
    assert len(sent) == len(head) + 4
    try:
        request = parse_request(head, max_headers=len(FIELDS), scheme="http", remote_address="")
    except Refuse as exc:
        check_status(exc, 400, 414)
        assert "%" in url or ".." in url or len(url) > 200, "our server refuses what our client sends"
        return
    assert set(request.headers) <= FIELDS | {"sec-websocket-extensions"}
    assert request.host == target.host.lower()
    assert target.port == ((443 if target.secure else 80) if request.port is None else request.port)
    expected = target.request(())
    assert request.query_string == expected.query_string
    assert request.path == expected.path


def seeds() -> list[bytes]:
    return [
        b"ws://localhost:8080/chat",
        b"wss://example.com/a%20b?token=hunter2",
        b"ws://[::1]:9000",
        b"ws://[fe80::1%25eth0]/",
        b"WS://EXAMPLE.com:80",
        b"ws://user:hunter2@example.com/",
        b"ws:user:hunter2@example.com",
        b"http://example.com/?hunter2",
        b"ws://example.com/#fragment",
        b"ws://example.com:99999/",
        b"ws://exa mple.com/\r\nX: y",
        b"ws://example.com/a b",
        "ws://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode(),
        b"ws://example.com?a=b",
        b"ws:///path",
        b"ws://a\\@b/",
        b"ws://example.com:/",
        b"ws://example.com:0/",
        b"ws://\xff/",
        b"ws://1.2.3.4./%zz",
    ]


if __name__ == "__main__":
    fuzz(one_input, seeds())
