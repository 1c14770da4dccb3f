"""Connecting through a SOCKS proxy, by python-socks. It resolves names for socks4 and socks5, the proxy for the others.

python-socks reads exactly the bytes that an answer of the protocol has, so a hostile proxy cannot make it grow.
"""

from __future__ import annotations

import socket
from importlib import import_module
from typing import Any

from python_socks import ProxyError as SocksError
from python_socks import ProxyTimeoutError, ProxyType

from pywsapp._connecting.proxies import Proxy
from pywsapp._event_loop import on_asyncio
from pywsapp._http_text import one_line
from pywsapp.exceptions import ProxyError

_TYPES = {
    "socks4": (ProxyType.SOCKS4, False),
    "socks4a": (ProxyType.SOCKS4, True),
    "socks5": (ProxyType.SOCKS5, False),
    "socks5h": (ProxyType.SOCKS5, True),
}


async def connect_by_socks(proxy: Proxy, host: str, port: int, seconds: float) -> socket.socket:
    """Return a non-blocking socket that a SOCKS proxy has connected to a server.

    Args:
        proxy: the proxy.
        host: the server's name or IP address.
        port: the server's port.
        seconds: how long it may take.

    Raises:
        ProxyError: the proxy cannot be reached, refused, or answered wrongly.
        TimeoutError: it took too long.
    """
    kind, resolves = _TYPES[proxy.scheme]
    # Only the module for this event loop: the other one can need what is not installed.
    clients: Any = import_module(f"python_socks.async_.{'asyncio' if on_asyncio() else 'trio'}")
    client: Any = clients.Proxy(kind, proxy.host, proxy.port, proxy.username, proxy.password or None, rdns=resolves)
    try:
        sock: Any = await client.connect(host, port, timeout=seconds)
    except ProxyTimeoutError:
        raise TimeoutError(f"the proxy {proxy} did not connect to the server within {seconds} seconds") from None
    except SocksError as exc:
        raise ProxyError(f"the proxy {proxy} did not connect to the server: {one_line(str(exc))}") from None
    except OSError as exc:
        raise ProxyError(f"the proxy {proxy} cannot be reached: {one_line(str(exc))}") from None
    except ValueError:  # of an answer that is not SOCKS; its text could have the credentials
        raise ProxyError(f"the proxy {proxy} answered wrongly") from None
    return sock if isinstance(sock, socket.socket) else socket.socket(fileno=sock.detach())
