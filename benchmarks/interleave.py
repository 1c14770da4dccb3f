#!/usr/bin/env python3
"""Compare the speed and memory of two checkouts of pywsapp, with short runs of both in turn.

    interleave.py OLD NEW                   21 pairs of runs for each scenario, about five minutes
    interleave.py NEW NEW                   the same checkout twice: the noise of this machine
    interleave.py OLD NEW --pairs 5 --scenarios echo16,bcast500 --variant pure
    interleave.py OLD NEW --scenarios echo16,echo64k --variant trio --tls

OLD and NEW are the directories of the checkouts. Compile their extension modules first (`make compile`). Each checkout
runs its own benchmarks/peers/pywsapp_server.py, or uvicorn_server.py for the variants uvicorn-app (an App) and
uvicorn-asgi (an ASGI application), both with the protocol of pywsapp. Both servers run all the time, pinned to the same
processor, and one of them at a time gets a load.

The figure of a run is the processor time of the server for each message, handshake or delivery. The output is OLD /
NEW: above 1, the new checkout is faster. For `idle2000` the figure is the memory of a connection, and every run has a
new server. Processor time is counted in ticks of 10 ms, so loads that keep a server busy give the best figures.

Exit status: 1 if a run failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

# Started as a program, only this file's directory is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import machine, measure, scenarios
from benchmarks.contestants import PYWSAPP, Contestant
from benchmarks.environment import Environment, SetupError, wsload
from benchmarks.measure import Bench, Failed, Server, serving
from benchmarks.run import select
from benchmarks.scenarios import Scenario, cpu_per_message

VARIANTS = {
    "uvloop": ("--loop", "uvloop"),
    "async": ("--loop", "uvloop", "--handler", "async"),
    "asyncio": ("--loop", "asyncio"),
    "trio": ("--loop", "trio"),
    "pure": ("--loop", "uvloop"),
    "uvicorn-app": ("--ws", "pywsapp", "--application", "pywsapp"),
    "uvicorn-asgi": ("--ws", "pywsapp"),
}
DEFAULT = ("echo16", "echo16x16", "bcast500", "connect", "idle2000")
KNOWN = [name for name, scenario in scenarios.BY_NAME.items() if scenario.instance != scenarios.TLS]


def contestant(name: str, checkout: Path, variant: str) -> Contestant:
    """Return the server of a checkout.

    Raises:
        SetupError: its extension modules are missing or out of date.
    """
    variables = {"PYTHONPATH": str(checkout / "src")}
    if variant == "pure":
        variables["PYWSAPP_PURE"] = "1"
    else:
        check_extensions(checkout)
    program = "uvicorn_server.py" if variant.startswith("uvicorn") else "pywsapp_server.py"
    script = str(checkout / "benchmarks" / "peers" / program)
    return Contestant(name, script, VARIANTS[variant], PYWSAPP, variables)


def check_extensions(checkout: Path) -> None:
    extensions = list((checkout / "src").rglob("*.so"))
    if not extensions:
        raise SetupError(f"{checkout} has no extension modules: run `make compile` there, or use --variant pure")
    for extension in extensions:
        for source in extension.parent.glob(f"{extension.name.partition('.')[0]}.p*"):
            if source.stat().st_mtime > extension.stat().st_mtime:
                raise SetupError(f"{source} is newer than its extension module: run `make compile` there")


def ratios(bench: Bench, pair: list[Contestant], scenario: Scenario, pairs: int) -> list[float]:
    """Measure both contestants in turn, the other one first in each pair; return the ratio of each pair.

    Raises:
        Failed: a run failed.
    """
    found = []
    with ExitStack() as stack:
        is_fresh = scenario.instance == scenarios.FRESH
        servers = [] if is_fresh else [stack.enter_context(serving(bench, each, scenario.instance)) for each in pair]
        for number in range(pairs):
            figures = {}
            for place in (0, 1) if number % 2 else (1, 0):
                if is_fresh:
                    with serving(bench, pair[place], scenario.instance) as server:
                        figures[place] = figure(bench, server, scenario)
                else:
                    figures[place] = figure(bench, servers[place], scenario)
            found.append(figures[0] / figures[1])
    return found


def figure(bench: Bench, server: Server, scenario: Scenario) -> float:
    if scenario.instance == scenarios.FRESH:
        seconds = measure.FRESH_SECONDS
        run = measure.load(bench, server, scenario.arguments, seconds=seconds, warmup=bench.warmup)
        return float(run["rss_bytes_per_conn"])
    seconds = bench.seconds * scenario.longer
    return cpu_per_message(measure.load(bench, server, scenario.arguments, seconds=seconds, warmup=bench.warmup))


def over_tls(scenario: Scenario) -> Scenario:
    """Return a scenario over TLS.

    Raises:
        SetupError: it needs another state of the server.
    """
    if scenario.instance != scenarios.PLAIN:
        raise SetupError(f"{scenario.name} cannot be measured over TLS")
    return replace(scenario, options=f"{scenario.options} --tls", instance=scenarios.TLS)


def certificate(directory: str) -> tuple[Path, Path]:
    """Create a certificate and its key.

    Raises:
        SetupError: trustme is missing.
    """
    command = [sys.executable, "-m", "trustme", "-q", "-d", directory, "-i", "localhost", "127.0.0.1"]
    if subprocess.run(command, capture_output=True).returncode:
        raise SetupError("--tls needs the package trustme; `make lint` installs it in .venv")
    return Path(directory) / "server.pem", Path(directory) / "server.key"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=21, help="pairs of runs of each scenario (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="measured time of each run (default: %(default)s)")
    parser.add_argument("--scenarios", metavar="NAMES", help=f"names with commas (default: {','.join(DEFAULT)})")
    parser.add_argument("--tls", action="store_true", help="over TLS, for all scenarios but those of memory")
    parser.add_argument("--variant", choices=VARIANTS, default="uvloop", help="default: %(default)s")
    return parser.parse_args()


def compare(args: argparse.Namespace) -> int:
    """Measure all scenarios and print the ratios; return the exit status.

    Raises:
        SetupError: the comparison is not possible.
    """
    if (os.cpu_count() or 1) < 2:
        raise SetupError("the server and the load each need a processor")
    names = select(args.scenarios, KNOWN, DEFAULT, "scenario")
    measured = [over_tls(scenarios.BY_NAME[name]) if args.tls else scenarios.BY_NAME[name] for name in names]
    pair = [contestant(name, getattr(args, name).resolve(), args.variant) for name in ("old", "new")]
    machine.raise_file_limit()
    status = 0
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as logs:
        tls = certificate(logs) if args.tls else None
        environment = Environment(Path(), Path(sys.executable), wsload(sys.executable), tls=tls)
        bench = Bench(environment, Path(logs), seconds=args.seconds, warmup=0.1)
        for scenario in measured:
            name = scenario.name
            try:
                found = ratios(bench, pair, scenario, args.pairs)
            except Failed as exc:
                print(f"{name:16} failed: {exc}", flush=True)
                status = 1
            else:
                spread = f"{min(found):.2f} to {max(found):.2f}, {len(found)} pairs"
                print(f"{name:16} {statistics.median(found):.3f}   ({spread})", flush=True)
    return status


def main() -> int:
    args = arguments()
    measure.exit_on_sigterm()
    try:
        return compare(args)
    except SetupError as exc:
        print(f"interleave.py: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
