"""Compare two checkouts of pywsapp, one run after the other, again and again.

    python benchmarks/interleave.py OLD NEW                 21 pairs of each scenario
    python benchmarks/interleave.py NEW NEW                 what noise alone does
    python benchmarks/interleave.py OLD NEW --pairs 5 --scenarios echo16,bcast500 --variant pure

OLD and NEW are folders of checkouts whose extension modules are built (`make compile`). Both servers run all the time,
pinned to one processor, and get the same short load in turn. The figure is the processor time of the server for each
message, handshake or delivery, as OLD / NEW: above 1 the new one is faster. For `idle2000` it is memory instead, and
the servers start anew for each run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import environment, measure, scenarios
from benchmarks.contestants import PYWSAPP, Contestant
from benchmarks.measure import Bench, Failed
from benchmarks.scenarios import Run, Scenario, cpu_per_message

VARIANTS = {
    "uvloop": ("--loop", "uvloop"),
    "async": ("--loop", "uvloop", "--handler", "async"),
    "asyncio": ("--loop", "asyncio"),
    "trio": ("--loop", "trio"),
    "pure": ("--loop", "uvloop"),
}
DEFAULT = ("echo16", "echo16x16", "bcast500", "connect", "idle2000")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=21, help="runs of each (default: 21)")
    parser.add_argument("--seconds", type=float, default=0.5, help="the measured time of a run (default: 0.5)")
    parser.add_argument("--scenarios", default=",".join(DEFAULT), help="(default: %(default)s)")
    parser.add_argument("--variant", choices=VARIANTS, default="uvloop")
    options = parser.parse_args()
    measure.exit_on_sigterm()
    wanted = [scenarios.BY_NAME[name] for name in options.scenarios.split(",")]
    with tempfile.TemporaryDirectory() as logs:
        wsload = environment.wsload(sys.executable)
        bench = Bench(environment.Environment(Path(), Path(sys.executable), wsload), Path(logs))
        bench.seconds, bench.warmup = options.seconds, 0.1
        both = [
            _contestant(name, folder, options.variant) for name, folder in [("old", options.old), ("new", options.new)]
        ]
        for scenario in wanted:
            ratios = _ratios(bench, both, scenario, options.pairs)
            middle = statistics.median(ratios)
            print(
                f"{scenario.name:14} {middle:.3f}   ({min(ratios):.2f} - {max(ratios):.2f}, {len(ratios)} pairs)",
                flush=True,
            )
    return 0


def _contestant(name: str, checkout: Path, variant: str) -> Contestant:
    variables = {"PYTHONPATH": str(checkout.resolve() / "src"), **({"PYWSAPP_PURE": "1"} if variant == "pure" else {})}
    return Contestant(name, "pywsapp_server.py", VARIANTS[variant], PYWSAPP, variables)


def _ratios(bench: Bench, both: list[Contestant], scenario: Scenario, pairs: int) -> list[float]:
    is_fresh = scenario.instance == scenarios.FRESH
    figure: Callable[[Run], float] = (lambda run: float(run["rss_bytes_per_conn"])) if is_fresh else cpu_per_message
    ratios = []
    with ExitStack() as stack:
        servers = (
            [] if is_fresh else [stack.enter_context(measure.serving(bench, one, scenario.instance)) for one in both]
        )
        for number in range(pairs):
            figures = []
            for place in (0, 1) if number % 2 else (1, 0):
                with ExitStack() as own:
                    server = (
                        own.enter_context(measure.serving(bench, both[place], scenario.instance))
                        if is_fresh
                        else servers[place]
                    )
                    seconds = measure.FRESH_SECONDS if is_fresh else bench.seconds
                    try:
                        run = measure.load(bench, server, scenario.arguments, seconds=seconds, warmup=bench.warmup)
                    except Failed as exc:
                        print(f"{scenario.name}: {exc}", file=sys.stderr)
                        continue
                    figures.append((place, figure(run)))
            found = dict(figures)
            if len(found) == 2:
                ratios.append(found[0] / found[1])
    return ratios


if __name__ == "__main__":
    sys.exit(main())
