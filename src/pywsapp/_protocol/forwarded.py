"""X-Forwarded-For and X-Forwarded-Proto: what a proxy writes about the client it forwards for.

Each proxy on the way appends the address it was connected from, so the list is read from its right end: the last entry
is the word of the nearest proxy, the one before it the word of whoever that entry names, and so on. The client itself
may have sent the field with anything in it, which is then the left end. There is no standard; RFC 7239 wrote one with
another field, `Forwarded`, which hardly any proxy sends by itself and which is not read here.

Taken are the spellings that proxies use: IPv4, IPv6, IPv6 in brackets, and with a port behind it. Everything else, the
`unknown` of some and the `_names` of others, is no address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from pywsapp._addresses import unmapped

#: A way through more proxies than these does not exist; what is left of it somebody made up.
MAX_HOPS = 20

_HOP = re.compile(r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]{2,45})")
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


def forwarded_hops(values: Iterable[str]) -> Iterator[str | None]:
    """Give the addresses in X-Forwarded-For, the nearest one first, in their usual spelling; None for what is none.

    Args:
        values: those of all fields of the name, in order.
    """
    hops = ",".join(values).rsplit(",", MAX_HOPS)
    if len(hops) > MAX_HOPS:
        del hops[0]
    return map(_parse_hop, reversed(hops))


def forwarded_scheme(values: Iterable[str]) -> str | None:
    """Give "http" or "https", as the nearest proxy has it in X-Forwarded-Proto; None if that is neither.

    Args:
        values: those of all fields of the name, in order.
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
