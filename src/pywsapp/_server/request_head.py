"""From the head of a request on a connection to a `Request`, with what the connection and trusted proxies say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pywsapp._protocol.http import parse_request
from pywsapp._server.proxies import address_of_peer
from pywsapp._server.tls import note_certificate
from pywsapp.exceptions import Refuse

if TYPE_CHECKING:
    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp._server.server import Server
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request


def read_request(
    head: bytes, server: Server, transport: Transport, peername: Any, header: ProxyHeader | None
) -> Request:
    """Return the request of a head.

    Args:
        head: as a `HeadBuffer` returns it.
        server: the server of the connection.
        transport: its transport.
        peername: the extra info of the transport of this name.
        header: the PROXY header of the connection, or None.

    Raises:
        Refuse: the head is malformed, or has too many fields.
    """
    request = parse_request(
        head,
        max_headers=server.options.max_headers,
        scheme="https" if is_over_tls(transport) or (header is not None and header.secure) else "http",
        remote_address=remote_address(peername, header),
    )
    request.app = server.app
    if server.proxies:
        server.proxies.apply_forwarded(request, peername, header)
    note_certificate(request, transport)
    return request


def is_over_tls(transport: Transport) -> bool:
    """Return whether a transport encrypts."""
    return transport.get_extra_info("ssl_object") is not None


def remote_address(peername: Any, header: ProxyHeader | None) -> str:
    """Return the address of the client of a connection, as its PROXY header or its socket states it."""
    return (header is not None and header.address) or address_of_peer(peername)


def body_size(request: Request, max_size: int) -> int:
    """Return the bytes of the body of a request.

    Raises:
        Refuse: the request does not state them, or they are more than `max_size`.
    """
    if "transfer-encoding" in request.headers:
        raise Refuse(411, body="a body needs a Content-Length")
    size = int(request.headers.get("content-length", "0"))  # the parser has checked it
    if size > max_size:
        raise Refuse(413, body=f"the body is longer than {max_size} bytes")
    return size


def has_ended_with(request: Request | None, size: int) -> bool:
    """Return whether a request ends with so many bytes after its head (RFC 9112, section 6.3)."""
    if request is None or "transfer-encoding" in request.headers:
        return False
    return size == int(request.headers.get("content-length", "0"))  # the parser has checked it
