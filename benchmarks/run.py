#!/usr/bin/env python3
"""Measure pywsapp beside other WebSocket servers.

    run.py --quick      a few servers and the core scenarios, about five minutes
    run.py              the most common servers, about three quarters of an hour
    run.py --long       everything, about four hours
    run.py --contestants pywsapp+uvloop,picows+uvloop --scenarios echo16,echo64k --rounds 1

The program installs the servers at the first use; see environment.py. One server runs at a time, pinned to one
processor; the load runs on another. Every round goes through all servers, in another order, so that changes of the
machine affect all of them.

Exit status: 1 if a run failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import chart, contestants, machine, report, scenarios
from benchmarks.contestants import Contestant
from benchmarks.environment import HERE, ROOT, Environment, SetupError, ensure
from benchmarks.measure import Bench, exit_on_sigterm, measure
from benchmarks.results import Results
from benchmarks.scenarios import Run, Scenario

NO_EXTENSIONS = "none"
SEED = 20240229  # any number, but the same in every session
PACKAGES = (
    *("pywsapp", "uvloop", "anyio", "wsproto", "trio", "websockets", "picows", "aiohttp", "uvicorn", "httptools"),
    *("Hypercorn", "granian", "trio-websocket", "tornado", "autobahn", "Twisted", "socketify"),
)


@dataclass(frozen=True)
class Preset:
    """A selection of contestants and scenarios, with their rounds and seconds."""

    contestants: Sequence[str]
    scenarios: Sequence[str]
    rounds: int
    seconds: float


PRESETS = {
    "quick": Preset(contestants.QUICK, scenarios.QUICK, rounds=2, seconds=1),
    "medium": Preset(contestants.MEDIUM, scenarios.MEDIUM, rounds=3, seconds=2),
    "long": Preset(contestants.LONG, scenarios.LONG, rounds=5, seconds=2),
}


def select(names: str | None, known: Sequence[str], default: Sequence[str], kind: str) -> list[str]:
    """Parse a list of names of the command line; return it in the order of the tables.

    Raises:
        SetupError: a name is unknown.
    """
    if names is None:
        return [name for name in known if name in default]
    selected = list(known) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    for name in selected:
        if name not in known:
            raise SetupError(f"there is no {kind} {name!r}; run.py --list shows all names")
    return [name for name in known if name in selected]


def print_names() -> None:
    print("contestants (q quick, m medium)")
    for name in contestants.BY_NAME:
        print(f"  {'q' if name in contestants.QUICK else ' '}{'m' if name in contestants.MEDIUM else ' '} {name}")
    print("scenarios")
    for name, scenario in scenarios.BY_NAME.items():
        marks = f"{'q' if name in scenarios.QUICK else ' '}{'m' if name in scenarios.MEDIUM else ' '}"
        print(f"  {marks} {name:<20} {scenario.section}: {scenario.options}")


def server_versions(environment: Environment) -> dict[str, Any]:
    """Return the versions in the environments of the servers."""
    probe = (
        "import importlib.metadata, json, pathlib, platform, sys; found = importlib.metadata.distributions();"
        "extensions = pathlib.Path(sys.prefix).glob('lib/python*/site-packages/pywsapp/**/*.so');"
        "print(json.dumps([{d.metadata['Name']: d.version for d in found}, sorted(t.name.partition('.')[0] for t in"
        " extensions), platform.python_version()]))"
    )
    versions: dict[str, str] = {}
    extensions: list[str] = []
    python = ""
    for interpreter in (environment.peers, environment.pywsapp):
        done = subprocess.run([interpreter, "-c", probe], cwd="/", capture_output=True, text=True, check=True)
        installed, extensions, python = json.loads(done.stdout)
        versions |= {name: installed[name] for name in PACKAGES if name in installed}
    return {
        "python": python,
        "compiled modules of pywsapp": ", ".join(extensions) or NO_EXTENSIONS,
        "versions": {name: versions[name] for name in PACKAGES if name in versions},
    }


def session_facts(environment: Environment) -> dict[str, Any]:
    """Return the versions, the machine and the date."""
    now = datetime.datetime.now(datetime.timezone.utc)
    facts = {"date": now.strftime("%Y-%m-%d %H:%M UTC"), "commit": machine.commit(ROOT), **machine.facts()}
    facts |= server_versions(environment)
    if facts["compiled modules of pywsapp"] == NO_EXTENSIONS:
        environment.notes.append(
            "pywsapp has no extension modules here: contestants with and without `pure` are the same"
        )
    return facts | {"notes": environment.notes}


def available_contestants(names: Sequence[str], environment: Environment) -> list[Contestant]:
    """Return the contestants of these names that this machine can run."""
    found = [contestants.BY_NAME[name] for name in names]
    return [each for each in found if each.kind != contestants.NODE or environment.node_modules is not None]


def available_scenarios(names: Sequence[str], environment: Environment) -> list[Scenario]:
    """Return the scenarios of these names that this machine can run."""
    found = [scenarios.BY_NAME[name] for name in names]
    return [each for each in found if each.instance != scenarios.TLS or environment.tls is not None]


def estimated_minutes(servers: Sequence[Contestant], loads: Sequence[Scenario], bench: Bench, rounds: int) -> float:
    """Estimate the duration of a session in minutes."""
    seconds = 0.0
    for contestant in servers:
        supported = [each for each in loads if contestant.supports(each.name, each.instance)]
        fresh = [each for each in supported if each.instance == scenarios.FRESH]
        starts = len({each.instance for each in supported} - {scenarios.FRESH}) + len(fresh)
        seconds += 2 * starts + sum(bench.seconds * each.longer + bench.warmup + 0.6 for each in supported)
    return seconds * rounds / 60


def run_rounds(
    bench: Bench, servers: Sequence[Contestant], loads: Sequence[Scenario], results: Results, out: Path
) -> None:
    """Measure everything once in each round, and write the results after each round."""
    for number in range(1, results.settings["rounds"] + 1):
        order = list(servers)
        random.Random(SEED + number).shuffle(order)

        def record(contestant: Contestant, scenario: Scenario, run: Run, number: int = number) -> None:
            results.add(contestant.name, scenario.name, {"round": number, **run})
            value = scenario.metrics[0].of(run)
            shown = run.get("failure") or ("no" if value is None else report.number(value))
            print(f"round {number}: {contestant.name}, {scenario.name}: {shown}", file=sys.stderr, flush=True)

        for contestant in order:
            measure(bench, contestant, loads, record)
        results.save(out)


def add_options_of_the_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options for the time before a measurement, the Python, and the processors."""
    parser.add_argument(
        "--warmup", type=float, default=0.5, help="time before the measured time (default: %(default)s)"
    )
    parser.add_argument("--python", default=sys.executable, help="the Python of the servers (default: this one)")
    parser.add_argument("--server-cpu", type=int, default=0, help="processor of the servers (default: %(default)s)")
    parser.add_argument("--load-cpu", type=int, default=1, help="processor of the load (default: %(default)s)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument("--quick", action="store_const", const="quick", dest="preset", default="medium")
    preset.add_argument("--long", action="store_const", const="long", dest="preset")
    parser.add_argument("--contestants", metavar="NAMES", help="names with commas between them, or all")
    parser.add_argument("--scenarios", metavar="NAMES", help="names with commas between them, or all")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="measured time of each run")
    add_options_of_the_machine(parser)
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "latest.json", help="file for the results (default: %(default)s)"
    )
    parser.add_argument("--chart", type=Path, help="SVG file for the chart (default: beside --out)")
    parser.add_argument("--list", action="store_true", help="print the names of contestants and scenarios, and exit")
    return parser.parse_args()


