"""Middleware that checks which web pages may connect.

A browser lets every page open a WebSocket to every server, and sends the user's cookies along: the same-origin policy
does not apply to WebSockets. The Origin field protects the user: it names the origin of the page, and the page cannot
change it (RFC 6455, section 10.2). A server that ignores the field can be used by every page that its users visit:
cross-site WebSocket hijacking (CWE-1385). Clients other than browsers can send any Origin or none, so this check does
not authenticate a client.

Without a list the page must have the same origin as the server: the host and port of its origin are those of the Host
field. A missing port counts as the default port of the origin's own scheme, so https://example.com is example.com:443.
`localhost`, `127.0.0.1` and `::1` count as one host, because developers open the same server under any of them.
The scheme is compared in one direction only. Over TLS the page must be https, because a page that was loaded over plain
HTTP can have been changed on its way. Over plain TCP the page may be either: when a proxy ends TLS, the page is https
and the request that reaches this server is not, and no trustworthy part of the request shows which it was.

The requests of a fallback (`pywsapp.routing.fallback`) are checked as handshakes are. A page of another origin that is
allowed can read the answers, with the cookies of the user, since it could open a WebSocket with them. A browser sends
no Origin field with a GET request to the origin of the page, and with one whose answer the page does not read; the
field Sec-Fetch-Site distinguishes them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableSequence
from typing import NamedTuple, overload

from pywsapp._access import set_guard
from pywsapp._hooks import then
from pywsapp._log_fields import log_fields
from pywsapp._protocol.handshake import protocol_asked_for
from pywsapp._request_state import access_of, make_access
from pywsapp.auth.identity import public
from pywsapp.component import Accept, ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.middleware.base import Application, HandshakeMiddleware
from pywsapp.routing.fallback import is_for_stream, preflight
from pywsapp.routing.host_pattern import HostPattern, is_loopback

_FLAGS = re.IGNORECASE | re.ASCII  # without ASCII the Kelvin sign would match "k"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# The serialization of an origin (RFC 6454, section 6.2): no user, no path, no blanks.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", _FLAGS)
_ENTRY = re.compile(r"(?:([a-z][a-z0-9+.-]*)://)?([^\[\]:/?#@]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", _FLAGS)
_MAX_ORIGIN = 1024  # a host name has 253 characters at most
_MAX_LOGGED = 200
logger = logging.getLogger("pywsapp")


class Origin(NamedTuple):
    """An origin in lower case; a missing port is the default port of the scheme, None if the scheme has none."""

    scheme: str
    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """Parse the value of an Origin field; return None if it is no origin, which includes `"null"`."""
    found = _ORIGIN.fullmatch(text) if len(text) <= _MAX_ORIGIN else None
    if found is None:
        return None
    scheme, host, port = found[1].lower(), found[2].lower().strip("[]"), found[3]
    if not _is_port(port):
        return None
    return Origin(scheme, host, int(port) if port else _DEFAULT_PORTS.get(scheme))


def _is_port(text: str | None) -> bool:
    return text is None or 0 < int(text) < 65536


class _Entry:
    """One entry of `allowed_origins`: an origin, or several by a wildcard or a missing scheme or port."""

    __slots__ = ("hosts", "port", "scheme", "text")

    def __init__(self, text: object) -> None:
        if not isinstance(text, str):
            raise ConfigurationError(f"an allowed origin is a str, not {text!r}")
        self.text = text
        self.scheme: str | None = None
        self.port: int | None = None
        self.hosts: HostPattern | None = None
        if text in ("*", "null"):
            return
        found = _ENTRY.fullmatch(text)
        if found is None or found[2] == "*" or not _is_port(found[3]):
            raise ConfigurationError(
                f"{text!r} is no origin: write 'https://example.com', 'https://*.example.com', 'example.com' or '*', "
                "without path and without a slash at the end"
            )
        self.scheme = found[1].lower() if found[1] else None
        self.hosts = HostPattern(found[2])
        self.port = int(found[3]) if found[3] else _DEFAULT_PORTS.get(self.scheme or "")

    def match(self, origin: Origin) -> bool:
        return (
            self.hosts is not None
            and self.scheme in (None, origin.scheme)
            and self.port in (None, origin.port)
            and self.hosts.match(origin.host)
        )


class AllowedOrigins(MutableSequence[str]):
    """A list of origins that checks its entries.

    Raises:
        ConfigurationError: something that is no origin is put into the list, by any method.
    """

    __slots__ = ("_entries",)

    def __init__(self, origins: Iterable[str] | None = None) -> None:
        if isinstance(origins, str):
            raise ConfigurationError(f"allowed_origins is a list: write [{origins!r}]")
        self._entries = [_Entry(origin) for origin in origins or ()]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._entries[index]
        return found.text if isinstance(found, _Entry) else [entry.text for entry in found]

    @overload
    def __setitem__(self, index: int, value: str) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[str]) -> None: ...
    def __setitem__(self, index: int | slice, value: str | Iterable[str]) -> None:
        if isinstance(index, slice):
            self._entries[index] = AllowedOrigins(value)._entries
        else:
            self._entries[index] = _Entry(value)

    def __delitem__(self, index: int | slice) -> None:
        del self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, value: object) -> bool:
        return any(entry.text == value for entry in self._entries)

    def __repr__(self) -> str:
        return repr(list(self))

    def insert(self, index: int, value: str) -> None:
        """Insert an origin before the one at `index`."""
        self._entries.insert(index, _Entry(value))

    def match(self, origin: Origin) -> bool:
        """Return whether an entry matches the origin."""
        return any(entry.match(origin) for entry in self._entries)


class OriginCheck(HandshakeMiddleware):
    """Refuses handshakes of pages of other origins with status 403 (Ratchet's OriginCheck).

    The origin is checked at the handshake only, so it costs nothing for a message. Unlike other middleware, it does not
    check plain HTTP requests: browsers send no Origin field when they load a page, and the same-origin policy protects
    the rest.

    Args:
        component: the component or App inside, as for `HandshakeMiddleware`.
        allowed_origins: `"https://example.com"`, also with a port; `"https://*.example.com"` for every subdomain but
            not example.com; without `https://`, of any scheme and, unless one is written, any port (what Ratchet
            compared); `"null"` for sandboxed pages and files; `"*"` for all. None or empty is the same origin only.
        require_origin: also refuse handshakes without an Origin field, which no browser sends.

    Raises:
        ConfigurationError: `component` cannot be routed, or an entry of `allowed_origins` is no origin.
    """

    def __init__(
        self,
        component: MessageComponent | ComponentFactory | Application,
        allowed_origins: Iterable[str] | None = None,
        *,
        require_origin: bool = False,
    ) -> None:
        super().__init__(component)
        self.require_origin = require_origin
        self.allowed_origins = allowed_origins

    @property
    def allowed_origins(self) -> AllowedOrigins:
        """The list that each handshake is checked against; it can be changed or replaced at any time."""
        return self._allowed_origins

    @allowed_origins.setter
    def allowed_origins(self, origins: Iterable[str] | None) -> None:
        self._allowed_origins = AllowedOrigins(origins)

    def check(self, request: Request) -> Awaitable[None] | None:
        """Refuse a handshake with status 403 if its origin is not allowed."""
        sent = request.headers.getlist("origin")
        if not sent:
            site = None if protocol_asked_for(request) is None else request.headers.get("sec-fetch-site")
            if self.require_origin if site is None else site != "same-origin" and "*" not in self.allowed_origins:
                raise Refuse(403, body="an Origin field is required here")
            return None
        if self._allows(sent, request):
            return None
        logger.info(
            "refused a handshake of origin %r: the route allows %s; if the page is yours, add its origin to "
            "allowed_origins of app.route",
            ", ".join(sent)[:_MAX_LOGGED],
            ", ".join(self.allowed_origins) or f"pages of host {request.host!r}, port {request.port} only",
            extra=log_fields(
                "request.origin_refused",
                remote_address=request.remote_address or "local",
                path=request.path,
                origin=", ".join(sent),
            ),
        )
        raise Refuse(403, body="this origin is not allowed here")

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Check a handshake, and return what the component inside decides."""
        if protocol_asked_for(request) is None:
            return super().on_handshake(request)
        return then(self.run_check(request), lambda _: self._ask_inside(_for_page(request)))

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Return the answer of the component inside to a plain HTTP request, which is checked for a fallback only."""
        access = access_of(request)
        if access is None or access.fallback_route is None or not is_for_stream(request):
            return self._request_inside(request)
        ask: Callable[[Request], Response | Awaitable[Response]] = self._request_inside
        if request.method == "OPTIONS":
            set_guard(request, public)  # a browser sends no credentials with it
            ask = preflight
        return then(self.run_check(request), lambda _: ask(_for_page(request)))

    def _allows(self, sent: list[str], request: Request) -> bool:
        allowed = self.allowed_origins
        if "*" in allowed:
            return True
        if sent == ["null"]:
            return "null" in allowed
        origin = parse_origin(sent[0]) if len(sent) == 1 else None
        if origin is None:
            return False
        return allowed.match(origin) if allowed else _same_origin(origin, request)


def _same_origin(origin: Origin, request: Request) -> bool:
    if origin.scheme != "https" and (origin.scheme != "http" or request.scheme == "https"):
        return False
    port = _DEFAULT_PORTS[origin.scheme] if request.port is None else request.port
    same_host = origin.host == request.host or (is_loopback(origin.host) and is_loopback(request.host))
    return same_host and origin.port == port


def _for_page(request: Request) -> Request:
    """Note what lets the page of a checked origin read the answer, whatever answers; return the request."""
    origin = request.headers.get("origin")
    fields: list[tuple[str, str]] = [("Vary", "Origin")]
    if origin is not None:
        fields += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]
    make_access(request).page_fields = tuple(fields)
    return request
