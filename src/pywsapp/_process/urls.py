"""The URLs of an App, for the start-up line and for `App.urls`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pywsapp._server.bind import ListeningSocket

#: Addresses that a URL shows as the name of the App.
_ALL_OR_LOOPBACK = ("127.0.0.1", "[::1]", "0.0.0.0", "[::]")


def urls_of(addresses: Iterable[tuple[ListeningSocket, str]], http_host: str | Sequence[str]) -> list[str]:
    """Return URLs such as "http://localhost:8080" and "unix:/run/chat.sock", without duplicates.

    Args:
        addresses: listeners with their addresses, `host:port` or `unix:path`.
        http_host: the name or names of the App; the first one replaces addresses that are no use to a client.
    """
    name = http_host if isinstance(http_host, str) else http_host[0]
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    urls = []
    for listener, address in addresses:
        if address.startswith("unix:"):
            urls.append(address)
            continue
        host, _, port = address.rpartition(":")
        if host in _ALL_OR_LOOPBACK and "*" not in name:
            host = name
        urls.append(f"{'http' if listener.tls is None else 'https'}://{host}:{port}")
    return list(dict.fromkeys(urls))


def port_of(addresses: Iterable[tuple[ListeningSocket, str]]) -> int | None:
    """Return the first TCP port of listening addresses; None if there are Unix sockets only."""
    ports = (int(address.rpartition(":")[2]) for _, address in addresses if not address.startswith("unix:"))
    return next(ports, None)
