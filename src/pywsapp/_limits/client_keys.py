"""The key by which limits tell clients without a user apart: an address, or a network of IPv6."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from pywsapp._addresses import unmapped

#: One customer usually has a whole IPv6 network of this size (RFC 6177), and with it any number of addresses.
IPV6_PREFIX = 64


@lru_cache(maxsize=1024)
def address_key(address: str) -> str:
    """Return what limits count for an address: an IPv4 address, or an IPv6 network of 64 bits.

    Args:
        address: as in `Request.remote_address`; empty on a Unix socket, whose clients count together.
    """
    try:
        found = unmapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return address or "local"
    if isinstance(found, IPv6Address):
        return f"{IPv6Address(int(found) >> IPV6_PREFIX << IPV6_PREFIX)}/{IPV6_PREFIX}"
    return str(found)
