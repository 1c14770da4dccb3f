"""Proxies: their URLs, and which one the environment names for a server."""

from __future__ import annotations

import re
from base64 import b64encode
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pywsapp._connecting.target import Target
from pywsapp.exceptions import ConfigurationError

_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_SCHEMES = "http, https, socks4, socks4a, socks5 or socks5h"
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_MAX_CREDENTIALS = 255  # bytes of a name or password (RFC 1929 section 2)


class Proxy(NamedTuple):
    """A proxy; its text shows no credentials.

    Attributes:
        scheme: http, https, socks4, socks4a, socks5 or socks5h; with socks4a and socks5h the proxy resolves names.
        host: its host name or IP address.
        port: its port.
        username: the name to authenticate with; None without.
        password: the password that belongs to it.
    """

    scheme: str
    host: str
    port: int
    username: str | None
    password: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS, and not HTTP."""
        return self.scheme.startswith("socks")

    @property
    def authorization(self) -> str | None:
        """The value of Proxy-Authorization (RFC 7617); None without credentials."""
        if self.username is None:
            return None
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


def parse_proxy(url: str, what: str = "proxy") -> Proxy:
    """Return the proxy of a URL.

    Args:
        url: the URL.
        what: names the argument in messages.

    Raises:
        ConfigurationError: the URL is invalid. The message does not show it, because it can have a password.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"{what} must be a URL such as 'http://proxy.example:3128', True or None")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{what} is not a URL") from None
    if parts.scheme not in _PORTS or not parts.hostname or _CONTROL.search(url) is not None:
        raise ConfigurationError(f"{what} must be a URL like 'http://proxy.example:3128'; its scheme is {_SCHEMES}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigurationError(f"{what} must have no path, no query and no fragment")
    username = None if parts.username is None else unquote(parts.username)
    password = unquote(parts.password or "")
    for value in (username or "", password):
        if len(value.encode()) > _MAX_CREDENTIALS or _has_control(value):
            raise ConfigurationError(f"{what} has a user or a password that is too long or has control characters")
    if parts.scheme == "http" or parts.scheme == "https":
        if ":" in (username or ""):
            raise ConfigurationError(f"{what} has a user with a colon, which HTTP cannot send")
    elif not f"{username or ''}{password}".isascii():
        raise ConfigurationError(f"{what} has a user or a password that is not ASCII, which SOCKS cannot send")
    return Proxy(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port, username, password)


def _has_control(value: str) -> bool:
    return any(character < " " or character == "\x7f" for character in value)


def choose_proxy(proxy: str | bool | None, target: Target) -> Proxy | None:
    """Return the proxy for a server; None if the client connects to it directly.

    Args:
        proxy: a URL; True for the proxy of the environment; None or False for none.
        target: the server.

    Raises:
        ConfigurationError: a URL is invalid.
    """
    if proxy is None or proxy is False:
        return None
    if proxy is not True:
        return parse_proxy(proxy)
    environment: Any = import_module("urllib.request")  # with all it imports, it would slow down every start
    found = environment.getproxies()
    for scheme in ("wss", "https", "all") if target.secure else ("ws", "http", "all"):
        if found.get(scheme):
            host = f"[{target.host}]" if ":" in target.host else target.host
            if environment.proxy_bypass(f"{host}:{target.port}"):
                return None
            url = found[scheme] if "://" in found[scheme] else f"http://{found[scheme]}"
            return parse_proxy(url, f"the environment variable {scheme}_proxy")
    return None
