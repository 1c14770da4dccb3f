"""Path patterns: the paths that a route matches.

A path pattern is text with parameters in braces: `/rooms/{name}`, `/v{version:int}/users/{id:uuid}`. The time for
matching must be linear in the length of the path, for every pattern and every path. Two rules ensure this. A part
between slashes holds one parameter at most, so two repetitions never compete for the same characters. A `path`
parameter, the only one that matches slashes, stands alone at the end. Under these rules the regular expression of a
pattern backtracks only within one part, and there only over its fixed text.

Patterns are sorted part by part from the left: fixed text, then uuid, int, float, str, path; of two parameters of one
type, the one with more fixed text around it comes first. `/rooms/new` comes before `/rooms/{name}` in either order of
adding them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

from pywsapp.exceptions import ConfigurationError


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
#: The rank of a part that matches the whole rest of the path.
REST_OF_PATH = (_TYPES["path"].rank, 0)
_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")


class PathPattern:
    """A path with parameters, as `App.route` and `App.http` take it.

    Parameters are `{name}` (one part, without slashes), `{name:int}`, `{name:float}`, `{name:uuid}` and
    `{name:path}` (the whole rest, slashes included, possibly empty). Text may stand before and after a parameter.

    Args:
        text: the pattern; it begins with a slash.

    Raises:
        ConfigurationError: the text is no path pattern; the message says why.

    Attributes:
        text: the pattern as written.
        shape: the pattern without the names of its parameters; patterns of one shape match the same paths.
        specificity: a sort key; the most specific pattern comes first.
    """

    __slots__ = ("_converters", "_prefix", "_whole", "shape", "specificity", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ConfigurationError(f"a path must be a str, not {text!r}")
        if not text.startswith("/"):
            raise ConfigurationError(f"a path must begin with '/', but is {text!r}")
        if "?" in text or "#" in text:
            raise ConfigurationError(f"{text!r}: a path pattern has no query; read it from request.query_params")
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
        return f"PathPattern({self.text!r})"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(self._converters)

    def match(self, path: str) -> dict[str, Any] | None:
        """Return the converted parameters of a decoded path, or None if the path does not match."""
        found = self._whole.fullmatch(path)
        return None if found is None else self._convert(found)

    def match_prefix(self, path: str) -> tuple[dict[str, Any], str] | None:
        """Match the beginning of a path; return its parameters and the rest (`""` or from a slash on), or None."""
        found = self._prefix.fullmatch(path)
        return None if found is None else (self._convert(found), found[len(self._converters) + 1] or "")

    def _convert(self, found: re.Match[str]) -> dict[str, Any]:
        return {name: convert(found[name]) for name, convert in self._converters.items()}

    def _part(self, part: str, *, last: bool) -> tuple[str, tuple[int, int], str]:
        """Parse the text between two slashes; return its shape, its rank and its regular expression."""
        found = _PARAMETER.search(part)
        before, after = (part[: found.start()], part[found.end() :]) if found else (part, "")
        if _PARAMETER.search(after):
            raise ConfigurationError(f"{self.text!r}: only one parameter may stand between two slashes")
        if any(brace in before + after for brace in "{}"):
            raise ConfigurationError(f"{self.text!r}: unmatched brace; write {{name}} or {{name:type}}")
        if found is None:
            return part, (0, 0), re.escape(part)
        name, type_name = found[1], found[2] if found[2] is not None else "str"
        self._check_parameter(name, type_name, alone=last and not before and not after)
        kind = _TYPES[type_name]
        self._converters[name] = kind.convert
        regex = f"{re.escape(before)}(?P<{name}>{kind.regex}){re.escape(after)}"
        return f"{before}{{{type_name}}}{after}", (kind.rank, -len(before + after)), regex

    def _check_parameter(self, name: str, type_name: str, *, alone: bool) -> None:
        if not (name.isidentifier() and name.isascii()):
            raise ConfigurationError(f"{self.text!r}: {name!r} cannot name a parameter; use a Python identifier")
        if name in self._converters:
            raise ConfigurationError(f"{self.text!r}: two parameters are called {name!r}")
        if type_name not in _TYPES:
            known = ", ".join(sorted(_TYPES))
            raise ConfigurationError(f"{self.text!r}: {type_name!r} is no type of a parameter; the types are {known}")
        if type_name == "path" and not alone:
            raise ConfigurationError(f"{self.text!r}: a path parameter must stand alone after the last slash")
