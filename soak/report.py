"""What a soak run prints: a line while it runs, and a table at the end."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from soak.measuring import GROWTH, Process
from soak.rounds import KINDS
from soak.world import Problems

if TYPE_CHECKING:
    from soak.run import Soak


def progress(
    args: argparse.Namespace,
    seconds: float,
    phase: str,
    counts: Counter[str],
    problems: Problems,
    found: Sequence[Process],
) -> None:
    """Print one line about the run so far; a terminal has it in one place."""
    visits = sum(counts[kind.name] for kind in KINDS)
    connections = sum(each.numbers.get("connections", 0) for each in found)
    memory = sum(each.numbers["rss"] for each in found) / 2**20
    line = (
        f"{seconds / 60:5.1f} of {args.minutes:g} min, {phase}: {connections} connections, {visits:,} visits, "
        f"{len(found)} processes with {memory:.0f} MiB, {len(problems.counts)} problems"
    )
    print(f"\r{line:<110}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def table(soak: Soak) -> str:
    """Return the results as Markdown."""
    args, points = soak.args, soak.levels.points
    lines = [
        f"2 x {args.workers} workers on {args.loop}{', development mode' if args.dev else ''}, broker: {args.broker}, "
        f"{soak.seconds / 60:.0f} minutes, {len(points) - 1} rounds, seed {args.seed}",
        "",
        "| what | |",
        "| --- | --: |",
    ]
    rows = {"visits": f"{sum(soak.counts[kind.name] for kind in KINDS):,}"}
    for name, count in sorted(soak.counts.items(), key=lambda item: item[0].startswith("rooms: ")):
        rows[name] = f"{count:,}"
    rows |= {name: f"{count:,}" for name, count in sorted(soak.faults.items())}
    rows["longest time until all numbers were back, s"] = f"{max((p.seconds for p in points), default=0.0):.1f}"
    lines += [f"| {name} | {text} |" for name, text in rows.items()]
    lines += ["", *_memory(soak), ""]
    lines += [f"- {note}" for note in soak.notes]
    lines += [f"- PROBLEM: {line}" for line in soak.problems.lines()]
    return "\n".join([*lines, "PROBLEMS FOUND" if soak.problems.counts else "nothing leaked, nothing was lost"])


def _memory(soak: Soak) -> list[str]:
    """Return the table of the memory of the processes that live for the whole run."""
    lines = [
        "| process | number | first idle point | last | growth over the run | bound |",
        "| --- | --- " + "| --: " * 4 + "|",
    ]
    for (server, role, pid, key), (values, growth) in sorted(soak.levels.growth().items()):
        unit = 2**20 if key == "rss" else 1
        name = "RSS, MiB" if key == "rss" else "memory blocks"
        cells = [
            f"{value / unit:,.{1 if key == 'rss' else 0}f}" for value in (values[0], values[-1], growth, GROWTH[key])
        ]
        lines.append(f"| {role} of server {server} (process {pid}) | {name} | {' | '.join(cells)} |")
    return lines
