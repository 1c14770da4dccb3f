"""Who is at the other end when a proxy or a balancer stands between.

Two things can tell: the fields of a request that passed an HTTP proxy (`protocol.forwarded`), and a header in front of
everything that a TCP balancer writes (`protocol.proxy_protocol`). Both are only words, and a client can write them as
well. So the first is taken from peers that are listed, and the second on listeners that are said to be for balancers,
from those that are listed or, if none are, from all.

Where both are there, the header speaks first: it gives the peer of the balancer, and if that one is listed too (a CDN
in front of the balancer), its fields are read. Of a client that a balancer does not name, no field is read.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._addresses import Networks, unmapped
from pywsapp._protocol.forwarded import forwarded_hops, forwarded_scheme
from pywsapp._protocol.proxy_protocol import MAX_SIZE, ProxyHeader, ProxyHeaderBuffer
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import ConfigurationError, ProtocolError

if TYPE_CHECKING:
    from pywsapp.http import Request

logger = logging.getLogger("pywsapp")

_UNIX = "unix"


class Proxies:
    """The peers whose word is taken about whom they speak for; false if there are none.

    Args:
        trusted: IP addresses and networks, and `"unix"` for whoever can connect to a Unix socket.

    Raises:
        ConfigurationError: one of them is none of that.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        if isinstance(trusted, str):
            raise ConfigurationError(f"trusted_proxies is a list: write [{trusted!r}]")
        self._networks = Networks()
        self._unix = False
        for entry in trusted:
            if entry == _UNIX:
                self._unix = True
            else:
                self._networks.add(entry)

    def __bool__(self) -> bool:
        return self._unix or len(self._networks) > 0

    def trust(self, peer: Any) -> bool:
        """Tell whether a peer is one of them; `peer` is its name as sockets have it, None if it cannot be known."""
        if isinstance(peer, tuple):
            return address_of_peer(peer) in self._networks
        return self._unix and peer is not None

    async def receive_header(self, sock: socket.socket) -> ProxyHeader:
        """Take the PROXY header from a fresh connection, and not a byte of what is behind it.

        Raises:
            ProtocolError: the peer is not trusted, or sends something else.
            OSError: the peer has left.
        """
        peer = sock.getpeername()
        if self and not self.trust(peer):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"a PROXY header from {peer!r}, who is not trusted")
        buffer = ProxyHeaderBuffer()
        while True:
            await anyio.wait_readable(sock)
            try:
                data = sock.recv(MAX_SIZE, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                raise ConnectionResetError("the peer went away before its PROXY header")
            header = buffer.receive(data)
            # What is behind it stays in the kernel, where TLS or the transport will find it.
            left = len(data) - len(buffer.rest)
            while left:
                left -= len(sock.recv(left))
            if header is not None:
                return header

    def settle(self, request: Request, peer: Any, header: ProxyHeader | None) -> None:
        """Put into a request what trusted proxies say of it: the client's address, and the scheme.

        Args:
            request: with the address and scheme of the connection, or of the PROXY header.
            peer: the name of the connection's peer as sockets have it.
            header: what came in front of the request.
        """
        speaker = (header.address, 0) if header is not None and header.relayed else peer
        if not self.trust(speaker):
            return
        hops = request.headers.getlist("x-forwarded-for")
        for hop in forwarded_hops(hops) if hops else ():
            if hop is None:
                logger.debug("%s sent an X-Forwarded-For with something else than addresses in it", request)
                break
            request.remote_address = hop
            if hop not in self._networks:
                break
        request.scheme = forwarded_scheme(request.headers.getlist("x-forwarded-proto")) or request.scheme


def address_of_peer(peer: Any) -> str:
    """Give the IP address in a peer's name, `""` if it has none; an IPv4 one also where an IPv6 socket took it."""
    if not isinstance(peer, tuple):
        return ""
    address = str(peer[0])
    return str(unmapped(ip_address(address))) if address.startswith("::ffff:") else address
