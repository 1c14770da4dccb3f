"""Host patterns: the names in the Host field that a route answers to."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable

from pywsapp.exceptions import ConfigurationError

#: The names of the machine itself that browsers send; one stands for all three by default.
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class HostPattern:
    """The names in the Host field that a router or a route answers to; case and port are ignored.

    Args:
        names: a name or several: `"example.com"`, `"*.example.com"` (every subdomain, of any depth, but not
            example.com), an IP address; None or `"*"` is any host.
        or_address: also answer to every IP address, unless all of the names are addresses. One of `localhost`,
            `127.0.0.1` and `::1` then stands for all three.

    Raises:
        ConfigurationError: a name is no host name.

    Attributes:
        text: the names as a text for messages.
        specificity: a sort key; the most specific pattern comes first.
    """

    __slots__ = ("_addresses", "_names", "_suffixes", "any", "specificity", "text")

    def __init__(self, names: str | Iterable[str] | None, *, or_address: bool = False) -> None:
        given = ("*",) if names is None else (names,) if isinstance(names, str) else tuple(names)
        if not given:
            raise ConfigurationError("an empty list of hosts would answer to no request; use '*' to answer to any host")
        self.any = "*" in given
        normal = ["*"] if self.any else [host_name(name) for name in given]
        names_alone = frozenset(name for name in normal if not name.startswith("*"))
        self._names = names_alone | _LOOPBACK if or_address and names_alone & _LOOPBACK else names_alone
        self._suffixes = tuple(name[1:] for name in normal if name.startswith("*."))
        self._addresses = or_address and any(not is_address(name) for name in normal)
        self.text = ", ".join(normal)
        rank = 3 if self.any else 2 if or_address else 1 if self._suffixes else 0
        self.specificity = (rank, -max(map(len, self._suffixes), default=0))

    def __repr__(self) -> str:
        return f"HostPattern({self.text!r})"

    def match(self, host: str) -> bool:
        """Return whether the pattern includes a host, which is in lower case without port and brackets."""
        return (
            self.any
            or host in self._names
            or (bool(self._suffixes) and host.endswith(self._suffixes))
            or (self._addresses and is_address(host))
        )


def host_name(text: str) -> str:
    """Return a host's name as `Request.host` has it: in lower case, an IPv6 address without brackets.

    Raises:
        ConfigurationError: the text is no host name, IP address, or `*.` before a name.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a host must be a str, not {text!r}")
    name = text.lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if is_address(name) or _HOST_NAME.fullmatch(name.removeprefix("*.")):
        return name
    if not name.isascii():
        raise ConfigurationError(f"the host {text!r} must be written in ASCII, as browsers send it: xn--...")
    raise ConfigurationError(f"{text!r} is no host: write 'example.com' or '*.example.com', without scheme, port, path")


@functools.lru_cache(1024)
def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost`, `127.0.0.1` or `::1`."""
    return host in _LOOPBACK


def default_hosts(http_host: str | Iterable[str] | None) -> HostPattern:
    """Return the hosts of an App or Router, for routes that have none of their own.

    Raises:
        ConfigurationError: a name is no host name.
    """
    if http_host is not None and not isinstance(http_host, Iterable):
        raise ConfigurationError(
            f"http_host, the first argument of App, is the name that clients write in the URL, not {http_host!r}: "
            "write App('localhost', 8080)"
        )
    names = http_host if http_host is None or isinstance(http_host, str) else tuple(http_host)
    for name in (names,) if isinstance(names, str) else names or ():
        check_not_bind_all(name)
    return HostPattern(names, or_address=True)


def check_not_bind_all(name: object) -> None:
    """Check that a text is not an address to listen on for all interfaces, which no client uses as a name.

    Raises:
        ConfigurationError: it is one; the message names `address`, the argument that binds.
    """
    if not isinstance(name, str):
        return
    if name not in ("", "0"):
        try:
            if not ipaddress.ip_address(name.strip("[]")).is_unspecified:
                return
        except ValueError:
            return
    raise ConfigurationError(
        f"http_host, the first argument of App, is the name that clients write in the URL, not {name!r}: "
        f"to listen on all interfaces, write App('chat.example', address={name.strip('[]')!r}), "
        "or App('*', address=...) for any name"
    )
