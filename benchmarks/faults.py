#!/usr/bin/env python3
"""Inject faults into servers for a minute, and count the messages that were delivered, missing and duplicated.

    faults.py                                           one server with 4 workers and the local bus
    faults.py --broker redis --servers 2 --workers 2    two servers, and a Redis that writes everything to disk
    faults.py fill late --broker redis --servers 2      two kinds of faults only
    faults.py --broker redis-volatile --servers 2 --workers 2       without persistence: losses are reported
    faults.py --history 3                               a short history: losses are reported
    faults.py --broker rabbitmq --servers 2 --workers 2             no history
    faults.py --presence --kill 12                      lists of present users, after workers were killed

Publishers publish numbered messages, and repeat each one until it is accepted. Listeners continue from their last
position. Meanwhile there are faults at random moments, of all kinds that the setup can have. Then the faults end, and
when no more messages arrive, they are counted; see `fault_record`. The program needs Linux, the packages of the tests,
and redis-server or rabbitmq-server. With a broker, it also needs root for a network namespace in which the servers run;
without it, the network is not cut.

Exit status: 1 if a promise was broken, that is, a message is missing, duplicated or out of order without a report, or
was reported as failed and arrived, or a worker that hung was not replaced, or no fault explains an error in the logs;
2 if the broker is not installed.
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
from support.services import Service, nats_server, rabbitmq_server, redis_server

from benchmarks.fault_app import HISTORY_SIZE
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_log import unexplained
from benchmarks.fault_network import Network, NotAllowed
from benchmarks.fault_proxy import Proxy
from benchmarks.fault_record import Counts
from benchmarks.fault_run import FaultRun
from benchmarks.fault_servers import Server, Setup
from benchmarks.measure import exit_on_sigterm
from pywsapp.topics.presence.view import LEASE_SECONDS

#: Seconds until all processes must agree on the users who are present: the lease, and some more.
AGREEMENT_SECONDS = LEASE_SECONDS + 3.0
BROKERS = ("none", "redis", "redis-volatile", "rabbitmq", "nats")
#: Errors that a log has if messages were lost and reported.
_LOST = "messages on .* are lost"


# -- setting up ------------------------------------------------------------------------------------------------------


@contextmanager
def running_broker(name: str) -> Iterator[tuple[Service | None, str]]:
    """Run a broker; return it and its URL, in which `{}` is the address."""
    if name == "none":
        yield None, ""
    elif name == "rabbitmq":
        with rabbitmq_server() as rabbit:
            yield rabbit, "amqp://guest:guest@{}/"
    elif name == "nats":
        with nats_server() as nats:
            yield nats, "nats://{}"
    elif name == "redis":
        with redis_server("--appendonly", "yes", "--appendfsync", "always") as redis:
            yield redis, "redis://{}?durable=1"
    else:
        with redis_server() as redis:
            yield redis, "redis://{}"


def enter_network(args: argparse.Namespace, stack: ExitStack, notes: list[str]) -> Network | None:
    """Return a network namespace for the servers; None if they need none, or if this machine does not allow it."""
    if args.broker == "none" or not any(getattr(args, name) for name, kind in KINDS.items() if kind.needs == "network"):
        return None
    try:
        network = stack.enter_context(Network(args.delay))
    except NotAllowed as exc:
        notes.append(f"network namespaces are not allowed here ({exc})")
        return None
    if network.delay_problem is not None:
        notes.append(f"proxies delayed the packets, because netem is not available here ({network.delay_problem})")
    return network


@contextmanager
def running_setup(args: argparse.Namespace, logs: Path, notes: list[str]) -> Iterator[Setup]:
    """Run the servers and their broker."""
    with ExitStack() as stack:
        broker, url = stack.enter_context(running_broker(args.broker))
        network = enter_network(args, stack, notes)
        setup = Setup(broker, network)
        for number in range(args.servers):
            if broker is not None:
                delay = args.delay if network is None or network.delay_problem is not None else 0.0
                setup.proxies.append(Proxy("127.0.0.1" if network is None else network.broker_host, broker.port, delay))
            address = url.format(setup.proxies[-1].address) if setup.proxies else None
            setup.servers.append(Server(args, address, network, logs / f"server-{number}.log"))
            stack.callback(setup.servers[-1].stop)
        for name, kind in KINDS.items():
            if getattr(args, name) and not setup.has(kind.needs):
                notes.append(f"left out, without {kind.needs}: {name}")
        yield setup


def perform(args: argparse.Namespace) -> dict[str, Any]:
    """Start servers and clients, inject faults, and return the results."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pywsapp-faults-") as directory:
        logs = Path(args.logs or directory)
        with running_setup(args, logs, notes) as setup:
            run = FaultRun(args, setup)
            seconds = anyio.run(run.run)
        text = "".join(server.log.read_text(errors="replace") for server in setup.servers)
    counts = [record.counts() for record in run.records.values()]
    injected = [kind.explains for kind in KINDS.values() if run.faults.counts[kind.counted_as]]
    return {
        "seconds": seconds,
        "counts": {key: sum(getattr(each, key) for each in counts) for key in asdict(Counts())},
        "faults": dict(run.faults.counts),
        "accepted_meanwhile": dict(run.faults.accepted_meanwhile),
        "longest_wait": max(publisher.longest_wait for publisher in run.publishers),
        "connects": sum(client.connects for client in (*run.listeners, *run.publishers)),
        "unexplained": list(unexplained(text, injected if is_lossless(args) else [*injected, _LOST])),
        "problems": run.faults.problems,
        "notes": notes,
        "examples": [example for record in run.records.values() for example in record.examples],
    }


