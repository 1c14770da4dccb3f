"""Tables for the terminal, and text that cannot control it."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Return rows as aligned columns.

    Args:
        heads: the heads of the columns.
        rows: the rows, each with as many cells.
        numbers: the columns that are aligned at the right.
    """
    cells = [list(heads), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip() + "\n")
    return "".join(lines)


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
