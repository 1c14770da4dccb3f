"""The request that opened a connection, as a component sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

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
    """

    __slots__ = (
        "_body",
        "_cookies",
        "_query_params",
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
