"""Placeholders in the names of topics, which stand for values of a request: `{user}`, `{user.id}`, `{path.room}`.

`TopicRules` compares names with them, and `App.events` makes a name of them. `rules` says what a placeholder can be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from pywsapp.auth.user_keys import key_of_user
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Request

#: A colon between two parts, which is none inside of a placeholder, as in `{user[cognito:username]}`.
COLON = re.compile(r":(?![^{}]*\})")
_SOURCES = ("user", "path", "state")
#: One placeholder with text around it.
_PART = re.compile(r"(?P<before>[^{}]*)\{(?P<source>[a-z]+)(?P<names>(?:\.\w+|\[[^\[\]{}]+\])*)\}(?P<after>[^{}]*)")
_NAME = re.compile(r"\.(\w+)|\[([^\[\]]+)\]")


class Placeholder(NamedTuple):
    """A part of a name with the value of a request in it."""

    before: str
    source: str
    names: tuple[str, ...]
    after: str

    @property
    def sample(self) -> str:
        """The part with some value."""
        return f"{self.before}x{self.after}"

    def text_for(self, request: Request) -> str | None:
        """Return the part for a request; None if the request has no such value, or it is no text."""
        value = self._value(request)
        return None if value is None else f"{self.before}{value}{self.after}"

    def _value(self, request: Request) -> str | None:
        value: Any
        if self.source == "user":
            if not self.names:
                return key_of_user(request)
            value = request.user
        else:
            value = request.path_params if self.source == "path" else request.state
        for name in self.names:
            if value is None:
                return None
            value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        return _as_text(value)


def _as_text(value: object) -> str | None:
    """Return the text of a value that can be a part of a name; None for any other value."""
    if isinstance(value, str):
        return str.__str__(value) or None
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    return str(value) if isinstance(value, UUID) else None


def parse_placeholder(part: str, label: str) -> Placeholder:
    """Parse a part of a name that has braces.

    Args:
        part: the part.
        label: what has it, for messages.

    Raises:
        ConfigurationError: it is no placeholder with text around it.
    """
    found = _PART.fullmatch(part)
    if found is None or found["source"] not in _SOURCES:
        raise ConfigurationError(
            f"{label} has an invalid part {part!r}: write {{user}}, {{user.id}}, {{user[id]}}, {{path.room}} "
            "or {state.team}, one between two colons"
        )
    names = tuple(dotted or item for dotted, item in _NAME.findall(found["names"]))
    if not names and found["source"] != "user":
        raise ConfigurationError(f"{label} has no name in {part!r}: write {{{found['source']}.name}}")
    for name in names:
        if name.startswith("_"):
            raise ConfigurationError(f"{label} has the name {name!r}, which begins with an underscore")
    return Placeholder(found["before"], found["source"], names, found["after"])
