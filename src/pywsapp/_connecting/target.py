"""WebSocket URLs: the parts that a client needs, and how messages show one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Target(NamedTuple):
    """The parts of a WebSocket URL.

    Attributes:
        secure: whether the scheme is wss.
        host: the host name or IP address.
        port: the port, also if the URL does not name it.
        host_field: the value of the Host field.
        path: the path with the query.
    """

    secure: bool
    host: str
    port: int
    host_field: str
    path: str

    def __str__(self) -> str:
        """Return the URL for messages: without its query, which can have secrets."""
        path, question_mark, _ = self.path.partition("?")
        return f"{'wss' if self.secure else 'ws'}://{self.host_field}{path}{question_mark and '?...'}"

    def __repr__(self) -> str:
        """Return the text of `str`: error trackers show the `repr` of what log lines are made of."""
        return f"<Target {self}>"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """The origin: URLs of one origin belong to one server (RFC 6454 section 4)."""
        return self.secure, self.host, self.port

    def request(self, subprotocols: Sequence[str]) -> Request:
        """Return the request that the connection will have."""
        path, _, query = self.path.partition("?")
        return Request(
            path=unquote(path),
            query_string=query,
            scheme="https" if self.secure else "http",
            host=self.host,
            port=self.port,
            subprotocols=tuple(subprotocols),
        )


def parse_url(url: str) -> Target:
    """Return the parts of a WebSocket URL.

    Raises:
        ConfigurationError: it is no such URL. The message shows neither its query nor its user.
    """
    if _CONTROL.search(url) is not None:  # urlsplit removes line ends and tabs, so the URL would name another host
        raise ConfigurationError(f"a URL has no control characters such as line ends: {shown_url(url)!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigurationError(f"{shown_url(url)!r} is not a URL: {exc}") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigurationError(f"a WebSocket URL looks like ws://host:port/path or wss://..., not {shown_url(url)!r}")
    if parts.fragment or parts.username is not None:
        raise ConfigurationError("a WebSocket URL has no #fragment and no user; send credentials in headers")
    host = parts.hostname
    literal = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "wss" else 80
    host_field = literal if port in (None, default) else f"{literal}:{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "wss", host, default if port is None else port, host_field, path)


def shown_url(url: str) -> str:
    """Return a URL for a message: without its query and its user, which can be secrets."""
    user, at, rest = url.partition("?")[0].rpartition("@")
    scheme, separator, _ = user.partition("//")  # without slashes, what looks like a scheme can be a user
    start = scheme + separator if separator and scheme in ("", "ws:", "wss:", "http:", "https:") else ""
    return (start if at else "") + rest + ("?..." if "?" in url else "")
