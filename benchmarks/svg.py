"""The SVG elements of the charts, in colours that are legible on a light and on a dark background."""

from __future__ import annotations

from html import escape

# An image does not know the background of its page, so each colour has contrast to black and to white.
INK = "#747c86"
GRID = "#8b949e"
PALETTE = ("#1f6feb", "#d29922", "#8957e5", "#2da44e", "#cf4f6b", "#768390")
PALE = "#56a0f5"  # for a variant of the first
FONT = "-apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"


def text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>'


def line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = GRID, width: float = 1, faint: bool = False
) -> str:
    opacity = ' stroke-opacity="0.35"' if faint else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{opacity}/>'


def path(points: list[tuple[float, float]], colour: str) -> str:
    """Draw a line through points, with a dot on each."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'


def legend(names: list[tuple[str, str]], x: float, y: float, width: float) -> tuple[list[str], float]:
    """Arrange pairs of name and colour in rows; return the elements and the y position of the last row."""
    parts, at = [], x
    for name, colour in names:
        needed = 42 + 7.6 * len(name)
        if at > x and at + needed > x + width:
            at, y = x, y + 20
        parts += [bar(at, y - 10, 12, 12, colour), text(at + 18, y, name)]
        at += needed
    return parts, y


def document(width: float, height: float, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img"'
    body = "\n".join(parts)
    return f'{head} font-family="{FONT}" fill="{INK}">\n<title>{escape(title)}</title>\n{body}\n</svg>\n'
