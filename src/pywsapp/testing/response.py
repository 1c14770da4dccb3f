"""Plain HTTP requests of a test client, and the responses to them."""

from __future__ import annotations

import json
from typing import Any

import anyio

from pywsapp._protocol.http import HeadBuffer, encode_fields, parse_response
from pywsapp._transports.base import Transport
from pywsapp.http import Headers

_MAX_HEAD = 1 << 20
_MAX_FIELDS = 1000
#: Bytes of a body that `repr` shows.
_SHOWN = 200


class TestResponse:
    """The response to a request of a test.

    Attributes:
        status: the HTTP status.
        headers: the header fields.
        body: the content.
    """

    __test__ = False  # pytest collects classes with this beginning of a name

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<TestResponse {self.status} {self.body[:_SHOWN]!r}>"

    @property
    def text(self) -> str:
        """The content as text.

        Raises:
            UnicodeDecodeError: the content is not UTF-8.
        """
        return self.body.decode()

    def json(self) -> Any:
        """Return the value of content that is JSON.

        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(self.body)


def parse(data: bytes) -> TestResponse:
    """Return the response in the bytes of a connection that has ended.

    Raises:
        HandshakeError: they are no response.
    """
    buffer = HeadBuffer(_MAX_HEAD)
    head = parse_response(buffer.receive(data) or b"", max_headers=_MAX_FIELDS)
    return TestResponse(head.status, head.headers, bytes(buffer.rest))


def encode_request(method: str, path: str, host: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
    """Return a request after which the connection is closed."""
    if body or method in ("POST", "PUT", "PATCH"):
        fields = [*fields, ("Content-Length", str(len(body)))]
    lines = [f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", *encode_fields(fields), "\r\n"]
    return "".join(lines).encode("latin-1") + body


class HttpPeer:
    """The client's end of one plain request: the protocol of its transport.

    Args:
        request: the bytes to send.

    Attributes:
        received: what the App has sent.
        ended: set when the App has closed the connection.
    """

    def __init__(self, request: bytes) -> None:
        self.received = bytearray()
        self.ended = anyio.Event()
        self.transport: Transport
        self._request = request

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Keep a part of the response."""
        self.received += data

    def eof_received(self) -> bool:
        """Have the transport close itself."""
        return False

    def pause_writing(self) -> None:
        """Do nothing: the request is small."""

    def resume_writing(self) -> None:
        """Do nothing: the request is small."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the response."""
        self.ended.set()
