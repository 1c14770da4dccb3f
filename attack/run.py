#!/usr/bin/env python3
"""Attack a server while 100 other clients use it, and check that they are served.

    run.py                                  every attack, 10 seconds each, on asyncio
    run.py fragments bombs --loop uvloop    two attacks
    run.py --seconds 1 --outcomes           short runs that check outcomes and memory, but no latencies
    run.py --seconds 5 --server pywsapp --server websockets --server uvicorn --markdown docs/explanation/attacks.md
                                            the tables of the documentation

For each attack a new server process runs on a processor of its own if there are two, and the attackers on another. The
clients exchange numbered messages before, during and after the attack, and others connect anew all the time.

Exit status: 1 if a client was not served, if 1 % of the echoes took longer than 100 ms, if the server took more than
its memory, did something to the attackers that it should not, or was not back at its level of files and tasks 15
seconds after the attack. What another server does is a result, not a fault.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import environment

from attack.measuring import perform
from attack.processes import SERVERS, ServerKind
from attack.report import HEADING, markdown, row
from attack.results import Result, faults
from attack.table import ATTACKS


def servers(args: argparse.Namespace) -> list[ServerKind]:
    """Return the servers to attack; those of other libraries run in the environment of the benchmarks."""
    names = args.server or [SERVERS[0]]
    peers = environment.peers(sys.executable) if set(names) - {SERVERS[0]} else None
    ours = ServerKind(loop=args.loop)
    return [ours if name == SERVERS[0] else ServerKind(name, str(peers)) for name in dict.fromkeys(names)]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"{', '.join(ATTACKS)}; all by default")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio", help="of pywsapp")
    parser.add_argument("--server", choices=SERVERS, action="append", help="pywsapp by default; can be repeated")
    parser.add_argument(
        "--seconds",
        type=float,
        default=10,
        help="of each attack (default: 10), or longer if it waits for a timeout",
    )
    parser.add_argument("--outcomes", action="store_true", help="check no latencies")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    args = parser.parse_args()
    unknown = set(args.attacks) - set(ATTACKS)
    if unknown:
        parser.error(f"there is no attack {min(unknown)!r}")
    return args


def main() -> int:
    """Run the attacks, and print a table for each server."""
    args = arguments()
    failed = False
    results: dict[str, list[Result]] = {}
    for kind in servers(args):
        print(f"{kind.name}\n{HEADING}")
        for attack in [ATTACKS[name] for name in args.attacks or ATTACKS]:
            if attack.ours_only and not kind.is_ours:
                continue
            try:
                result = perform([attack], kind, max(args.seconds, attack.least_seconds))
            except (RuntimeError, TimeoutError) as exc:  # the server or the attackers did not start
                print(f"{attack.name} failed: {exc!r}", flush=True)
                failed = failed or kind.is_ours
                continue
            results.setdefault(kind.name, []).append(result)
            print(row(result), flush=True)
            for fault in faults(result, latencies=not args.outcomes, outcomes=kind.is_ours):
                print(f"    {fault}", flush=True)
                failed = failed or kind.is_ours
            if args.markdown is not None:  # after each attack: a run of all servers takes half an hour
                markdown(args.markdown, results, args.seconds)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
