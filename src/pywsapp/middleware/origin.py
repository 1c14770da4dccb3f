"""Which web pages may connect.

A browser lets any page open a WebSocket to any server and sends the user's cookies along; the same-origin policy does
not hold for WebSockets. What protects the user is the Origin field, which names the page's origin and which the page
cannot change (RFC 6455 section 10.2). A server that does not look at it can be driven by every page its users visit:
cross-site WebSocket hijacking (CWE-1385). A client that is not a browser can send any Origin or none, so this check
says nothing about who a client is.

Without a list the page must be of the same origin as the server: the host and port of its origin are those of the
Host field. A default port counts as that of the origin's own scheme, so https://example.com is example.com:443. The
scheme itself is compared in one direction only. Over TLS the page must be https, for a page loaded over plain http
may have been changed on its way. Over plain TCP it may be either: when TLS ends at a proxy, the page is https and
what reaches this server is not, and nothing in the request that could be trusted says which it was.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, MutableSequence
from typing import NamedTuple, overload

from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request
from pywsapp.middleware.base import HandshakeMiddleware
from pywsapp.routing.host_pattern import HostPattern

_FLAGS = re.IGNORECASE | re.ASCII  # without ASCII the Kelvin sign would be a "k"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# RFC 6454 section 6.2: what a browser makes of an origin; no user, no path, no blanks.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", _FLAGS)
_ENTRY = re.compile(r"(?:([a-z][a-z0-9+.-]*)://)?([^\[\]:/?#@]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", _FLAGS)
_MAX_ORIGIN = 1024  # a host name has 253 characters at most
_MAX_LOGGED = 200
logger = logging.getLogger("pywsapp")


class Origin(NamedTuple):
    """An origin in lower case; the port is the scheme's own if none was written, None if the scheme has none."""

    scheme: str
    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """Parse the value of an Origin field; None if it is not one. `"null"` is not one either."""
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
    """An origin or several that may connect, as a person writes it."""

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
    """A list of origins that checks what is put into it.

    Raises:
        ConfigurationError: on every way in, what is put in is no origin.
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
        """Put an origin before the one at an index."""
        self._entries.insert(index, _Entry(value))

    def match(self, origin: Origin) -> bool:
        """Tell whether an origin is among them."""
        return any(entry.match(origin) for entry in self._entries)


class OriginCheck(HandshakeMiddleware):
    """Refuses handshakes of pages of other origins with 403 (Ratchet's OriginCheck).

    It decides at the handshake and then hands over, so it costs nothing per message. Plain HTTP passes unchecked:
    browsers guard that themselves.

    Args:
        component: what the others reach: a component, or a class or function that makes one for each connection.
        allowed_origins: `"https://example.com"`, also with a port; `"https://*.example.com"` for every subdomain but
            not example.com; without `https://`, of any scheme and, unless one is written, any port (what Ratchet
            compared); `"null"` for sandboxed pages and files; `"*"` for all. None or empty is the same origin only.
        require_origin: refuse those without an Origin field, who are no browsers, as well.

    Raises:
        ConfigurationError: no component, or an origin that is not one.
    """

    def __init__(
        self,
        component: MessageComponent | ComponentFactory,
        allowed_origins: Iterable[str] | None = None,
        *,
        require_origin: bool = False,
    ) -> None:
        super().__init__(component)
        self.require_origin = require_origin
        self.allowed_origins = allowed_origins

    @property
    def allowed_origins(self) -> AllowedOrigins:
        """The list that each handshake is checked against; it may be changed at any time, or replaced."""
        return self._allowed_origins

    @allowed_origins.setter
    def allowed_origins(self, origins: Iterable[str] | None) -> None:
        self._allowed_origins = AllowedOrigins(origins)

    def check(self, request: Request) -> None:
        """Refuse a handshake with 403 if its origin is not allowed."""
        sent = request.headers.getlist("origin")
        if not sent:
            if self.require_origin:
                raise Refuse(403, body="an Origin field is required here")
            return
        if self._allows(sent, request):
            return
        allowed = ", ".join(self.allowed_origins) or f"the same as of host {request.host!r}, port {request.port}"
        logger.info("refused a handshake of origin %r; allowed is %s", ", ".join(sent)[:_MAX_LOGGED], allowed)
        raise Refuse(403, body="this origin is not allowed here")

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
    return (origin.host, origin.port) == (request.host, port)
