"""Files with environment variables: `KEY=VALUE` lines, as Docker, systemd and python-dotenv read them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_LINE = re.compile(
    r"""\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
    (?: '(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | (?P<plain>[^'"\s\#].*?)? )
    \s*(?:(?<=\s)\#.*)?$""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def load_env_file(path: str) -> None:
    """Set the variables of a file, except those that are set already.

    Raises:
        ConfigurationError: the file cannot be read, or a line is no assignment.
    """
    from pywsapp.exceptions import ConfigurationError

    try:
        with open(path, encoding="utf-8-sig") as file:
            variables = dict(parse(file.read(), path))
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"cannot read {path}: it is not UTF-8") from None
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def parse(text: str, path: str) -> Iterator[tuple[str, str]]:
    r"""Yield the names and values of a text.

    A value is plain, in 'single quotes' as it is, or in "double quotes" with \n, \t, \" and the like. `#` begins a
    comment at the start of a line and after a blank. `$` has no meaning.

    Args:
        text: the content of the file.
        path: the name of the file, for messages.

    Raises:
        ConfigurationError: a line is no assignment.
    """
    from pywsapp.exceptions import ConfigurationError

    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.match(line)
        if found is None or "\0" in line:
            raise ConfigurationError(f"{path}, line {number}: write NAME=value, or NAME='value with blanks'")
        if found["double"] is not None:
            value = re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), found["double"])
        else:
            value = found["single"] if found["single"] is not None else (found["plain"] or "").rstrip()
        yield found["name"], value
