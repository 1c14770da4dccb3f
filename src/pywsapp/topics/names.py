"""The names of topics, and patterns over them.

A name is made of segments with `:` between them, "room:42" for instance. They become the words of a RabbitMQ routing
key and the tokens of a NATS subject, so a name holds nothing that means something else there: `*`, whitespace, a
segment that is empty, or one that is just `#` or `>`. A pattern is a name whose last segment is `*`, which stands for
everything below: "room:*" matches "room:42" and "room:42:typing"; "*" alone matches all.
"""

from __future__ import annotations

from pywsapp.exceptions import ConfigurationError, TopicError

#: Bytes of UTF-8; RabbitMQ's routing keys end at 255, and some are left for a prefix.
MAX_NAME_BYTES = 200
_SHOWN = 40


def check_name(name: object) -> str:
    """Give a topic's name if it is one; of a member of a str Enum its text, which `str` and f-strings do not give.

    Raises:
        TopicError: it is none; names often come from clients, so the text is fit for them.
    """
    if not isinstance(name, str):
        raise TopicError(f"a topic's name is a str, not {type(name).__name__}")
    fault = _fault(name)
    if fault is not None:
        raise TopicError(f"{name[:_SHOWN]!r} cannot be the name of a topic: {fault}")
    return str.__str__(name)


def _fault(name: str) -> str | None:
    # the length first, for everything else costs time in proportion to it
    if not 0 < len(name) <= MAX_NAME_BYTES or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        return f"it needs 1 to {MAX_NAME_BYTES} bytes of UTF-8"
    if not name.isprintable() or " " in name or "*" in name:
        return "whitespace, control characters and * are not allowed"
    if not {"", "#", ">"}.isdisjoint(name.split(":")):
        return "no part between its colons may be empty, # or >"
    return None


class TopicPattern:
    """A pattern over names of topics: a name, or one that ends in `*`.

    Args:
        text: "room:*", "*", or a plain name, which matches itself.

    Attributes:
        text: what it was made from.
        prefix: what the names that it matches begin with, up to a colon; None for a plain name.

    Raises:
        ConfigurationError: it is none.
    """

    __slots__ = ("prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.prefix: str | None = None
        if not isinstance(text, str):
            raise ConfigurationError(f"a pattern is a str such as 'room:*', not {text!r}")
        if text == "*" or text.endswith(":*"):
            self.prefix = text[:-1]
        try:
            check_name(text if self.prefix is None else f"{self.prefix}x")
        except TopicError as exc:
            raise ConfigurationError(f"{text!r} is no pattern such as 'room:*': {exc}") from None

    def __repr__(self) -> str:
        return f"TopicPattern({self.text!r})"

    def matches(self, name: str) -> bool:
        """Tell whether a name is one of those meant."""
        return name == self.text if self.prefix is None else name.startswith(self.prefix)
