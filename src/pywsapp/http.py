"""HTTP as components see it: `Request` with its `Headers` and `QueryParams`, and `Response`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from pywsapp._http_text import BODYLESS_STATUSES, one_line, phrase, shown
from pywsapp._request_state import State, access_of, make_access, make_state
from pywsapp.exceptions import ConfigurationError, HeaderItems, Refuse

if TYPE_CHECKING:
    from pywsapp.sessions.session import Session

__all__ = ["Headers", "QueryParams", "Request", "Response"]

_MAX_QUERY_FIELDS = 1000  # a head is bounded, but a hostile query could still become 16,000 objects


class Headers(Mapping[str, str]):
    """Header fields: a read-only mapping that ignores the case of names and keeps repeated fields.

    `headers["name"]` is the first value of a field, and `headers.getlist("name")` is the list of all its values. `repr`
    hides the values of fields that carry secrets.

    Args:
        items: names and values, in order.
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
        return f"Headers({shown(self.multi_items())!r})"

    def getlist(self, name: str) -> list[str]:
        """Return every value of a field, in order; an empty list if the field is missing."""
        name = name.lower()
        index = self._first or self._index
        first = index.get(name)
        if first is None:
            return []
        items = self._items
        return [first] if len(index) == len(items) else [value for key, value in items if key == name]

    def multi_items(self) -> tuple[tuple[str, str], ...]:
        """Return all fields in order, repeated ones too, as pairs of the lower-case name and the value."""
        if self._packed is not None:
            self._items = tuple([tuple(line.split(":", 1)) for line in self._packed.split("\n")])  # type: ignore[misc]
            self._packed = None
        return self._items


class QueryParams(Mapping[str, str]):
    """Query parameters: a read-only mapping that keeps repeated parameters.

    `params["name"]` is the last value of a parameter, and `params.getlist("name")` is the list of all its values. At
    most 1,000 parameters are read.

    Args:
        query: the query string, without the question mark.
    """

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
        return f"QueryParams({shown(self._items)!r})"

    def getlist(self, name: str) -> list[str]:
        """Return every value of a parameter, in order; an empty list if the parameter is missing."""
        return [value for key, value in self._items if key == name]


