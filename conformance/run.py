#!/usr/bin/env python3
"""Run the Autobahn suite against pywsapp in all roles on every backend, and compare with expected.json.

    run.py                                      all 517 cases, ten times
    run.py --quick                              260 cases instead of 517
    run.py --cases '1.*,7.1.1'                  the cases of these patterns
    run.py --role server --backend trio         one of the ten

The roles are the server, the client, and two servers on uvicorn with the protocol of pywsapp: `uvicorn-app` is an App
that takes over the connections, `uvicorn-asgi` an ASGI application that gets messages. These two have no trio.

Exit status: 1 if an outcome is unexpected, 2 if a run was not possible.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from autobahn import QUICK, Run, exit_on_sigterm
from environment import CannotRun
from report import Report

HERE = Path(__file__).parent
SCRIPTS = {
    "server": "server.py",
    "client": "client.py",
    "uvicorn-app": "site_server.py",
    "uvicorn-asgi": "site_server.py",
}
BACKENDS = ("asyncio", "uvloop", "trio")


def run(role: str, backend: str, *, cases: list[str], outdir: Path) -> Report:
    """Run one of the combinations.

    Raises:
        CannotRun: the suite could not run.
    """
    agent = f"{role}-{backend}"
    run = Run(agent=agent, cases=cases, outdir=outdir / agent)
    _, _, application = role.partition("-")
    program = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / SCRIPTS[role]))} --backend {backend}"
    if role == "client":
        return run.against_client(command=f"{program} {{url}} {{agent}}")
    choice = f" --application {application}" if application else ""
    return run.against_server(command=f"{program}{choice} --port {{port}}")


def table(reports: list[Report]) -> None:
    print(f"\n{'peer':<16} {'cases':>5} {'OK':>5} {'informational':>13} {'unexpected':>10} {'seconds':>8}")
    for report in reports:
        words = [outcome.behaviour for outcome in report.outcomes.values()]
        print(
            f"{report.agent:<16} {len(words):5} {words.count('OK'):5} {words.count('INFORMATIONAL'):13} "
            f"{len(report.unexpected()):10} {report.wall:8.1f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument("--quick", action="store_true", help="skip most of the slow sections 9, 12 and 13")
    selection.add_argument("--cases", default="*", help="patterns of case IDs, with commas (default: all 517)")
    parser.add_argument("--role", choices=SCRIPTS, action="append", help="default: all")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="default: all three")
    parser.add_argument("--outdir", type=Path, default=HERE / "reports", help="default: %(default)s")
    args = parser.parse_args()
    exit_on_sigterm()
    cases = QUICK if args.quick else args.cases.split(",")
    reports = []
    for role in args.role or SCRIPTS:
        for backend in args.backend or BACKENDS:
            if backend == "trio" and SCRIPTS[role] == "site_server.py":
                continue
            print(f"running     {role} on {backend}", flush=True)
            try:
                report = run(role, backend, cases=cases, outdir=args.outdir)
            except CannotRun as exc:
                print(f"run.py: {role} on {backend}: {exc}", file=sys.stderr)
                return 2
            report.write()
            print(flush=True)
            reports.append(report)
    table(reports)
    return 1 if any(report.unexpected() for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
