"""Determine the client's address when a proxy or a load balancer is in front of the server.

There are two sources: the forwarding fields of a request that passed an HTTP proxy (`_protocol.forwarded`), and the
PROXY header that a TCP load balancer writes before all other data (`_protocol.proxy_protocol`). A client can send both
as well, so the server reads them from trusted peers only:

- It reads forwarding fields from the peers in `trusted_proxies`.
- It reads PROXY headers on listeners with `proxy_protocol`, from the peers in `trusted_proxies`, or from all peers if
  that list is empty.

If a connection has both, the PROXY header comes first. It names the peer of the load balancer. If that peer is trusted
too (a CDN in front of the load balancer), the server reads its forwarding fields. If the header names no peer, the
server reads no forwarding fields.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._addresses import Networks, unmapped
from pywsapp._log_fields import log_fields
from pywsapp._protocol.forwarded import forwarded_hops, forwarded_scheme
from pywsapp._protocol.proxy_protocol import MAX_SIZE, ProxyHeader, ProxyHeaderBuffer
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from pywsapp._transports.base import Transport
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")

_UNIX = "unix"
_AF_UNIX = getattr(socket, "AF_UNIX", None)


class Proxies:
    """The trusted proxies and load balancers; false if there are none.

    Args:
        trusted: IP addresses and networks; `"unix"` for every peer of a Unix socket.

    Raises:
        ConfigurationError: an entry is none of these.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        if isinstance(trusted, str):
            raise ConfigurationError(f"trusted_proxies must be a list: write [{trusted!r}]")
        self._networks = Networks()
        self._unix = False
        for entry in trusted:
            if entry == _UNIX:
                self._unix = True
            else:
                self._networks.add(entry)

    @property
    def networks(self) -> list[str]:
        """The trusted addresses and networks, in their canonical spelling."""
        return list(self._networks)

    def __bool__(self) -> bool:
        return self._unix or len(self._networks) > 0

    def __contains__(self, address: object) -> bool:
        """Return whether an IP address is that of a trusted proxy."""
        return address in self._networks

    def trust(self, peer: Any) -> bool:
        """Return whether a peer is trusted; `peer` is what `socket.getpeername` returns, or None if it is unknown."""
        if isinstance(peer, tuple):
            return address_of_peer(peer) in self._networks
        return self._unix and peer is not None

    async def receive_header(self, sock: socket.socket) -> ProxyHeader:
        """Read the PROXY header of a new connection, and no byte after it.

        Raises:
            ProtocolError: the peer is not trusted, or sends other data.
            OSError: the connection is lost.
        """
        peer = sock.getpeername()
        if self and not self.trust(peer):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"a PROXY header from {peer!r}, which is not trusted")
        buffer = ProxyHeaderBuffer()
        while True:
            await anyio.wait_readable(sock)
            try:
                data = sock.recv(MAX_SIZE, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                raise ConnectionResetError("the peer closed the connection before its PROXY header")
            header = buffer.receive(data)
            # The data after the header stays in the kernel, for TLS or the transport.
            left = len(data) - len(buffer.rest)
            while left:
                left -= len(sock.recv(left))
            if header is not None:
                return header

    def apply_forwarded(self, request: Request, peer: Any, header: ProxyHeader | None) -> None:
        """Set the address and the scheme of a request to what trusted proxies report in its forwarding fields.

        Args:
            request: its address and scheme are those of the connection, or of the PROXY header.
            peer: what `socket.getpeername` returns for the connection.
            header: the PROXY header before the request, or None.
        """
        speaker = (header.address, 0) if header is not None and header.relayed else peer
        if not self.trust(speaker):
            return
        hops = request.headers.getlist("x-forwarded-for")
        for hop in forwarded_hops(hops) if hops else ():
            if hop is None:
                if logger.isEnabledFor(logging.DEBUG):  # each request of a client can have such entries
                    logger.debug(
                        "X-Forwarded-For of %s has entries that are not addresses",
                        request,
                        extra=log_fields("request.invalid_forwarded_for", remote_address=request.remote_address),
                    )
                break
            request.remote_address = hop
            if hop not in self._networks:
                break
        request.scheme = forwarded_scheme(request.headers.getlist("x-forwarded-proto")) or request.scheme


def has_address(transport: Transport, peername: Any) -> bool:
    """Return whether a peer has an IP address, or needs none because the socket of its transport is a Unix socket.

    A TCP peer that resets the connection before the server accepts it has no address, but the server can still read
    what it has sent. Filters of addresses would take such a peer for one on a Unix socket.

    Args:
        transport: the transport of the connection.
        peername: its extra info of this name.
    """
    if isinstance(peername, tuple):
        return True
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == _AF_UNIX


def address_of_peer(peer: Any) -> str:
    """Return the IP address of a peer, or `""` on a Unix socket; IPv4 addresses on IPv6 sockets are unmapped.

    Args:
        peer: what `socket.getpeername` returns.
    """
    if not isinstance(peer, tuple):
        return ""
    address = str(peer[0])
    return str(unmapped(ip_address(address))) if address.startswith("::ffff:") else address