def is_lossless(args: argparse.Namespace) -> bool:
    """Return whether the broker and the history lose nothing, so that no loss must be reported."""
    return args.broker in ("none", "redis") and args.history >= HISTORY_SIZE


def are_promises_kept(args: argparse.Namespace, found: dict[str, Any]) -> bool:
    """Return whether the results fulfil all promises for this broker and history."""
    counts = Counts(**found["counts"])
    return (
        counts.no_promise_broken
        and not found["unexplained"]
        and not found["problems"]
        and all(seconds < AGREEMENT_SECONDS for seconds in found["seconds"])
        and not (is_lossless(args) and (counts.reported_lost or counts.interruptions))
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
    for key, number in sorted(found["faults"].items()):
        meanwhile = found["accepted_meanwhile"].get(key)
        rows[key] = f"{number:,}" + (f" ({meanwhile:,} messages accepted meanwhile)" if meanwhile else "")
    rows["unexplained errors in the logs"] = str(len(found["unexplained"]))
    setup = f"{args.servers} x {args.workers} workers on {args.loop}, broker: {args.broker}"
    lines = [f"{setup}, {args.seconds:g} s, seed {args.seed}", "", "| what | |", "| --- | --: |"]
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in rows.items())])


def details(found: dict[str, Any]) -> list[str]:
    """Return what was left out and what was wrong, as texts."""
    return [*found["notes"], *found["examples"], *found["problems"], *found["unexplained"]]


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; all by default")
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
    add("--delay", type=float, default=0.01, help="seconds between server and broker (default: %(default)s)")
    add("--worker-timeout", type=float, default=8.0, help="seconds until a worker hangs (default: %(default)s)")
    for name, kind in KINDS.items():
        what = f"seconds until {kind.what}, on average; 0: never (default: %(default)s)"
        add(f"--{name}", type=float, default=kind.every, help=what)
    add("--logs", help="an existing directory for the logs of the servers")
    add("--out", type=Path, help="write all results to this JSON file")
    args = parser.parse_args(words)
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"there is no kind of faults {min(unknown)!r}")
    for name in set(KINDS) - set(args.kinds or KINDS):
        setattr(args, name, 0.0)
    return args


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    try:
        found = perform(args)
    except pytest.skip.Exception as exc:
        print(f"faults.py: {exc}", file=sys.stderr)
        return 2
    print(table(args, found))
    for line in details(found):
        print(f"  {line}")
    if args.out is not None:
        facts = {"date": datetime.date.today().isoformat(), "arguments": vars(args) | {"out": str(args.out)}}
        args.out.write_text(json.dumps(facts | found, indent=1) + "\n")
    kept = are_promises_kept(args, found)
    print("\nall promises kept" if kept else "\nPROMISES BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
