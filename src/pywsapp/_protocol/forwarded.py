"""X-Forwarded-For and X-Forwarded-Proto: what proxies write about the client for which they forward.

Each proxy on the path appends the address from which it was connected, so the list is read from its right end. The last
entry is the statement of the nearest proxy, the one before it is the statement of the proxy that this entry names, and
so on. The client can send the field with any content, which is then the left end. There is no standard for these
fields. RFC 7239 defines another field, `Forwarded`, which hardly any proxy sends by default and which is not read here.

Accepted spellings are those that proxies use: IPv4, IPv6, and IPv6 in brackets; IPv4 and brackets also with a port.
Anything else, such as `unknown` and the `_names` of some proxies, is not an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from pywsapp._addresses import unmapped

#: No real path has more proxies than this; entries to the left of these are ignored.
MAX_HOPS = 20

_HOP = re.compile(r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]{2,45})")
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


def forwarded_hops(values: Iterable[str]) -> Iterator[str | None]:
    """Return the addresses in X-Forwarded-For in canonical spelling, the nearest one first.

    An entry that is not an address becomes None.

    Args:
        values: the values of all X-Forwarded-For fields, in order.
    """
    hops = ",".join(values).rsplit(",", MAX_HOPS)
    if len(hops) > MAX_HOPS:
        del hops[0]
    return map(_parse_hop, reversed(hops))


def forwarded_scheme(values: Iterable[str]) -> str | None:
    """Return the scheme that the nearest proxy states, `"http"` or `"https"`; None if it states anything else.

    Args:
        values: the values of all X-Forwarded-Proto fields, in order.
    """
    return _SCHEMES.get(",".join(values).rpartition(",")[2].strip(" \t").lower())


def _parse_hop(text: str) -> str | None:
    found = _HOP.fullmatch(text.strip(" \t"))
    if found is None or int(found[3] or 0) > 65535:
        return None
    return _ipv4(found[1]) if found[1] else _ipv6(found[2] or found[4])


def _ipv4(text: str) -> str | None:
    try:
        return str(IPv4Address(text))
    except ValueError:
        return None


def _ipv6(text: str) -> str | None:
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    return str(unmapped(address))
