#!/usr/bin/env python3
"""Measure how the cost of one server process grows with connections, messages and subscribers.

    scale.py                                        all parts, up to 10,000 connections
    scale.py --parts idle,stalls --connections 2000
    scale.py --contestants pywsapp+uvloop,aiohttp+uvloop --chart scaling.svg

Parts: idle (memory and processor time of idle connections), busy (a message by the number of connections), size (a
message by its size), fanout (one delivery of a broadcast by the number of subscribers), stalls (the longest time of an
echo while the server pings all connections, sends them a broadcast, or closes them).

Exit status: 1 if a point failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import contestants, growth, growth_report, machine
from benchmarks.contestants import Contestant
from benchmarks.environment import HERE, SetupError, ensure
from benchmarks.measure import Bench, exit_on_sigterm
from benchmarks.run import add_options_of_the_machine, available_contestants, select, session_facts

DEFAULT = ("pywsapp+uvloop", "websockets+uvloop")
SPARE_FILES = 200


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--contestants", metavar="NAMES", help=f"names with commas between them, or all (default: {','.join(DEFAULT)})"
    )
    parser.add_argument("--parts", metavar="NAMES", help=f"some of {','.join(growth.PARTS)} (default: all)")
    parser.add_argument(
        "--connections", type=int, default=10_000, help="the largest number at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=20, help="measured time of idle connections (default: a ping interval)"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2, help="measured time of each load (default: %(default)s)")
    add_options_of_the_machine(parser)
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "scale.json", help="file for the results (default: %(default)s)"
    )
    parser.add_argument("--chart", type=Path, help="SVG file for the chart (default: beside --out)")
    parser.add_argument("--from", type=Path, dest="source", help="do not measure; write the report of this JSON file")
    return parser.parse_args()


def measure(
    bench: Bench, servers: Sequence[Contestant], parts: Sequence[str], limits: growth.Limits, rounds: int
) -> list[growth.Point]:
    """Measure all parts of all contestants, part by part, so that compared figures are close in time."""
    points = []
    for number in range(1, rounds + 1):
        for part in parts:
            for contestant in servers:
                for point in growth.measure(bench, contestant, part, limits):
                    shown = point.failure or "  ".join(f"{key} {value:.4g}" for key, value in point.values.items())
                    print(
                        f"round {number}: {part}, {contestant.name}, {point.x:,}: {shown}", file=sys.stderr, flush=True
                    )
                    points.append(point)
    return points


def session(args: argparse.Namespace) -> tuple[dict[str, Any], list[growth.Point]]:
    """Set up the environment and measure.

    Raises:
        SetupError: this machine lacks something that the measurement needs.
    """
    names = select(args.contestants, tuple(contestants.BY_NAME), DEFAULT, "contestant")
    parts = select(args.parts, tuple(growth.PARTS), tuple(growth.PARTS), "part")
    environment = ensure(args.python)
    files = machine.raise_file_limit()
    if files < args.connections + SPARE_FILES:
        raise SetupError(f"the limit of open files is {files} (ulimit -Hn): use fewer --connections")
    limits = growth.Limits(args.connections, args.idle_seconds)
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as logs:
        bench = Bench(environment, Path(logs), args.server_cpu, args.load_cpu, args.seconds, args.warmup)
        points = measure(bench, available_contestants(names, environment), parts, limits, args.rounds)
    return session_facts(environment), points


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    try:
        if args.source is not None:
            written = json.loads(args.source.read_text())
            facts, points = written["facts"], [growth.Point(**point) for point in written["points"]]
        else:
            facts, points = session(args)
    except SetupError as exc:
        print(f"scale.py: {exc}", file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"facts": facts, "points": [asdict(point) for point in points]}, indent=1) + "\n")
    text = growth_report.markdown(points, facts)
    args.out.with_suffix(".md").write_text(text)
    (args.chart or args.out.with_suffix(".svg")).write_text(growth_report.draw(points))
    print(text)
    return 1 if any(point.failure for point in points) else 0


if __name__ == "__main__":
    sys.exit(main())
