"""The chart of a session: grouped bars, each with the ratio to websockets on uvloop."""

from __future__ import annotations

from benchmarks import svg
from benchmarks.results import Results
from benchmarks.scenarios import METRICS

BASELINE = "websockets+uvloop"
SHOWN = (
    "pywsapp+uvloop",
    "pywsapp+uvloop pure",
    "picows+uvloop",
    "aiohttp+uvloop",
    "uvicorn-sansio",
    "tornado+uvloop",
)
GROUPS = (
    ("echo16", "echo 16 B"),
    ("echo16x16", "echo 16 B, 16 in flight"),
    ("echo1k", "echo 1 KiB"),
    ("echo64k", "echo 64 KiB"),
    ("bcast500", "broadcast to 500"),
    ("bcast500-deflate", "broadcast, compressed"),
    ("connect", "handshakes"),
    ("idle2000", "connections per memory"),
)
TIMES = "\u00d7"
WIDTH = 860
LEFT = 210  # the left end of the bars
RIGHT = WIDTH - 60  # the right end of the longest bar; its figure needs the rest
BAR = 14
GAP = 16
LONGEST = 12  # a longer bar is cut, so that differences between the others stay visible


def ratio(results: Results, contestant: str, metric: str) -> float | None:
    """Return the ratio to the baseline, inverted if less is better."""
    spread = results.ratio(contestant, [BASELINE], metric)
    if spread is None or spread.median <= 0:
        return None
    return 1 / spread.median if METRICS[metric][1].less_is_better else spread.median


def draw(results: Results) -> str:
    """Return the chart as SVG, without scenarios that were not measured."""
    first, *others = svg.PALETTE
    colours = dict(zip(SHOWN, (first, svg.PALE, *others), strict=False))
    groups = []
    for metric, title in GROUPS:
        values = [(name, value) for name in SHOWN if (value := ratio(results, name, metric)) is not None]
        if values:
            groups.append((title, values))
    named = {name for _, values in groups for name, _ in values}
    parts = [svg.text(0, 18, f"Ratio to {BASELINE} (= 1): more is better", size=15, bold=True)]
    keys, top = svg.legend([(name, colours[name]) for name in SHOWN if name in named], 0, 44, WIDTH)
    longest = min(max((value for _, values in groups for _, value in values), default=1.0), LONGEST)
    scale = (RIGHT - LEFT) / max(longest, 1)
    bars, bottom = _bars(groups, colours, scale, top + 24)
    parts += [*keys, *_grid(scale, max(longest, 1), top + 14, bottom), *bars]
    if not groups:
        parts.append(svg.text(0, bottom, f"nothing was measured beside {BASELINE}"))
    return svg.document(WIDTH, bottom + 30, f"Servers compared with {BASELINE}", parts)


def _bars(
    groups: list[tuple[str, list[tuple[str, float]]]], colours: dict[str, str], scale: float, y: float
) -> tuple[list[str], float]:
    parts = []
    for title, values in groups:
        middle = y + len(values) * BAR / 2 + 4
        parts.append(svg.text(LEFT - 12, middle, title, anchor="end", bold=True))
        for name, value in values:
            width = min(value, LONGEST) * scale
            parts.append(svg.bar(LEFT, y, width, BAR - 2, colours[name]))
            parts.append(svg.text(LEFT + width + 5, y + BAR - 4, _figure(value), size=11))
            y += BAR
        y += GAP
    return parts, y - GAP / 2


def _figure(value: float) -> str:
    cut = " »" if value > LONGEST else ""
    return (f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}") + TIMES + cut


def _grid(scale: float, longest: float, top: float, bottom: float) -> list[str]:
    step = 1 if longest <= 6 else 2
    parts = []
    for tick in {1, *range(0, int(longest) + 1, step)}:
        x = LEFT + tick * scale
        base = tick == 1
        parts.append(svg.line(x, top, x, bottom, width=1.5 if base else 1, faint=not base))
        parts.append(svg.text(x, bottom + 16, f"{tick}{TIMES}" if tick else "0", size=11, anchor="middle", bold=base))
    return parts
