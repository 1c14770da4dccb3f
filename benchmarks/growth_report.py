"""The report of scale.py: Markdown tables, and a chart of small log-log plots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import svg
from benchmarks.growth import Point
from benchmarks.report import NONE, number, table


@dataclass(frozen=True)
class Panel:
    """One figure of one part: a column of a table, and a plot if `plotted`."""

    part: str
    value: str
    title: str
    axis: str
    plotted: bool = True


PANELS = (
    Panel("idle", "rss", "RSS of an idle connection, KiB", "connections"),
    Panel("idle", "cpu", "CPU of idle connections with their pings, %", "connections"),
    Panel("busy", "full", "CPU of a message, as fast as possible, µs", "connections"),
    Panel("busy", "paced", "CPU of a message at 5,000/s, µs", "connections", plotted=False),
    Panel("busy", "mean", "mean reply, as fast as possible, ms", "connections", plotted=False),
    Panel("busy", "p99", "99 % of replies, as fast as possible, ms", "connections"),
    Panel("busy", "max", "slowest reply, as fast as possible, ms", "connections", plotted=False),
    Panel("size", "message", "CPU of a message, µs", "bytes"),
    Panel("size", "byte", "CPU of a byte, ns", "bytes"),
    Panel("fanout", "delivery", "CPU of one delivery of a broadcast, µs", "subscribers"),
    Panel("fanout", "rate", "deliveries/s of a broadcast", "subscribers", plotted=False),
    Panel("stalls", "idle", "longest echo, idle, ms", "connections", plotted=False),
    Panel("stalls", "ping", "longest echo during pings, ms", "connections"),
    Panel("stalls", "broadcast", "longest echo during broadcasts to all, ms", "connections"),
    Panel("stalls", "shutdown", "longest echo during shutdown, ms", "connections"),
    Panel("stalls", "shutdown_seconds", "from SIGTERM to the end of the process, s", "connections", plotted=False),
)
HEADS = {
    "idle": "Idle connections",
    "busy": "Busy connections",
    "size": "Size of messages",
    "fanout": "Subscribers of a broadcast",
    "stalls": "Longest time of an echo during work on all connections",
}
WIDTH, HEIGHT, COLUMNS = 300, 200, 3
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 30, 36  # the margins of a plot in its panel


def median(points: Sequence[Point], contestant: str, panel: Panel, x: int) -> float | None:
    values = [
        point.values[panel.value]
        for point in points
        if (point.contestant, point.part, point.x) == (contestant, panel.part, x) and panel.value in point.values
    ]
    return statistics.median(values) if values else None


def contestants_of(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.contestant for point in points))


def markdown(points: Sequence[Point], facts: dict[str, Any]) -> str:
    """Return a table for each part, with a column for each figure."""
    lines = [f"- {name}: {value}" for name, value in facts.items() if isinstance(value, str) and value] + [""]
    for part, head in HEADS.items():
        sizes = sorted({point.x for point in points if point.part == part})
        panels = [panel for panel in PANELS if panel.part == part]
        if not sizes:
            continue
        rows = []
        for contestant in contestants_of(points):
            for x in sizes:
                values = [median(points, contestant, panel, x) for panel in panels]
                shown = [NONE if value is None else number(value) for value in values]
                rows.append([contestant, f"{x:,}", *shown])
        lines += [f"### {head}", "", *table(["server", panels[0].axis, *(panel.title for panel in panels)], rows)]
    failures = [
        f"- {point.contestant}, {point.part}, {point.x:,}: {point.failure}" for point in points if point.failure
    ]
    lines += ["### Failures", "", *failures] if failures else []
    return "\n".join(lines).rstrip() + "\n"


def draw(points: Sequence[Point]) -> str:
    """Return the chart as SVG: a plot for each measured figure, a line for each contestant."""
    names = contestants_of(points)
    colours = dict(zip(names, svg.PALETTE * (1 + len(names) // len(svg.PALETTE)), strict=False))
    measured = {(point.part, value) for point in points for value in point.values}
    panels = [panel for panel in PANELS if panel.plotted and (panel.part, panel.value) in measured]
    parts, top = svg.legend(list(colours.items()), 8, 18, WIDTH * COLUMNS)
    for at, panel in enumerate(panels):
        x, y = at % COLUMNS * WIDTH, top + 14 + at // COLUMNS * HEIGHT
        parts += _panel(panel, points, colours, x, y)
    rows = math.ceil(len(panels) / COLUMNS)
    return svg.document(WIDTH * COLUMNS, top + 14 + rows * HEIGHT, "How cost grows in one process", parts)


def _panel(panel: Panel, points: Sequence[Point], colours: dict[str, str], x: float, y: float) -> list[str]:
    lines = {name: _line(panel, points, name) for name in colours}
    every = [place for line in lines.values() for place in line]
    low_x, high_x = _bounds([place[0] for place in every])
    low_y, high_y = _bounds([place[1] for place in every])
    left, right, top, bottom = x + LEFT, x + WIDTH - RIGHT, y + TOP, y + HEIGHT - BOTTOM

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (math.log10(point[0]) - low_x) / (high_x - low_x)
        up = (math.log10(point[1]) - low_y) / (high_y - low_y)
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [svg.text(x + 8, y + 14, panel.title, size=12, bold=True)]
    for power in range(low_x, high_x + 1):
        at = place((10.0**power, 10.0**low_y))[0]
        parts += [
            svg.line(at, top, at, bottom, faint=True),
            svg.text(at, bottom + 14, _tick(power), size=10, anchor="middle"),
        ]
    for power in range(low_y, high_y + 1):
        at = place((10.0**low_x, 10.0**power))[1]
        parts += [
            svg.line(left, at, right, at, faint=True),
            svg.text(left - 5, at + 4, _tick(power), size=10, anchor="end"),
        ]
    parts.append(svg.text((left + right) / 2, bottom + 28, panel.axis, size=10, anchor="middle"))
    return parts + [svg.path([place(point) for point in line], colours[name]) for name, line in lines.items() if line]


def _line(panel: Panel, points: Sequence[Point], contestant: str) -> list[tuple[float, float]]:
    sizes = sorted({point.x for point in points if point.part == panel.part})
    values = ((x, median(points, contestant, panel, x)) for x in sizes)
    # 0 has no logarithm; only the table has it.
    return [(float(x), value) for x, value in values if value is not None and value > 0]


def _bounds(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten below and above some values, at least one apart."""
    if not values:
        return 0, 1
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _tick(power: int) -> str:
    if power < 0:
        return f"{10.0**power:g}"
    return f"{10**power:,}" if power < 4 else f"{10 ** (power - 3):,}k" if power < 6 else f"{10 ** (power - 6):,}M"
