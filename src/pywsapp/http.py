"""HTTP as components see it: a request, its headers and query, and a response."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from pywsapp.exceptions import ConfigurationError, HeaderItems, Refuse

_MAX_QUERY_FIELDS = 1000  # of a head that is bounded anyway; keeps a hostile query from becoming 16,000 objects


_MAX_SHOWN = 200


def one_line(text: str) -> str:
    """Make text that a peer wrote fit for a log: short, and without what could begin a line of its own."""
    return repr(text[:_MAX_SHOWN])[1:-1]


class Headers(Mapping[str, str]):
    """Header fields: a read-only mapping that ignores case and keeps repeated fields.

    `headers["name"]` gives the first value, `headers.getlist("name")` gives all of them.
    """

    __slots__ = ("_first", "_items", "_packed")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: tuple[tuple[str, str], ...] = tuple([(name.lower(), value) for name, value in items])
        self._first: dict[str, str] | None = None
        self._packed: str | None = None

    @property
    def _index(self) -> dict[str, str]:
        """The first value of each field."""
        if self._first is None:
            self._first = dict(reversed(self.multi_items()))
        return self._first

    def __getitem__(self, name: str) -> str:
        return self._index[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for key, _ in self.multi_items()))

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._index

    def __repr__(self) -> str:
        return f"Headers({list(self.multi_items())!r})"

    def getlist(self, name: str) -> list[str]:
        """Give every value of a field, in order; an empty list if there is none."""
        name = name.lower()
        index = self._first or self._index
        first = index.get(name)
        if first is None:
            return []
        items = self._items
        return [first] if len(index) == len(items) else [value for key, value in items if key == name]

    def multi_items(self) -> tuple[tuple[str, str], ...]:
        """Give every field with its lower-case name, repeated ones too, in order."""
        if self._packed is not None:
            self._items = tuple([tuple(line.split(":", 1)) for line in self._packed.split("\n")])  # type: ignore[misc]
            self._packed = None
        return self._items

    def pack(self) -> None:
        """Keep them in a fifth of the memory until somebody asks; only for what was read from a request."""
        if self._items:
            self._packed = "\n".join([f"{name}:{value}" for name, value in self._items])
            self._items = ()
            self._first = None


class QueryParams(Mapping[str, str]):
    """Query parameters: `params["name"]` gives the last value, `params.getlist("name")` gives all of them."""

    __slots__ = ("_items",)

    def __init__(self, query: str = "") -> None:
        self._items: tuple[tuple[str, str], ...] = tuple(
            parse_qsl(query, keep_blank_values=True, errors="replace")[:_MAX_QUERY_FIELDS]
        )

    def __getitem__(self, name: str) -> str:
        for key, value in reversed(self._items):
            if key == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for key, _ in self._items))

    def __len__(self) -> int:
        return len({key for key, _ in self._items})

    def __repr__(self) -> str:
        return f"QueryParams({list(self._items)!r})"

    def getlist(self, name: str) -> list[str]:
        """Give every value of a parameter, in order; an empty list if there is none."""
        return [value for key, value in self._items if key == name]


class Request:
    """What a client asked for when it connected (PSR-7's request in Ratchet's `$conn->httpRequest`).

    Attributes:
        method: the method, `GET` for every WebSocket handshake.
        path: the path with percent-encoding undone.
        query_string: what stood behind the `?`, as sent.
        path_params: the parameters of the route's pattern, converted; empty before routing.
        headers: the header fields.
        http_version: `(1, 1)` for instance.
        scheme: `"http"`, or `"https"` over TLS, also if that ends at a proxy that the App trusts.
        host: the name or address in the Host field, lower case, without port or brackets.
        port: the port in the Host field, or None.
        remote_address: the client's IP address: the peer's, or what a proxy says that the App trusts; `""` on a
            Unix socket.
        subprotocols: the subprotocols that the client offered, in its order.
        app: the application that serves the request, or None.
    """

    __slots__ = (
        "_body",
        "_cookies",
        "_query_params",
        "app",
        "headers",
        "host",
        "http_version",
        "method",
        "path",
        "path_params",
        "port",
        "query_string",
        "remote_address",
        "scheme",
        "subprotocols",
    )

    def __init__(
        self,
        *,
        method: str = "GET",
        path: str = "/",
        query_string: str = "",
        headers: Headers | Iterable[tuple[str, str]] = (),
        http_version: tuple[int, int] = (1, 1),
        scheme: str = "http",
        host: str = "",
        port: int | None = None,
        remote_address: str = "",
        subprotocols: tuple[str, ...] = (),
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query_string
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.http_version = http_version
        self.scheme = scheme
        self.host = host
        self.port = port
        self.remote_address = remote_address
        self.subprotocols = subprotocols
        self.path_params: dict[str, Any] = {}
        self.app: Any = None
        self._query_params: QueryParams | None = None
        self._cookies: dict[str, str] | None = None
        self._body: Callable[[int], Awaitable[bytes]] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {one_line(self.path)} from {self.remote_address or 'local'}>"

    def with_body(self, body: Callable[[int], Awaitable[bytes]]) -> None:
        """Say what reads the body. Called by a host."""
        self._body = body

    async def read(self, max_size: int = 64 * 1024) -> bytes:
        """Read the body; waits until it has come. To be called while the request is being answered, by `on_request`.

        Args:
            max_size: how many bytes it may have.

        Raises:
            Refuse: 413 if it has more, 411 if it does not say how many.
        """
        return b"" if self._body is None else await self._body(max_size)

    @property
    def query_params(self) -> QueryParams:
        """The parameters behind the `?`, apart from the path's (Ratchet merges the two)."""
        if self._query_params is None:
            self._query_params = QueryParams(self.query_string)
        return self._query_params

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; of a repeated one the first (RFC 6265 section 5.4 sends the most specific first)."""
        if self._cookies is None:
            found: dict[str, str] = {}
            for field in self.headers.getlist("cookie"):
                for pair in field.split(";"):
                    name, separator, value = pair.strip(" \t").partition("=")
                    if separator and name not in found:
                        found[name] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
            self._cookies = found
        return self._cookies


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
