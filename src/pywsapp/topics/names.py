"""The names of topics, and patterns that match them.

A name consists of segments with `:` between them, for instance "room:42". The segments become the words of a RabbitMQ
routing key and the tokens of a NATS subject. A name therefore contains nothing that has a meaning there: no `*`, no
whitespace, no empty segment, and no segment that is just `#` or `>`. A pattern is a name whose last segment is `*`,
which matches one or more segments: "room:*" matches "room:42" and "room:42:typing"; "*" alone matches all names.

Names that begin with `$pywsapp:` are reserved: processes talk to each other on them. Clients and applications cannot
name them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pywsapp.exceptions import ConfigurationError, TopicError

#: Bytes of UTF-8. RabbitMQ limits routing keys to 255 bytes; the rest is for a prefix.
MAX_NAME_BYTES = 200
#: The beginning of the names on which processes talk to each other; no client and no application can use them.
RESERVED = "$pywsapp:"
#: Characters of an invalid name that an error message quotes.
_SHOWN = 40


def check_name(name: object) -> str:
    """Return a valid topic name as a str; for a member of a str Enum this is its value.

    Raises:
        TopicError: the name is invalid. Names often come from clients, so the text is fit to be sent to them.
    """
    if not isinstance(name, str):
        raise TopicError(f"a topic's name is a str, not {type(name).__name__}")
    fault = _fault(name)
    if fault is not None:
        raise TopicError(f"{name[:_SHOWN]!r} cannot be the name of a topic: {fault}")
    return str.__str__(name)


def is_name(name: str) -> bool:
    """Return whether a text is a valid topic name."""
    return _fault(name) is None


def _fault(name: str) -> str | None:
    # The length is checked first, since the other checks take time in proportion to it.
    if not 0 < len(name) <= MAX_NAME_BYTES or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        return f"it needs 1 to {MAX_NAME_BYTES} bytes of UTF-8"
    if not name.isprintable() or " " in name or "*" in name:
        return "whitespace, control characters and * are not allowed"
    if not {"", "#", ">"}.isdisjoint(name.split(":")):
        return "no part between its colons may be empty, # or >"
    if name.startswith(RESERVED):
        return f"names that begin with {RESERVED} are reserved"
    return None


class TopicPattern:
    """A pattern that matches topic names: a name, or a pattern that ends in `*`.

    Args:
        text: "room:*", "*", or a plain name, which matches itself.

    Attributes:
        text: the pattern as it was given.
        prefix: the beginning of the matched names, up to a colon; None for a plain name.

    Raises:
        ConfigurationError: the pattern is invalid.
    """

    __slots__ = ("prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.prefix: str | None = None
        if not isinstance(text, str):
            raise ConfigurationError(f"a topic pattern is a str such as 'room:*', not {text!r}")
        if text == "*" or text.endswith(":*"):
            self.prefix = text[:-1]
        try:
            check_name(text if self.prefix is None else f"{self.prefix}x")
        except TopicError as exc:
            raise ConfigurationError(f"{text!r} is not a topic pattern such as 'room:*': {exc}") from None

    def __repr__(self) -> str:
        return f"TopicPattern({self.text!r})"

    def matches(self, name: str) -> bool:
        """Return whether the pattern matches a name."""
        return name == self.text if self.prefix is None else name.startswith(self.prefix)

    def includes(self, other: TopicPattern) -> bool:
        """Return whether the pattern matches every name that another pattern matches."""
        return self.matches(other.text if other.prefix is None else other.prefix)


def without_included(patterns: Iterable[TopicPattern]) -> list[TopicPattern]:
    """Return the patterns that no other one includes: they match the same names, and each name matches only one."""
    distinct = list({pattern.text: pattern for pattern in patterns}.values())
    return [one for one in distinct if not any(other.includes(one) for other in distinct if other is not one)]
