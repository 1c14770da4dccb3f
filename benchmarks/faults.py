#!/usr/bin/env python3
"""Kill workers and brokers for a minute, and count the messages that were delivered, missing and duplicated.

    faults.py                                           one server with 4 workers and the local bus
    faults.py --broker redis --servers 2 --workers 2    two servers, and a Redis that writes everything to disk
    faults.py --broker redis-volatile --servers 2 --workers 2       the same without persistence: losses are reported
    faults.py --history 3                               a short history: losses are reported
    faults.py --broker rabbitmq --servers 2 --workers 2             no history
    faults.py --presence --kill 12                      lists of present users, after workers were killed

Publishers publish numbered messages, and repeat each one until it is accepted. Listeners continue from their last
position. Meanwhile, at random moments, workers are killed (kill -9) or stopped for a moment, servers replace all
workers (SIGHUP), the broker is killed and restarted, or frozen, and clients break their connections. Then the faults
end, and when no more messages arrive, they are counted; see `fault_record`. The program needs Linux, the packages of
the tests, and redis-server or rabbitmq-server.

Exit status: 1 if a promise was broken, that is, a message is missing, duplicated or out of order without a report; 2 if
the broker is not installed.
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
from benchmarks.fault_record import Counts
from benchmarks.fault_run import FaultRun, Server
from benchmarks.measure import exit_on_sigterm
from pywsapp.topics.presence.view import LEASE_SECONDS

#: Seconds until all processes must agree on the users who are present: the lease, and some more.
AGREEMENT_SECONDS = LEASE_SECONDS + 3.0
BROKERS = ("none", "redis", "redis-volatile", "rabbitmq")


# -- setting up ------------------------------------------------------------------------------------------------------


@contextmanager
def running_broker(name: str) -> Iterator[tuple[Service | None, str | None]]:
    """Run a broker; return it and its URL."""
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
    """Start servers and clients, inject faults, and return the results."""
    with ExitStack() as stack:
        logs = Path(args.logs or stack.enter_context(tempfile.TemporaryDirectory(prefix="pywsapp-faults-")))
        broker, url = stack.enter_context(running_broker(args.broker))
        servers: list[Server] = []
        for number in range(args.servers):
            servers.append(Server(args, url, logs / f"server-{number}.log"))
            stack.callback(servers[-1].stop)
        run = FaultRun(args, servers, broker)
        found: dict[str, Any] = {"seconds": [], "examples": []}
        if args.presence:
            found["seconds"] = anyio.run(run.run_presence)
        else:
            anyio.run(run.run_messages)
        for server in servers:
            server.stop()
        text = "".join(server.log.read_text(errors="replace") for server in servers)
    counts = [record.counts() for record in run.records.values()]
    found["counts"] = {key: sum(getattr(each, key) for each in counts) for key in asdict(Counts())}
    found["examples"] = [example for record in run.records.values() for example in record.examples]
    found["faults"] = dict(run.faults)
    found["longest_wait"] = max(publisher.longest_wait for publisher in run.publishers)
    found["connects"] = sum(client.connects for client in (*run.listeners, *run.publishers))
    found["tracebacks"] = text.count("Traceback")
    return found


def are_promises_kept(args: argparse.Namespace, found: dict[str, Any]) -> bool:
    """Return whether the results fulfil all promises for this broker and history."""
    counts = Counts(**found["counts"])
    lossless = args.broker in ("none", "redis") and args.history >= HISTORY_SIZE
    return (
        counts.no_promise_broken
        and not found["tracebacks"]
        and all(seconds < AGREEMENT_SECONDS for seconds in found["seconds"])
        and not (lossless and (counts.reported_lost or counts.interruptions))
        and (args.presence or counts.delivered > 0)
    )


def table(args: argparse.Namespace, found: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    rows = {key.replace("_", " "): f"{number:,}" for key, number in found["counts"].items()}
    if args.presence:
        rows = {"seconds until all agreed": ", ".join(f"{seconds:.1f}" for seconds in found["seconds"])}
    else:
        rows["longest wait of a publisher, s"] = f"{found['longest_wait']:.1f}"
        rows["connections of clients"] = f"{found['connects']:,}"
    rows |= {key: f"{number:,}" for key, number in found["faults"].items()}
    rows["tracebacks"] = str(found["tracebacks"])
    setup = f"{args.servers} x {args.workers} workers on {args.loop}, broker: {args.broker}"
    lines = [f"{setup}, {args.seconds:g} s, seed {args.seed}", "", "| what | |", "| --- | --: |"]
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in rows.items())])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--broker", choices=BROKERS, default="none", help="default: %(default)s (the local bus)")
    add("--servers", type=int, default=1, help="default: %(default)s")
    add("--workers", type=int, default=4, help="of each server (default: %(default)s)")
    add("--loop", choices=("asyncio", "uvloop", "trio"), default="uvloop", help="default: %(default)s")
    add("--seconds", type=float, default=60, help="duration of the faults (default: %(default)s)")
    add("--presence", action="store_true", help="test presence instead of messages")
    add("--listeners", type=int, default=24, help="default: %(default)s")
    add("--publishers", type=int, default=8, help="default: %(default)s")
    add("--topics", type=int, default=2, help="default: %(default)s")
    add("--rate", type=float, default=120, help="messages/s of all publishers (default: %(default)s)")
    add(
        "--history",
        type=int,
        default=HISTORY_SIZE,
        help="messages that a topic keeps; a short history loses some (default: %(default)s)",
    )
    add("--seed", type=int, default=1, help="seed of the random moments (default: %(default)s)")
    for name, seconds, what in (
        ("--kill", 3.0, "a worker is killed"),
        ("--stop", 7.0, "a worker is stopped for a moment"),
        ("--reload", 15.0, "a server replaces all workers"),
        ("--restart", 12.0, "the broker is killed and restarted"),
        ("--freeze", 20.0, "the broker, or the supervisor, is frozen"),
        ("--disconnect", 0.3, "a client breaks its connection"),
    ):
        add(
            name, type=float, default=seconds, help=f"seconds until {what}, on average; 0: never (default: %(default)s)"
        )
    add("--logs", help="an existing directory for the logs of the servers")
    add("--out", type=Path, help="write all results to this JSON file")
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
    kept = are_promises_kept(args, found)
    print("\nall promises kept" if kept else "\nPROMISES BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
