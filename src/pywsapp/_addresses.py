"""IP addresses: one spelling for each, and sets of addresses and networks.

Addresses are compared by value, not by spelling. An IPv4 address inside an IPv6 address (`::ffff:192.0.2.1`, as a
dual-stack socket shows it) counts as that IPv4 address. A zone (`fe80::1%eth0`) names the interface of this machine on
which an address was seen, so it is ignored. Names are not looked up.

`Networks` keeps every entry, single addresses too, as a network in one dictionary, keyed by prefix length and prefix.
A lookup costs one probe for each prefix length in use, however long the list is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from pywsapp.exceptions import ConfigurationError

_IPV4_WITH_PORT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}):[0-9]{1,5}")
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_MAX_TEXT = 100  # no spelling of an address is longer


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address, and every other address unchanged."""
    return getattr(address, "ipv4_mapped", None) or address


def is_private(network: str) -> bool:
    """Return whether an address, or a network, belongs to a private network or to this machine."""
    parsed = _parse_address(network.partition("/")[0])
    return parsed is not None and parsed.is_private


class _Prefix(NamedTuple):
    """The leading `length` bits of an address of `bits` bits."""

    bits: int
    length: int
    value: int


class Networks:
    """A set of IP addresses and networks; `address in networks` is true for every address inside one of them."""

    __slots__ = ("_entries", "_lengths")

    def __init__(self) -> None:
        self._entries: dict[_Prefix, str] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()

    def __contains__(self, address: object) -> bool:
        """Return whether the set covers an address; False for anything that is not the text of an address."""
        found = _parse_address(address) if self._entries else None
        if found is None:
            return False
        bits, value = found.max_prefixlen, int(found)
        return any(
            _Prefix(bits, length, value >> (bits - length)) in self._entries
            for family, length in self._lengths
            if family == bits
        )

    def __iter__(self) -> Iterator[str]:
        """Iterate over the entries in the order in which they were added, in their canonical spelling."""
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: str) -> None:
        """Add an address (`"192.0.2.1"`, `"2001:db8::1"`, `"192.0.2.1:8080"`) or a network (`"10.0.0.0/8"`).

        Raises:
            ConfigurationError: the entry is neither an address nor a network.
        """
        prefix, text = _parse_entry(entry)
        if prefix not in self._entries:
            self._entries[prefix] = text
            self._lengths[prefix.bits, prefix.length] += 1

    def discard(self, entry: str) -> None:
        """Remove an entry, in any spelling, if it is present.

        The set still covers a removed address while a network around it is an entry.

        Raises:
            ConfigurationError: the entry is neither an address nor a network.
        """
        prefix, _ = _parse_entry(entry)
        if self._entries.pop(prefix, None) is not None:
            self._lengths[prefix.bits, prefix.length] -= 1
            self._lengths += Counter()  # drops the lengths that are no longer in use


def _parse_address(text: object) -> IPv4Address | IPv6Address | None:
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        return None
    with_port = _IPV4_WITH_PORT.fullmatch(text)
    try:
        address = ip_address(with_port[1] if with_port else text.partition("%")[0])
    except ValueError:
        return None
    return unmapped(address)


def _parse_entry(text: object) -> tuple[_Prefix, str]:
    address = _parse_address(text)
    if address is not None:
        return _Prefix(address.max_prefixlen, address.max_prefixlen, int(address)), str(address)
    try:
        network = ip_network(text, strict=False) if isinstance(text, str) and "/" in text else None
    except ValueError:
        network = None
    if network is None:
        shown = repr(text)  # of a file that is no list of addresses, a line can be the whole file
        shown = shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]}..."
        raise ConfigurationError(f"{shown} is not an IP address or network; names are not looked up")
    base = int(network.network_address)
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_MAPPED):
        network = IPv4Network((base & 0xFFFFFFFF, network.prefixlen - 96))
        base = int(network.network_address)
    bits, length = network.max_prefixlen, network.prefixlen
    return _Prefix(bits, length, base >> (bits - length)), str(network if length < bits else network.network_address)
