"""The standard output of the commands: streams that are closed or full, or that lack characters of a text."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from io import TextIOWrapper
from typing import TextIO


class OutputFailed(Exception):
    """The standard output cannot be written; the text says why."""

    def __init__(self, exc: OSError) -> None:
        super().__init__(f"the output cannot be written: {exc.strerror or exc}")


def open_streams() -> None:
    """Replace standard streams that are closed, as by `>&-`, and let them write characters that they lack as escapes.

    Python sets a closed stream to None.
    """
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a program that calls `main` can have another stream
            stream.reconfigure(errors="backslashreplace")


def write(text: str) -> None:
    """Write a text to the standard output.

    Raises:
        BrokenPipeError: the reader has ended.
        OutputFailed: it cannot be written for another reason.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputFailed(exc) from None


def write_utf_8(text: str) -> None:
    """Write a text as UTF-8 if the output is a pipe or a file, whatever the encoding of the terminal is."""
    if not sys.stdout.isatty() and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    write(text)


def discard_output() -> None:
    """Discard what is still in the buffer, which Python would write at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def size_of_terminal() -> os.terminal_size:
    """Return the columns and rows of the terminal; 80 and 24 if it has no size, as a serial line."""
    columns, rows = shutil.get_terminal_size()
    return os.terminal_size((columns or 80, rows or 24))  # Python 3.10 returns 0 for an unknown size


def width_of_terminal() -> int | None:
    """Return the number of columns of the terminal; None if the output is a pipe or a file."""
    return size_of_terminal().columns if sys.stdout.isatty() else None


def folded(text: str, width: int | None, *, indent: int = 0) -> str:
    """Return a line with a line end, broken between words if it is longer than a width.

    Args:
        text: the line.
        width: the columns of a terminal; None does not break the line.
        indent: blanks before each further line.
    """
    if width is None or len(text) <= width:
        return f"{text}\n"
    parts = textwrap.wrap(
        text, max(width, 1), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"{part}\n" for part in parts)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
