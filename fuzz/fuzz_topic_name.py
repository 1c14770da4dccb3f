"""Any text is a topic's name or refused in a short text; a name is one word of no broker's pattern language.

Patterns match the names that begin with their prefix, and `includes` agrees with `matches`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from harness import check_text, fuzz, instrumented

with instrumented():
    from pywsapp.exceptions import ConfigurationError, TopicError
    from pywsapp.topics.names import MAX_NAME_BYTES, RESERVED, TopicPattern, check_name, without_included

MAX_TEXT = 300  # characters of a message that is sent to a client


def name_of(text: str) -> str | None:
    try:
        name = check_name(text)
    except TopicError as exc:
        check_text(exc, MAX_TEXT)
        check_printable(str(exc))
        return None
    assert type(name) is str
    assert name == text
    return name


def check_printable(text: str) -> None:
    assert text.isprintable(), "the text is sent to clients"


def pattern_of(text: str) -> TopicPattern | None:
    try:
        return TopicPattern(text)
    except ConfigurationError:
        return None


def check_form(name: str) -> None:
    """Check that a name can be a routing key of RabbitMQ, a subject of NATS and a channel of Redis."""
    assert 1 <= len(name.encode()) <= MAX_NAME_BYTES
    assert not set(name) & set(" \t\r\n\0*")
    assert not {"", "#", ">"} & set(name.split(":"))
    assert not name.startswith(RESERVED)


def reference(pattern: str, name: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith(":*"):
        escaped = "".join(f"[{char}]" if char in "?[" else char for char in pattern[:-1])
        return fnmatchcase(name, escaped + "?*")
    return pattern == name


def one_input(data: bytes) -> None:
    """Run one input: names and patterns, separated by line feeds."""
    texts = data.decode("utf-8", "surrogateescape").split("\n")[:12]
    names = [name for text in texts if (name := name_of(text)) is not None]
    patterns = [pattern for text in texts if (pattern := pattern_of(text)) is not None]
    for name in names:
        check_form(name)
        assert pattern_of(name) is not None, "a name is a pattern that matches itself"
    for pattern in patterns:
        for name in names:
            assert pattern.matches(name) == reference(pattern.text, name)
        for other in patterns:
            if pattern.includes(other):
                assert all(pattern.matches(name) for name in names if other.matches(name))
    fewer = without_included(patterns)
    for name in names:
        assert sum(pattern.matches(name) for pattern in fewer) == any(pattern.matches(name) for pattern in patterns)


def seeds() -> list[bytes]:
    texts = [
        "room:42\nroom:*\n*\nroom:42:typing\nroom:42:*",
        "a:b\na:*\na:b:*\na",
        "$pywsapp:users\n$pywsapp:*\n$\n$x:*",
        "a b\na\tb\na*b\n**\n*:a",
        ":\na:\n:a\na::b",
        "#\n>\na:#\na:>:b\n#a\na#",
        "x" * 200 + "\n" + "x" * 201,
        "é" * 100 + "\n" + "é" * 101,
        "\N{ZERO WIDTH SPACE}\n\N{NO-BREAK SPACE}\n\N{RIGHT-TO-LEFT OVERRIDE}",
        "[a]:*\n[a]:b\n?:*\na:b",
        "x:*\nx:*\nx:y",
        "a.b\na/b\na.*",
    ]
    return [*(text.encode() for text in texts), b"\xff\nroom:\xed\xa0\x80\n\xff:*"]


if __name__ == "__main__":
    fuzz(one_input, seeds())
