"""Host patterns: the names in the Host header that a route answers to."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable

from pywsapp.exceptions import ConfigurationError

_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class HostPattern:
    """The names in the Host field that something answers to; case and port do not matter.

    Args:
        names: a name or several: `"example.com"`, `"*.example.com"` (every subdomain, however deep, but not
            example.com), an IP address; None or `"*"` is any host.
        or_address: also answer to every IP address, if one of the names is not itself an address.

    Raises:
        ConfigurationError: a name is not one.

    Attributes:
        text: the names, for people.
        specificity: sorts so that the closest comes first.
    """

    __slots__ = ("_addresses", "_names", "_suffixes", "any", "specificity", "text")

    def __init__(self, names: str | Iterable[str] | None, *, or_address: bool = False) -> None:
        given = ("*",) if names is None else (names,) if isinstance(names, str) else tuple(names)
        if not given:
            raise ConfigurationError("an empty list of hosts would answer to nobody; leave it out to answer to any")
        self.any = "*" in given
        normal = ["*"] if self.any else [host_name(name) for name in given]
        self._names = frozenset(name for name in normal if not name.startswith("*"))
        self._suffixes = tuple(name[1:] for name in normal if name.startswith("*."))
        self._addresses = or_address and any(not is_address(name) for name in normal)
        self.text = ", ".join(normal)
        rank = 3 if self.any else 2 if or_address else 1 if self._suffixes else 0
        self.specificity = (rank, -max(map(len, self._suffixes), default=0))

    def __repr__(self) -> str:
        return f"HostPattern({self.text!r})"

    def match(self, host: str) -> bool:
        """Tell whether a host is among them; it is lower case and has neither port nor brackets."""
        return (
            self.any
            or host in self._names
            or (bool(self._suffixes) and host.endswith(self._suffixes))
            or (self._addresses and is_address(host))
        )


def host_name(text: str) -> str:
    """Give a host's name as requests carry it: lower case, an IPv6 address without brackets.

    Raises:
        ConfigurationError: it is no host name, IP address or `*.` before a name.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a host is a str, not {text!r}")
    name = text.lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if is_address(name) or _HOST_NAME.fullmatch(name.removeprefix("*.")):
        return name
    if not name.isascii():
        raise ConfigurationError(f"the host {text!r} must be written as browsers send it, in ASCII: xn--...")
    raise ConfigurationError(f"{text!r} is no host: write 'example.com' or '*.example.com', without scheme, port, path")


@functools.lru_cache(1024)
def is_address(host: str) -> bool:
    """Tell whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
