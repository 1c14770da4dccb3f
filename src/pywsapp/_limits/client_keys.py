"""The keys by which limits tell clients apart: an address or a network, or a user."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any

from pywsapp._addresses import unmapped

#: One customer usually has a whole IPv6 network of this size (RFC 6177), and with it any number of addresses.
IPV6_PREFIX = 64
_IDENTIFIERS = ("sub", "id")


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


def user_key(user: Any) -> str | None:
    """Return what limits count for a user: its name or number, or its `sub` or `id`; None without a user.

    Args:
        user: the user of a connection: a str or int, a mapping with "sub" or "id", or an object with such an attribute.

    Raises:
        TypeError: the user has none of these.
    """
    if user is None or isinstance(user, str):
        return user
    if not isinstance(user, int):
        for name in _IDENTIFIERS:
            found = user.get(name) if isinstance(user, Mapping) else getattr(user, name, None)
            if isinstance(found, (str, int)):
                return str(found)
        raise TypeError(
            f"a limit for each user needs a name: {type(user).__name__} is no str or int and has no sub and no id; "
            "pass a function that returns the name of the user of a connection"
        )
    return str(user)