def session(args: argparse.Namespace) -> Results:
    """Set up the environment, measure, and write the results.

    Raises:
        SetupError: this machine lacks something that the measurement needs.
    """
    preset = PRESETS[args.preset]
    names = select(args.contestants, tuple(contestants.BY_NAME), preset.contestants, "contestant")
    scenario_names = select(args.scenarios, tuple(scenarios.BY_NAME), preset.scenarios, "scenario")
    if max(args.server_cpu, args.load_cpu) >= (os.cpu_count() or 1):
        raise SetupError("the server and the load each need a processor: see --server-cpu and --load-cpu")
    environment = ensure(args.python)
    machine.raise_file_limit()
    servers = available_contestants(names, environment)
    loads = available_scenarios(scenario_names, environment)
    rounds, seconds = args.rounds or preset.rounds, args.seconds or preset.seconds
    settings = {"preset": args.preset, "rounds": rounds, "seconds": seconds, "warmup": args.warmup, "seed": SEED}
    facts = session_facts(environment)
    results = Results(facts, settings, [each.name for each in servers], [each.name for each in loads])
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as logs:
        bench = Bench(environment, Path(logs), args.server_cpu, args.load_cpu, seconds, args.warmup)
        estimate = estimated_minutes(servers, loads, bench, rounds)
        for note in environment.notes:
            print(note, file=sys.stderr)
        size = f"{len(servers)} servers, {len(loads)} scenarios, {rounds} rounds"
        print(f"{size}: about {estimate:.0f} minutes", file=sys.stderr, flush=True)
        try:
            run_rounds(bench, servers, loads, results, args.out)
        except KeyboardInterrupt:
            print("interrupted; the results so far:", file=sys.stderr)
    results.save(args.out)
    return results


def main() -> int:
    args = arguments()
    if args.list:
        print_names()
        return 0
    exit_on_sigterm()
    try:
        results = session(args)
    except SetupError as exc:
        print(f"run.py: {exc}", file=sys.stderr)
        return 2
    text = report.markdown(results)
    args.out.with_suffix(".md").write_text(text)
    drawing = args.chart or args.out.with_suffix(".svg")
    drawing.write_text(chart.draw(results))
    print(text)
    print(f"written: {args.out}, {args.out.with_suffix('.md').name}, {drawing}", file=sys.stderr)
    runs = [run for of_contestant in results.runs.values() for some in of_contestant.values() for run in some]
    return 1 if any("failure" in run for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
