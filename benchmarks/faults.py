#!/usr/bin/env python3
"""Hurt servers for a while, and count what was sent, delivered, missing and doubled.

    faults.py                                           one server with 4 workers and the local bus
    faults.py --broker redis --servers 2 --workers 2    two servers with a Redis between them that loses nothing
    faults.py --broker redis-volatile --servers 2 --workers 2       the same without persistence: losses are told
    faults.py --history 3                               a history that reaches nowhere: losses are told
    faults.py --broker rabbitmq --servers 2 --workers 2             no history at all
    faults.py --presence --kill 12                      who is there, after workers were killed

Publishers say numbered messages, each again until it is accepted; listeners come back from where they were. Meanwhile,
at random moments: workers are killed (kill -9) and stopped for a moment, servers are told to replace their workers
(SIGHUP), the broker is killed and started again, or frozen, and clients break their connections. Then all that is left
in peace, and when nothing comes any more it is counted, see `ledger`. Linux only; needs what the tests need, and
redis-server or rabbitmq-server.

Exit status: 1 if something is missing, doubled or out of order, or not said to be lost; 2 if what was asked for is not
there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.services import Service, rabbitmq_server, redis_server

from benchmarks.fault_app import HISTORY_SIZE
from benchmarks.fault_run import Run, Server
from benchmarks.ledger import Counts
from benchmarks.measure import exit_on_sigterm
from pywsapp.topics.presence.view import LEASE_SECONDS

#: Seconds in which everybody has to know who is there: the lease, and a little.
CONVERGE_SECONDS = LEASE_SECONDS + 3.0
BROKERS = ("none", "redis", "redis-volatile", "rabbitmq")


# -- setting up ------------------------------------------------------------------------------------------------------


@contextmanager
def broker_of(name: str) -> Iterator[tuple[Service | None, str | None]]:
    """Run a broker; give it with its URL."""
    if name == "none":
        yield None, None
    elif name == "rabbitmq":
        with rabbitmq_server() as rabbit:
            yield rabbit, rabbit.url
    elif name == "redis":
        with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
            yield redis, f"{redis.url}?durable=1"
    else:
        with redis_server() as redis:
            yield redis, redis.url


def perform(args: argparse.Namespace) -> dict[str, Any]:
    """Set everything up, hurt it, and give what came of it."""
    with ExitStack() as stack:
        logs = Path(args.logs or stack.enter_context(tempfile.TemporaryDirectory(prefix="pywsapp-faults-")))
        broker, url = stack.enter_context(broker_of(args.broker))
        servers: list[Server] = []
        for number in range(args.servers):
            servers.append(Server(args, url, logs / f"server-{number}.log"))
            stack.callback(servers[-1].stop)
        run = Run(args, servers, broker)
        found: dict[str, Any] = {"seconds": [], "examples": []}
        if args.presence:
            found["seconds"] = anyio.run(run.presence)
        else:
            anyio.run(run.messages)
        for server in servers:
            server.stop()
        text = "".join(server.log.read_text(errors="replace") for server in servers)
    counts = [ledger.counts() for ledger in run.ledgers.values()]
    found["counts"] = {key: sum(getattr(one, key) for one in counts) for key in asdict(Counts())}
    found["examples"] = [example for ledger in run.ledgers.values() for example in ledger.examples]
    found["faults"] = dict(run.faults)
    found["longest_wait"] = max(publisher.longest for publisher in run.publishers)
    found["connects"] = sum(client.connects for client in (*run.listeners, *run.publishers))
    found["tracebacks"] = text.count("Traceback")
    return found


def kept(args: argparse.Namespace, found: dict[str, Any]) -> bool:
    """Tell whether what was promised was kept."""
    counts = Counts(**found["counts"])
    lossless = args.broker in ("none", "redis") and args.history >= HISTORY_SIZE
    return (
        counts.kept
        and not found["tracebacks"]
        and all(second < CONVERGE_SECONDS for second in found["seconds"])
        and not (lossless and (counts.told or counts.breaks))
        and (args.presence or counts.delivered > 0)
    )


def table(args: argparse.Namespace, found: dict[str, Any]) -> str:
    """Give what came of a run as Markdown."""
    rows = {key.replace("_", " "): f"{number:,}" for key, number in found["counts"].items()}
    if args.presence:
        rows = {"seconds until all knew": ", ".join(f"{second:.1f}" for second in found["seconds"])}
    else:
        rows["longest wait of a publisher, s"] = f"{found['longest_wait']:.1f}"
        rows["connections of clients"] = f"{found['connects']:,}"
    rows |= {key: f"{number:,}" for key, number in found["faults"].items()}
    rows["tracebacks"] = str(found["tracebacks"])
    words = f"{args.servers} x {args.workers} workers on {args.loop}, broker: {args.broker}"
    lines = [f"{words}, {args.seconds:g} s, seed {args.seed}", "", "| what | |", "| --- | --: |"]
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in rows.items())])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--broker", choices=BROKERS, default="none", help="default: %(default)s, which is the local bus")
    add("--servers", type=int, default=1, help="default: %(default)s")
    add("--workers", type=int, default=4, help="of each server (default: %(default)s)")
    add("--loop", choices=("asyncio", "uvloop", "trio"), default="uvloop", help="default: %(default)s")
    add("--seconds", type=float, default=60, help="of faults (default: %(default)s)")
    add("--presence", action="store_true", help="ask who is there instead of sending messages")
    add("--listeners", type=int, default=24, help="default: %(default)s")
    add("--publishers", type=int, default=8, help="default: %(default)s")
    add("--topics", type=int, default=2, help="default: %(default)s")
    add("--rate", type=float, default=120, help="messages a second in all (default: %(default)s)")
    add(
        "--history",
        type=int,
        default=HISTORY_SIZE,
        help="messages that a topic keeps; with few, some are lost (default: %(default)s)",
    )
    add("--seed", type=int, default=1, help="of what happens when (default: %(default)s)")
    for name, seconds, what in (
        ("--kill", 3.0, "a worker is killed"),
        ("--stall", 7.0, "a worker is stopped"),
        ("--reload", 15.0, "a server replaces its workers"),
        ("--restart", 12.0, "the broker is killed and started again"),
        ("--freeze", 20.0, "the broker, or the supervisor, is frozen"),
        ("--leave", 0.3, "a client breaks its connection"),
    ):
        add(name, type=float, default=seconds, help=f"seconds on average until {what}; 0: never (default: %(default)s)")
    add("--logs", help="an existing folder for the servers' logs")
    add("--out", type=Path, help="write it all into this JSON file")
    return parser.parse_args(words)


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    try:
        found = perform(args)
    except pytest.skip.Exception as exc:
        print(f"faults.py: {exc}", file=sys.stderr)
        return 2
    print(table(args, found))
    for example in found["examples"]:
        print(f"  {example}")
    if args.out is not None:
        facts = {"date": datetime.date.today().isoformat(), "arguments": vars(args) | {"out": str(args.out)}}
        args.out.write_text(json.dumps(facts | found, indent=1) + "\n")
    fine = kept(args, found)
    print("\nkept" if fine else "\nNOT KEPT")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