class Request:
    """The HTTP request of a client: a WebSocket handshake, or a plain request (PSR-7's request in Ratchet).

    The server makes it. A test can make one by hand; every argument has a default.

    Attributes:
        method: the method; `GET` for every WebSocket handshake.
        path: the path after percent-decoding. Below a mount, the part that the mount did not match.
        query_string: the text after the `?`, as sent.
        headers: the header fields.
        http_version: the version, `(1, 1)` for example.
        scheme: `"http"`, or `"https"` over TLS, also if the TLS connection ends at a trusted proxy.
        host: the name or address in the Host field, in lower case, without port and brackets.
        port: the port in the Host field, or None.
        remote_address: the client's IP address, as the connection or a trusted proxy states it; `""` on a Unix socket.
        subprotocols: the subprotocols that the client offers, in the client's order.
        app: the application that serves the request, for its topics (`request.app.topic("room:1")`); None without an
            application.
    """

    __slots__ = (
        "_body",
        "_cookies",
        "_mount_hosts",
        "_origin",
        "_path_params",
        "_query_params",
        "_route",
        "_state",
        "app",
        "headers",
        "host",
        "http_version",
        "method",
        "path",
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
        path_params: dict[str, Any] | None = None,
        app: Any = None,
        user: Any = None,
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
        self._path_params = path_params
        self.app = app
        self._query_params: QueryParams | None = None
        self._cookies: dict[str, str] | None = None
        self._body: Callable[[int], Awaitable[bytes]] | None = None
        self._route = ""
        self._mount_hosts = ""  # the hosts of the mounts that it has passed
        self._state: State | None = None
        self._origin: Request | None = None  # the request that this one is a copy of
        if user is not None:
            make_access(self).user = user

    def __copy__(self) -> Request:
        """Return a copy that shares `state` and `path_params` with this request, even if neither was used yet."""
        copied = type(self).__new__(type(self))
        for name in Request.__slots__:
            setattr(copied, name, getattr(self, name))
        copied._origin = self._origin or self
        return copied

    def __repr__(self) -> str:
        return f"<Request {self.method} {one_line(self.path)} from {self.remote_address or 'local'}>"

    @property
    def route(self) -> str:
        """The pattern of the matched route with the mounts around it, `"/rooms/{name}"`; empty before routing."""
        return (self._origin or self)._route

    @property
    def path_params(self) -> dict[str, Any]:
        """The parameters of the matched route, converted; empty before routing."""
        if self._origin is not None:
            return self._origin.path_params
        if self._path_params is None:
            self._path_params = {}
        return self._path_params

    @property
    def state(self) -> SimpleNamespace:
        """A namespace for the application's own data; it becomes `conn.state` when the handshake is accepted.

        `on_handshake` can pass on what it found there: `request.state.user = user`.
        """
        if self._origin is not None:
            return self._origin.state
        return make_state(self) if self._state is None else self._state

    @property
    def user(self) -> Any:
        """The user that `authenticate` returned; None if nothing asked for one, or it is asked for later.

        It becomes `conn.user` when the handshake is accepted. A test can make a request with `Request(user=...)`.
        """
        access = access_of(self)
        return None if access is None else access.user

    @property
    def client_certificate(self) -> dict[str, Any] | None:
        """The certificate of the client as `ssl.SSLSocket.getpeercert` returns it; None without a verified one."""
        access = access_of(self)
        return None if access is None else access.certificate

    @property
    def session(self) -> Session:
        """The session of the client; it becomes `conn.session` when the handshake is accepted.

        Raises:
            ConfigurationError: the route has no sessions.
        """
        access = access_of(self)
        if access is None or access.session is None:
            raise ConfigurationError(
                "this route has no sessions: set session_store of the App, or sessions of app.route or app.http, "
                "for example to 'memory' or 'redis://localhost'"
            )
        return access.session

    async def read(self, max_size: int = 64 * 1024) -> bytes:
        """Return the body; waits until it has arrived.

        Call it while the request is answered: in `on_request`, or in a handler of `app.http`.

        Args:
            max_size: the largest body to accept, in bytes.

        Raises:
            Refuse: 413 if the body is larger, 411 if the request does not state its length.
        """
        return b"" if self._body is None else await self._body(max_size)

    @property
    def query_params(self) -> QueryParams:
        """The parameters in the query string; they are separate from `path_params` (Ratchet merges the two)."""
        if self._query_params is None:
            self._query_params = QueryParams(self.query_string)
        return self._query_params

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name.

        The first of several cookies with the same name counts: RFC 6265 section 5.4 sends the most specific one first.
        """
        if self._cookies is None:
            found: dict[str, str] = {}
            for field in self.headers.getlist("cookie"):
                for pair in field.split(";"):
                    name, separator, value = pair.strip(" \t").partition("=")
                    if separator and name not in found:
                        found[name] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
            self._cookies = found
        return self._cookies


class Response:
    """A plain HTTP response; `on_request` and the handlers of `app.http` return it.

    Args:
        body: the content. A str is sent as UTF-8. An async iterator of bytes is sent piece by piece, and needs
            `content_length`.
        status: the HTTP status, 200 to 599.
        headers: further header fields. The server sets Content-Length, Connection and Date.
        content_type: the Content-Type; by default text/plain for a str and application/octet-stream for bytes.
        content_length: bytes of the content of an async iterator.

    Attributes:
        body: the content, as bytes or as an async iterator of bytes.
        content_length: bytes of the content.
        headers: the header fields in order, Content-Type included.
        status: the HTTP status.

    Raises:
        ConfigurationError: the status is out of range, or an iterator comes without its length.
        TypeError: the body has another type.
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
            raise ConfigurationError(f"a Response's status must be from 200 to 599, not {status!r}")
        if content_type is None:
            content_type = "text/plain; charset=utf-8" if isinstance(body, str) else "application/octet-stream"
        items = tuple(headers.items() if isinstance(headers, Mapping) else headers or ())
        if status not in BODYLESS_STATUSES and not any(name.lower() == "content-type" for name, _ in items):
            items = (("Content-Type", content_type), *items)
        self.status = status
        self.headers = items
        self.body: bytes | AsyncIterator[bytes]
        if isinstance(body, (str, bytes, bytearray, memoryview)):
            self.body = body.encode() if isinstance(body, str) else bytes(body)
            self.content_length = len(self.body)
        elif not isinstance(body, AsyncIterator):
            raise TypeError(
                f"a Response's body must be a str, bytes or an async iterator of bytes, not {type(body).__name__}; "
                "use Response.json(value) for other values"
            )
        elif not isinstance(content_length, int) or content_length < 0:
            raise ConfigurationError("a Response whose body is an iterator needs content_length, in bytes")
        else:
            self.body = body
            self.content_length = content_length

    @classmethod
    def html(cls, body: str | bytes, status: int = 200, headers: HeaderItems | None = None) -> Response:
        """Return a response whose content is a page of HTML."""
        return cls(body, status, headers, content_type="text/html; charset=utf-8")

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: HeaderItems | None = None) -> Response:
        """Return a response whose content is a value encoded as JSON.

        Raises:
            TypeError: `json.dumps` cannot encode the value.
        """
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return cls(text, status, headers, content_type="application/json")

    @classmethod
    def refusal(cls, refuse: Refuse) -> Response:
        """Return the response for a `Refuse`: its status, its headers, and one line of text that says why."""
        body = refuse.body if refuse.body is not None else phrase(refuse.status)
        if isinstance(body, str) and not body.endswith("\n"):
            body += "\n"
        return cls(body, refuse.status, refuse.headers, content_type="text/plain; charset=utf-8")


# -- for the server, not for components --------------------------------------------------------------------------------


def _set_body(request: Request, read: Callable[[int], Awaitable[bytes]]) -> None:
    """Set the function that `Request.read` calls with its `max_size`."""
    request._body = read


def _new_headers(items: list[tuple[str, str]]) -> Headers:
    """Return header fields whose names are in lower case already."""
    headers = Headers()
    headers._items = tuple(items)
    return headers


def _set_session(request: Request, session: Session) -> None:
    """Set what `Request.session` and `Connection.session` return."""
    make_access(request).session = session


def _has_session(request: Request) -> bool:
    """Return whether a request has a session."""
    access = access_of(request)
    return access is not None and access.session is not None


def _pack_headers(headers: Headers) -> None:
    """Store fields as one string, in a fifth of the memory, until they are used again.

    The names and values must come from `pywsapp._protocol.http`: a colon in a name, or a line feed, would break them.
    """
    if headers._items:
        headers._packed = "\n".join([f"{name}:{value}" for name, value in headers._items])
        headers._items = ()
        headers._first = None
