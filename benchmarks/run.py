#!/usr/bin/env python3
"""Measure pywsapp beside other WebSocket servers.

    run.py --quick      a few servers and the core scenarios, about five minutes
    run.py              the servers most people choose from, about three quarters of an hour
    run.py --long       everything, about four hours
    run.py --contestants pywsapp+uvloop,picows+uvloop --scenarios echo16,echo64k --rounds 1

What it needs it makes itself, see environment.py. One server runs at a time, pinned to one processor, with the load on
another. Every round goes through all servers, in another order, so that a machine that drifts drifts for all of them.

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
from benchmarks.environment import HERE, ROOT, Environment, Unable, ensure
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
class Form:
    """A choice of how much is measured."""

    contestants: Sequence[str]
    scenarios: Sequence[str]
    rounds: int
    seconds: float


FORMS = {
    "quick": Form(contestants.QUICK, scenarios.QUICK, rounds=2, seconds=1),
    "medium": Form(contestants.MEDIUM, scenarios.MEDIUM, rounds=3, seconds=2),
    "long": Form(contestants.LONG, scenarios.LONG, rounds=5, seconds=2),
}


def chosen(words: str | None, known: Sequence[str], default: Sequence[str], what: str) -> list[str]:
    """Read a list of names off the command line, and give it in the order of the tables.

    Raises:
        Unable: one of them is unknown.
    """
    if words is None:
        return [name for name in known if name in default]
    names = list(known) if words == "all" else [name.strip() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise Unable(f"there is no {what} {name!r}; --list shows them")
    return [name for name in known if name in names]


def listing() -> None:
    print("contestants (q quick, m medium)")
    for name in contestants.BY_NAME:
        print(f"  {'q' if name in contestants.QUICK else ' '}{'m' if name in contestants.MEDIUM else ' '} {name}")
    print("scenarios")
    for name, scenario in scenarios.BY_NAME.items():
        marks = f"{'q' if name in scenarios.QUICK else ' '}{'m' if name in scenarios.MEDIUM else ' '}"
        print(f"  {marks} {name:<20} {scenario.section}: {scenario.options}")


def server_versions(environment: Environment) -> dict[str, Any]:
    """Ask the servers' environments what is installed in them."""
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
    """Describe what was measured, where and when."""
    now = datetime.datetime.now(datetime.timezone.utc)
    facts = {"date": now.strftime("%Y-%m-%d %H:%M UTC"), "commit": machine.commit(ROOT), **machine.facts()}
    facts |= server_versions(environment)
    if facts["compiled modules of pywsapp"] == NO_EXTENSIONS:
        environment.notes.append("pywsapp has no compiled modules here: with and without `pure` it is the same")
    return facts | {"notes": environment.notes}


def available(names: Sequence[str], environment: Environment) -> list[Contestant]:
    """Leave out who cannot be run here."""
    found = [contestants.BY_NAME[name] for name in names]
    return [each for each in found if each.kind != contestants.NODE or environment.node_modules is not None]


def possible(names: Sequence[str], environment: Environment) -> list[Scenario]:
    """Leave out what cannot be measured here."""
    found = [scenarios.BY_NAME[name] for name in names]
    return [each for each in found if each.instance != scenarios.TLS or environment.tls is not None]


def minutes(who: Sequence[Contestant], what: Sequence[Scenario], bench: Bench, rounds: int) -> float:
    """Estimate how long it will take."""
    seconds = 0.0
    for contestant in who:
        taken = [each for each in what if contestant.takes(each.name, each.instance)]
        fresh = [each for each in taken if each.instance == scenarios.FRESH]
        starts = len({each.instance for each in taken} - {scenarios.FRESH}) + len(fresh)
        loads = sum(bench.seconds * each.longer + bench.warmup + 0.6 for each in taken)
        seconds += 2 * starts + loads
    return seconds * rounds / 60


def run_rounds(bench: Bench, who: Sequence[Contestant], what: Sequence[Scenario], results: Results, out: Path) -> None:
    """Measure everything once a round, and write what there is after each."""
    for number in range(1, results.settings["rounds"] + 1):
        order = list(who)
        random.Random(SEED + number).shuffle(order)

        def record(contestant: Contestant, scenario: Scenario, run: Run, number: int = number) -> None:
            results.add(contestant.name, scenario.name, {"round": number, **run})
            value = scenario.metrics[0].of(run)
            shown = run.get("failure") or ("no" if value is None else report.number(value))
            print(f"round {number}: {contestant.name}, {scenario.name}: {shown}", file=sys.stderr, flush=True)

        for contestant in order:
            measure(bench, contestant, what, record)
        results.save(out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_const", const="quick", dest="form", default="medium")
    form.add_argument("--long", action="store_const", const="long", dest="form")
    parser.add_argument("--contestants", metavar="NAMES", help="comma-separated, or all")
    parser.add_argument("--scenarios", metavar="NAMES", help="comma-separated, or all")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="the measured time of each run")
    parser.add_argument("--warmup", type=float, default=0.5, help="the time before it (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="what the servers run on (default: this one)")
    parser.add_argument("--server-cpu", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--load-cpu", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "latest.json", help="default: %(default)s")
    parser.add_argument("--chart", type=Path, help="draw the chart into this SVG file (default: beside --out)")
    parser.add_argument("--list", action="store_true", help="list contestants and scenarios, and stop")
    return parser.parse_args()


def session(args: argparse.Namespace) -> Results:
    """Set up, measure and write everything down.

    Raises:
        Unable: it cannot be measured here.
    """
    form = FORMS[args.form]
    names = chosen(args.contestants, tuple(contestants.BY_NAME), form.contestants, "contestant")
    loads = chosen(args.scenarios, tuple(scenarios.BY_NAME), form.scenarios, "scenario")
    if max(args.server_cpu, args.load_cpu) >= (os.cpu_count() or 1):
        raise Unable("the server and the load need a processor each: see --server-cpu and --load-cpu")
    environment = ensure(args.python)
    machine.raise_file_limit()
    who, what = available(names, environment), possible(loads, environment)
    rounds, seconds = args.rounds or form.rounds, args.seconds or form.seconds
    settings = {"form": args.form, "rounds": rounds, "seconds": seconds, "warmup": args.warmup, "seed": SEED}
    facts = session_facts(environment)
    results = Results(facts, settings, [each.name for each in who], [each.name for each in what])
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as logs:
        bench = Bench(environment, Path(logs), args.server_cpu, args.load_cpu, seconds, args.warmup)
        estimate = minutes(who, what, bench, rounds)
        for note in environment.notes:
            print(note, file=sys.stderr)
        size = f"{len(who)} servers, {len(what)} scenarios, {rounds} rounds"
        print(f"{size}: about {estimate:.0f} minutes", file=sys.stderr, flush=True)
        try:
            run_rounds(bench, who, what, results, args.out)
        except KeyboardInterrupt:
            print("interrupted; what there is so far:", file=sys.stderr)
    results.save(args.out)
    return results


def main() -> int:
    args = arguments()
    if args.list:
        listing()
        return 0
    exit_on_sigterm()
    try:
        results = session(args)
    except Unable as exc:
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
