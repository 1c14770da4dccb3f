"""Addresses that are refused.

An address is compared by its value, not by its spelling: an IPv4 address inside IPv6 (`::ffff:192.0.2.1`, which is how
a dual-stack socket shows it) is that IPv4 address, and a zone (`fe80::1%eth0`) says on which cable an address was
met, not whose it is, so it is left out. Names are not looked up; `"localhost"` is refused as a mistake, where
Ratchet took it and never matched it.

All entries, single addresses too, are networks in one dictionary, keyed by prefix length and prefix. A lookup costs
one probe for each prefix length in use, however long the list is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from pywsapp.component import ComponentFactory, HandshakeDecorator, MessageComponent
from pywsapp.values.errors import ConfigurationError, Refuse
from pywsapp.values.request import Request
from pywsapp.values.response import Response

_IPV4_WITH_PORT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}):[0-9]{1,5}")
_MAPPED = IPv6Network("::ffff:0:0/96")
_MAX_TEXT = 100  # no spelling of an address is longer


class _Prefix(NamedTuple):
    """The leading `length` bits of an address of `bits` bits."""

    bits: int
    length: int
    value: int


class IpBlackList(HandshakeDecorator):
    """Refuses handshakes and plain requests of listed addresses with 403 (Ratchet's IpBlackList).

    It decides at the handshake and then hands over, so it costs nothing per message; connections that are open
    when their address is blocked stay open. It goes by `request.remote_address`.

    Args:
        component: what the others reach: a component, or a class or function that makes one for each connection.
        blocked: addresses and networks, as in `block`.

    Raises:
        ConfigurationError: no component, or no address.
    """

    def __init__(self, component: MessageComponent | ComponentFactory, blocked: Iterable[str] = ()) -> None:
        super().__init__(component)
        self._blocked: dict[_Prefix, str] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()
        if isinstance(blocked, str):
            raise ConfigurationError(f"blocked is a list: write [{blocked!r}]")
        for address in blocked:
            self.block(address)

    def block(self, address: str) -> IpBlackList:
        """Block an address (`"192.0.2.1"`, `"2001:db8::1"`, `"192.0.2.1:8080"`) or a network (`"10.0.0.0/8"`).

        Returns:
            the list itself.

        Raises:
            ConfigurationError: it is neither.
        """
        prefix, text = _parse_entry(address)
        if prefix not in self._blocked:
            self._blocked[prefix] = text
            self._lengths[prefix.bits, prefix.length] += 1
        return self

    def unblock(self, address: str) -> IpBlackList:
        """Take an entry off the list, in any spelling; nothing happens if there is no such entry.

        Only that entry: an address stays blocked while a network that holds it is listed.

        Returns:
            the list itself.

        Raises:
            ConfigurationError: it is neither an address nor a network.
        """
        prefix, _ = _parse_entry(address)
        if self._blocked.pop(prefix, None) is not None:
            self._lengths[prefix.bits, prefix.length] -= 1
            self._lengths += Counter()  # drops the lengths that are not in use any more
        return self

    def is_blocked(self, address: str) -> bool:
        """Tell whether an address is on the list or in a listed network; what is no address never is."""
        found = _parse_address(address)
        if found is None:
            return False
        bits, value = found.max_prefixlen, int(found)
        return any(
            _Prefix(bits, length, value >> (bits - length)) in self._blocked
            for family, length in self._lengths
            if family == bits
        )

    @property
    def blocked(self) -> list[str]:
        """The entries in the order in which they were blocked, in their usual spelling."""
        return list(self._blocked.values())

    def check(self, request: Request) -> None:
        """Refuse a handshake with 403 if the address is blocked."""
        if self.is_blocked(request.remote_address):
            raise Refuse(403, body="your address is blocked")

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Hand a plain request over, unless the address is blocked."""
        self.check(request)
        return super().on_request(request)


def _parse_address(text: object) -> IPv4Address | IPv6Address | None:
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        return None
    with_port = _IPV4_WITH_PORT.fullmatch(text)
    try:
        address = ip_address(with_port[1] if with_port else text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _parse_entry(text: object) -> tuple[_Prefix, str]:
    address = _parse_address(text)
    if address is not None:
        return _Prefix(address.max_prefixlen, address.max_prefixlen, int(address)), str(address)
    try:
        network = ip_network(text, strict=False) if isinstance(text, str) and "/" in text else None
    except ValueError:
        network = None
    if network is None:
        raise ConfigurationError(f"{text!r} is no IP address or network; names are not looked up")
    base = int(network.network_address)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        network = IPv4Network((base & 0xFFFFFFFF, network.prefixlen - 96))
        base = int(network.network_address)
    bits, length = network.max_prefixlen, network.prefixlen
    return _Prefix(bits, length, base >> (bits - length)), str(network if length < bits else network.network_address)
