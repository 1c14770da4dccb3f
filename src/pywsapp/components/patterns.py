"""What a route is matched by: the pattern of its path, and the hosts it answers to.

A path pattern is text with parameters in braces: `/rooms/{name}`, `/v{version:int}/users/{id:uuid}`. Matching has
to stay linear in the path, whatever the pattern and whatever a peer sends, and two rules give that. A part between
slashes holds one parameter at most, so no two repetitions ever compete for the same characters; and a `path`
parameter, the only one that crosses slashes, stands alone at the end. Under these rules the regular expression that a
pattern becomes backtracks only within one part, and there only over its fixed text.

Patterns are ordered by how much they leave open, part by part from the left: fixed text, then uuid, int, float, str,
path; of two parameters of one type, the one with more fixed text around it comes first. `/rooms/new` comes before
`/rooms/{name}`, whichever was added first.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from uuid import UUID

from pywsapp.values.errors import ConfigurationError


class _Type(NamedTuple):
    rank: int
    regex: str
    convert: Callable[[str], Any]


# 18 digits always fit a signed 64-bit integer, so a path cannot overflow the column it is looked up in.
_TYPES = {
    "uuid": _Type(1, "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", UUID),
    "int": _Type(2, "-?[0-9]{1,18}", int),
    "float": _Type(3, r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", float),
    "str": _Type(4, "[^/]+", str),
    "path": _Type(5, ".*", str),
}
#: How specific a part is that takes the whole rest of the path.
REST_OF_PATH = (_TYPES["path"].rank, 0)
_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class Pattern:
    """A path with parameters, as `App.route` and `App.http` take it.

    Parameters are `{name}` (one part, without slashes), `{name:int}`, `{name:float}`, `{name:uuid}` and
    `{name:path}` (the whole rest, slashes included, possibly empty). Text may stand before and behind a parameter.

    Args:
        text: the pattern; it begins with a slash.

    Raises:
        ConfigurationError: it is none; the text says why.

    Attributes:
        text: the pattern as written.
        shape: the pattern without the names; two patterns of one shape match the same paths.
        specificity: sorts patterns so that the first that matches is the closest.
    """

    __slots__ = ("_converters", "_prefix", "_whole", "shape", "specificity", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ConfigurationError(f"a path is a str, not {text!r}")
        if not text.startswith("/"):
            raise ConfigurationError(f"a path must begin with '/', but is {text!r}")
        if "?" in text or "#" in text:
            raise ConfigurationError(f"{text!r}: a query is no part of a path; read it from request.query_params")
        self.text = text
        self._converters: dict[str, Callable[[str], Any]] = {}
        parts = text.split("/")[1:]
        parsed = [self._part(part, last=number == len(parts)) for number, part in enumerate(parts, 1)]
        self.shape = "".join(f"/{shape}" for shape, _, _ in parsed)
        self.specificity = tuple(rank for _, rank, _ in parsed)
        regex = "".join(f"/{regex}" for _, _, regex in parsed)
        self._whole = re.compile(regex, re.DOTALL)
        self._prefix = re.compile(f"{regex.removesuffix('/')}(/.*)?", re.DOTALL)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def match(self, path: str) -> dict[str, Any] | None:
        """Give the parameters of a decoded path, converted; None if it does not match."""
        found = self._whole.fullmatch(path)
        return None if found is None else self._convert(found)

    def match_prefix(self, path: str) -> tuple[dict[str, Any], str] | None:
        """Match the beginning of a path up to a slash: its parameters, and the rest (`""` or from the slash on)."""
        found = self._prefix.fullmatch(path)
        return None if found is None else (self._convert(found), found[len(self._converters) + 1] or "")

    def _convert(self, found: re.Match[str]) -> dict[str, Any]:
        return {name: convert(found[name]) for name, convert in self._converters.items()}

    def _part(self, part: str, *, last: bool) -> tuple[str, tuple[int, int], str]:
        """Parse what stands between two slashes: its shape, its rank and its regular expression."""
        found = _PARAMETER.search(part)
        before, behind = (part[: found.start()], part[found.end() :]) if found else (part, "")
        if _PARAMETER.search(behind):
            raise ConfigurationError(f"{self.text!r}: only one parameter may stand between two slashes")
        if any(brace in before + behind for brace in "{}"):
            raise ConfigurationError(f"{self.text!r}: a brace without its partner; write {{name}} or {{name:type}}")
        if found is None:
            return part, (0, 0), re.escape(part)
        name, type_name = found[1], found[2] if found[2] is not None else "str"
        self._check_parameter(name, type_name, alone=last and not before and not behind)
        kind = _TYPES[type_name]
        self._converters[name] = kind.convert
        regex = f"{re.escape(before)}(?P<{name}>{kind.regex}){re.escape(behind)}"
        return f"{before}{{{type_name}}}{behind}", (kind.rank, -len(before + behind)), regex

    def _check_parameter(self, name: str, type_name: str, *, alone: bool) -> None:
        if not (name.isidentifier() and name.isascii()):
            raise ConfigurationError(f"{self.text!r}: {name!r} is no name for a parameter; use a Python identifier")
        if name in self._converters:
            raise ConfigurationError(f"{self.text!r}: two parameters are called {name!r}")
        if type_name not in _TYPES:
            known = ", ".join(sorted(_TYPES))
            raise ConfigurationError(f"{self.text!r}: {type_name!r} is no type of parameter; known are {known}")
        if type_name == "path" and not alone:
            raise ConfigurationError(f"{self.text!r}: a path parameter must stand alone behind the last slash")


class Hosts:
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
        return f"Hosts({self.text!r})"

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
