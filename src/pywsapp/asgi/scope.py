"""The request of an ASGI scope, and the user of the site around the App."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote, unquote

from pywsapp._protocol.http import parse_request
from pywsapp._request_state import make_access
from pywsapp.exceptions import InvalidCredentials, Refuse, SessionError
from pywsapp.http import Request
from pywsapp.sessions.session import Session

Scope = MutableMapping[str, Any]

_SAFE_IN_PATH = "/!$&'()*+,;=:@-._~"
_SAVED_BY_SITE = (
    "this session belongs to the site, whose middleware saves it with plain responses only; app.route(..., "
    "sessions=...) makes one that a WebSocket can save"
)
_SECURE = ("https", "wss")


def request_of(scope: Scope, *, max_header_size: int, max_headers: int, parsed: Request | None = None) -> Request:
    """Return the request of a scope, parsed as strictly as one that comes over a socket.

    Its path is the one below `root_path`, its `state` has what the site's middleware has put into that of the scope.

    Args:
        scope: the scope.
        max_header_size: bytes of its head.
        max_headers: header fields that it may have.
        parsed: the request that the server has parsed, with the header fields of the scope. It is used if its path and
            query are those of the scope too.

    Raises:
        Refuse: the request is malformed, or its head is too large.
    """
    query = scope.get("query_string", b"")
    whole, below = _paths(scope)
    client = scope.get("client")
    scheme = "https" if scope.get("scheme") in _SECURE else "http"
    address = client[0] if client else ""
    if parsed is not None and parsed.path == whole and parsed.query_string == query.decode("latin-1"):
        _check_size(parsed, max_header_size, max_headers)
        request = parsed
        request.scheme, request.remote_address = scheme, address
    else:
        request = _parse(scope, below, query, scheme, address, max_header_size, max_headers)
    major, _, minor = scope.get("http_version", "1.1").partition(".")
    request.http_version = int(major), int(minor or "0")
    request.path = whole
    request.subprotocols = tuple(scope.get("subprotocols", ()))
    for name, value in scope.get("state", {}).items():
        setattr(request.state, name, value)
    if below == request.path:
        return request
    inner = copy.copy(request)  # as below a mount of an App: signatures are of the path that the client has asked for
    inner.path = below
    return inner


def _check_size(request: Request, max_header_size: int, max_headers: int) -> None:
    """Check the limits of an App for a request that a server with other limits has parsed."""
    fields = request.headers.multi_items()
    size = len(request.path) + len(request.query_string) + sum(len(name) + len(value) + 4 for name, value in fields)
    if size > max_header_size:
        raise Refuse(431, body="the head of the request is too large")
    if len(fields) > max_headers:
        raise Refuse(431, body=f"more than {max_headers} header fields")


def _parse(
    scope: Scope, below: str, query: bytes, scheme: str, address: str, max_header_size: int, max_headers: int
) -> Request:
    target = quote(below, safe=_SAFE_IN_PATH).encode() + (b"?" + query if query else b"")
    lines = [b"%s %s HTTP/1.1" % (scope.get("method", "GET").encode(), target)]
    lines += [b"%s: %s" % (name, value) for name, value in scope["headers"]]
    head = b"\r\n".join(lines)
    if head.count(b"\r\n") != len(lines) - 1:
        raise Refuse(400, body="a header field has a line break")
    if len(head) > max_header_size:
        raise Refuse(431, body="the head of the request is too large")
    return parse_request(head, max_headers=max_headers, scheme=scheme, remote_address=address)


def _paths(scope: Scope) -> tuple[str, str]:
    """Return the whole path, and the path below `root_path`, which servers and frameworks put before it or not."""
    path = "/" + scope["path"].removeprefix("/")  # Litestar removes the slash of a mount at /
    root: str = scope.get("root_path", "").rstrip("/")
    raw = (scope.get("raw_path") or b"").decode("latin-1")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    if raw and path.endswith("/") and not raw.endswith("/"):
        path = path[:-1]  # Litestar adds a slash
    whole = unquote(raw)  # Litestar has the path of the mount in it only
    if not whole or not whole.endswith(path):
        whole = root + path
    return whole or "/", path or "/"


def note_site(request: Request, scope: Scope) -> None:
    """Note the user and the session that the site's middleware has found, for `conn.user` and `conn.session`."""
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", True):
        make_access(request).user = user
    data = scope.get("session")
    if isinstance(data, dict):
        session = Session(_SiteSessions())
        session._replace(data, "", None)  # the same dict: the site's middleware saves it with a plain response
        make_access(request).session = session


class _SiteSessions:
    """The driver of sessions that the site loads and saves."""

    async def save(self, session: Session) -> None:
        raise SessionError(_SAVED_BY_SITE)

    async def rotate(self, session: Session) -> None:
        raise SessionError(_SAVED_BY_SITE)

    async def destroy(self, session: Session) -> None:
        raise SessionError(_SAVED_BY_SITE)

    async def reload(self, session: Session) -> None:
        raise SessionError(_SAVED_BY_SITE)


def site_user(request: Request) -> Any:
    """Return the user that the site around the App has found: `App(authenticate=site_user)`.

    Raises:
        InvalidCredentials: the site has found none.
    """
    if request.user is None:
        raise InvalidCredentials
    return request.user
