"""A plain HTTP response in place of a WebSocket, for a server that writes it itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pywsapp._protocol.http import encode_response

_FRAMING = ("connection", "content-length", "transfer-encoding")


class Denial:
    """A response that an application sends in parts, a `websocket.http.response.start` and its bodies.

    Args:
        start: the first message.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, start: dict[str, Any]) -> None:
        self.status: int = start["status"]
        self.headers = text_fields(start.get("headers", ()))
        self.body = b""

    def add(self, message: dict[str, Any]) -> bool:
        """Add a part of the body; return whether the response is complete.

        Raises:
            RuntimeError: the message is another one.
        """
        kind = message["type"]
        if kind != "websocket.http.response.body":
            raise RuntimeError(f"Expected ASGI message 'websocket.http.response.body', but got '{kind}'.")
        self.body += message.get("body", b"")
        return not message.get("more_body", False)


def encode_denial(
    status: int, headers: Iterable[tuple[str, str]], body: bytes, defaults: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Return a response after which the connection is closed.

    Args:
        status: the HTTP status.
        headers: the header fields; those for the length of the body and for the connection are left out.
        body: the body.
        defaults: the header fields of the server, for those that `headers` does not have.

    Raises:
        ConfigurationError: a header field is malformed.
    """
    fields = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    names = {name.lower() for name, _ in fields}
    fields += [(name, value) for name, value in text_fields(defaults) if name not in names]
    return encode_response(status, fields, body, content_length=None)


def text_fields(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the header fields of ASGI as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
