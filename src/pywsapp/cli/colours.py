"""Colours of JSON in a terminal."""

from __future__ import annotations

import os
import re
import sys

_KEY, _TEXT, _NUMBER, _WORD, _END = "\x1b[34m", "\x1b[32m", "\x1b[36m", "\x1b[35m", "\x1b[0m"
_TOKEN = re.compile(
    r"""(?P<key>"(?:[^"\\]|\\.)*"(?=\s*:))
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<word>true|false|null)""",
    re.VERBOSE,
)
_COLOURS = {"key": _KEY, "text": _TEXT, "number": _NUMBER, "word": _WORD}


def has_colours() -> bool:
    """Return whether the standard output shows colours: a terminal, without NO_COLOR, see https://no-color.org."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return False
    return sys.platform != "win32" or "WT_SESSION" in os.environ  # older consoles would show the escape sequences


def coloured_json(text: str) -> str:
    """Return JSON with colours.

    Args:
        text: JSON without control characters, which can be cut.
    """
    return _TOKEN.sub(lambda found: f"{_COLOURS[found.lastgroup or '']}{found[0]}{_END}", text)
