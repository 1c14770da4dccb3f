"""Tables for the terminal, and text that cannot control it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Return rows as aligned columns.

    Args:
        heads: the heads of the columns.
        rows: the rows, each with as many cells.
        numbers: the columns that are aligned at the right.
    """
    cells = [list(heads), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(width_of(row[column]) for row in cells) for column in range(len(heads))]
    lines = []
    for row in cells:
        parts = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - width_of(cell))
            parts.append(blanks + cell if column in numbers else cell + blanks)
        lines.append("  ".join(parts).rstrip() + "\n")
    return "".join(lines)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: Chinese characters take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def cut(text: str, columns: int) -> str:
    """Return as much of a text as fits into some columns of a terminal."""
    if text.isascii():
        return text[:columns]
    for place, char in enumerate(text):
        columns -= _width_of(char)
        if columns < 0:
            return text[:place]
    return text


def _width_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def safe(text: str, *, keep: str = "") -> str:
    r"""Return a text without characters that control a terminal or change the direction of a line: `\x1b` for ESC.

    Args:
        text: any text.
        keep: control characters that stay, such as a newline.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )
