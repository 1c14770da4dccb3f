"""The answer to a plain HTTP request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from pywsapp.values.errors import ConfigurationError, HeaderItems, Refuse

_BODYLESS = frozenset({204, 304})


class Response:
    """A plain HTTP response; what an HTTP route's handler returns.

    Args:
        body: the content; a str is sent as UTF-8. An async iterator of bytes is sent piece by piece and needs
            `content_length`.
        status: the HTTP status.
        headers: further header fields. Content-Length, Connection and Date are set by the server.
        content_type: by default text/plain for str and application/octet-stream for bytes.
        content_length: of an async iterator, in bytes.

    Raises:
        ConfigurationError: a status out of range or an iterator without its length.
        TypeError: a body of another type.
    """

    __slots__ = ("body", "content_length", "headers", "status")

    def __init__(
        self,
        body: str | bytes | bytearray | memoryview | AsyncIterator[bytes] = b"",
        status: int = 200,
        headers: HeaderItems | None = None,
        *,
        content_type: str | None = None,
        content_length: int | None = None,
    ) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ConfigurationError(f"a Response's status is from 200 to 599, not {status!r}")
        if content_type is None:
            content_type = "text/plain; charset=utf-8" if isinstance(body, str) else "application/octet-stream"
        items = tuple(headers.items() if isinstance(headers, Mapping) else headers or ())
        if status not in _BODYLESS and not any(name.lower() == "content-type" for name, _ in items):
            items = (("Content-Type", content_type), *items)
        self.status = status
        self.headers = items
        self.body: bytes | AsyncIterator[bytes]
        if isinstance(body, (str, bytes, bytearray, memoryview)):
            self.body = body.encode() if isinstance(body, str) else bytes(body)
            self.content_length = len(self.body)
        elif not isinstance(body, AsyncIterator):
            raise TypeError(
                f"a Response's body is a str, bytes or an async iterator of bytes, not {type(body).__name__}; "
                "Response.json(value) makes one of other values"
            )
        elif not isinstance(content_length, int) or content_length < 0:
            raise ConfigurationError("a Response whose body is an iterator needs content_length, its number of bytes")
        else:
            self.body = body
            self.content_length = content_length

    @classmethod
    def html(cls, body: str | bytes, status: int = 200, headers: HeaderItems | None = None) -> Response:
        """Make a response of a page of HTML."""
        return cls(body, status, headers, content_type="text/html; charset=utf-8")

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: HeaderItems | None = None) -> Response:
        """Make a response of a value that `json.dumps` can encode.

        Raises:
            TypeError: it cannot.
        """
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return cls(text, status, headers, content_type="application/json")

    @classmethod
    def refusal(cls, refuse: Refuse) -> Response:
        """Make the response that a `Refuse` asks for: its status, its headers, one line of reason."""
        body = refuse.body if refuse.body is not None else phrase(refuse.status)
        if isinstance(body, str) and not body.endswith("\n"):
            body += "\n"
        return cls(body, refuse.status, refuse.headers, content_type="text/plain; charset=utf-8")


def phrase(status: int) -> str:
    """Give the standard phrase of a status, or an empty string if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
