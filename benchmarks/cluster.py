#!/usr/bin/env python3
"""Measure broadcasts between the clients of several processes, for each bus and broker, beside other libraries.

    cluster.py                                              everything, about ten minutes
    cluster.py --carriers bus,redis --processes 2 --rounds 1

One client publishes, and the server sends each message to all other clients. The kernel distributes the clients over
the processes: with two processes, half of the clients are in another process than the publisher, with four three
quarters. There are three loads:

    full    as fast as possible to many receivers: deliveries/s
    few     as fast as possible to 16 receivers, so that the transport between processes counts: messages/s
    paced   5,000 deliveries/s: the time until the last receiver has a message

Servers, broker and load share the machine, and no process is pinned: read the ratios and the processor time. Every
round goes through all contestants, in another order. Ratios are taken within a round.

Exit status: 1 if a run failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import brokers, machine
from benchmarks.contestants import PEERS, PYWSAPP, Contestant
from benchmarks.environment import SetupError, ensure
from benchmarks.measure import Bench, Failed, Server, exit_on_sigterm, load
from benchmarks.scenarios import Run

SEED = 20240229  # any number, but the same in every session
PAYLOAD = 64
SOCKETIO, CHANNELS = "python-socketio", "Django Channels"
BUS, MEMORY = "bus", "memory"
BROKERS = ("redis", "rabbitmq", "nats")
CARRIERS = (MEMORY, BUS, *BROKERS)

SCRIPTS = {
    "pywsapp": "cluster_pywsapp.py",
    SOCKETIO: "cluster_socketio.py",
    CHANNELS: "cluster_channels.py",
}
#: The cluster that the ratios refer to.
REFERENCE = ("pywsapp", "redis", 2)

FEW = 16
LOADS = {
    "full": "--conns 200 --window 8 --ack all",
    "few": f"--conns {FEW} --window 8 --ack all",
    "paced": "--conns 100 --rate 50",
}

#: A payload of the same size in a socket.io event, after the handshake of socket.io.
_EVENT = ('42["m","', '"]')
_EVENTS = ["--path", "/socket.io/?EIO=4&transport=websocket", "--greetings", "2", "--hello", "40"]
_EVENTS += ["--prefix", _EVENT[0], "--suffix", _EVENT[1], "--size", str(PAYLOAD + len("".join(_EVENT)))]
_CHAT = ["--path", "/chat", "--size", str(PAYLOAD)]


@dataclass(frozen=True)
class Cluster:
    """Some processes of one library, and the carrier of messages between them."""

    library: str
    carrier: str
    processes: int

    @property
    def name(self) -> str:
        return f"{self.library}, {self.carrier}, {self.processes}"

    @property
    def arguments(self) -> list[str]:
        return _EVENTS if self.library == SOCKETIO else _CHAT

    def contestant(self, urls: dict[str, str]) -> Contestant:
        """Return the contestant that starts it."""
        kind = PYWSAPP if self.library == "pywsapp" else PEERS
        variables = {"BROKER": urls[self.carrier]} if self.carrier in urls else {}
        return Contestant(self.name, SCRIPTS[self.library], ("--processes", str(self.processes)), kind, variables)


def clusters(carriers: Sequence[str], processes: Sequence[int]) -> list[Cluster]:
    """Return the clusters to measure, in the order of the table."""
    found = [Cluster("pywsapp", MEMORY, 1)] if MEMORY in carriers else []
    for carrier in (each for each in CARRIERS if each in carriers and each != MEMORY):
        found += [Cluster("pywsapp", carrier, number) for number in processes if number > 1 or carrier != BUS]
    if "redis" in carriers:
        for library in (SOCKETIO, CHANNELS):
            found += [Cluster(library, "redis", number) for number in processes if number < 4]
    return found


@dataclass(frozen=True)
class Figures:
    """The results of one run.

    Args:
        rate: deliveries/s.
        servers: processor time of the processes with clients, in µs for each delivery.
        carrier: processor time of the broker, or of the supervisor with the bus, in µs for each message.
        median: the median time until the last receiver had a message, in µs.
        p99: the 99th percentile of that time, in µs.
        busy: processors that servers, carrier, load, and all other processes used.
    """

    rate: float
    servers: float
    carrier: float
    median: float
    p99: float
    busy: tuple[float, float, float, float]


def figures(run: Run, receivers: int, carriers: int) -> Figures:
    """Calculate the results of a run.

    Args:
        run: the output of wsload, with the processor time of other processes.
        receivers: the receivers of each message.
        carriers: how many of the watched processes carried messages; they are the last ones.
    """
    each, rate = run["watched_cpu_pct"], run["rate"]
    split = len(each) - carriers
    servers, carrier = sum(each[:split]), sum(each[split:])
    fanout = run["fanout_us"]
    busy = (servers / 100, carrier / 100, run["cpu_pct"] / 100, run["foreign_cpu_pct"] / 100)
    return Figures(rate, servers * 1e4 / rate, carrier * 1e4 / (rate / receivers), fanout["p50"], fanout["p99"], busy)


class RunningCluster(Server):
    """A running cluster.

    Attributes:
        carriers: the processes that carry messages and have no clients.
    """

    def __init__(self, bench: Bench, cluster: Cluster, running_brokers: dict[str, brokers.RunningBroker]) -> None:
        super().__init__(
            bench, cluster.contestant({name: broker.url for name, broker in running_brokers.items()}), "plain"
        )
        self.carriers = [self.process.pid] if cluster.carrier == BUS else []
        if cluster.carrier in running_brokers:
            self.carriers = machine.process_tree(running_brokers[cluster.carrier].pid)

    @property
    def pids(self) -> list[int]:
        """The IDs of all processes; those that carry messages are last."""
        return [pid for pid in super().pids if pid not in self.carriers] + self.carriers


@dataclass
class Session:
    """The measurement of all clusters.

    Args:
        bench: the settings of all runs.
        running_brokers: the brokers, by name.

    Attributes:
        figures: for each cluster and load, the figures by round, without failed runs.
        failures: the failed runs, as texts.
    """

    bench: Bench
    running_brokers: dict[str, brokers.RunningBroker]
    figures: dict[tuple[Cluster, str], dict[int, Figures]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def measure(self, cluster: Cluster, number: int) -> None:
        """Measure a cluster with all loads, in the round of this number."""
        try:
            server = RunningCluster(self.bench, cluster, self.running_brokers)
        except Failed as exc:
            self._fail(f"round {number}: {cluster.name}: {exc}")
            return
        try:
            with contextlib.suppress(Failed):  # imports and code paths of the first use
                self._load(server, cluster, "few", 0.3)
            for name in LOADS:
                try:
                    found = self._load(server, cluster, name, self.bench.seconds)
                except Failed as exc:
                    self._fail(f"round {number}: {cluster.name}, {name}: {exc} (log: {server.log_tail()})")
                    continue
                self.figures.setdefault((cluster, name), {})[number] = found
                text = f"{found.rate:,.0f}/s, {found.servers:.2f} µs each, {found.median:,.0f} µs"
                print(f"round {number}: {cluster.name}, {name}: {text}", file=sys.stderr, flush=True)
        finally:
            server.stop()

    def _fail(self, text: str) -> None:
        self.failures.append(text)
        print(text, file=sys.stderr, flush=True)

    def _load(self, server: RunningCluster, cluster: Cluster, name: str, seconds: float) -> Figures:
        options = ["--mode", "broadcast", "--settle", "0.4", *shlex.split(LOADS[name]), *cluster.arguments]
        run = load(self.bench, server, options, seconds=seconds, warmup=self.bench.warmup)
        return figures(run, run["conns"], len(server.carriers))


# -- the table -----------------------------------------------------------------------------------------------------


HEAD = (
    "library",
    "between",
    "processes",
    "deliveries/s",
    "ratio",
    "µs each",
    "µs each, paced",
    "messages/s to 16",
    "carrier, µs each",
    "ms to the last",
    "99 %",
    "processors busy",
)


def table(session: Session, clusters: Sequence[Cluster]) -> str:
    """Return the results as a Markdown table."""
    reference = session.figures.get((Cluster(*REFERENCE), "full"), {})
    lines = ["| " + " | ".join(HEAD) + " |", "| --- | --- |" + " --: |" * (len(HEAD) - 2)]
    for cluster in clusters:
        full, few, paced = (session.figures.get((cluster, name), {}) for name in LOADS)
        ratios = [each.rate / reference[number].rate for number, each in full.items() if number in reference]
        cells = [
            cluster.library,
            cluster.carrier,
            str(cluster.processes),
            _spread(full),
            f"{statistics.median(ratios):.2g}" if ratios else "—",
            _middle(full, lambda each: each.servers, ".2f"),
            _middle(paced, lambda each: each.servers, ".0f"),
            _middle(few, lambda each: each.rate / FEW, ",.0f"),
            _middle(few, lambda each: each.carrier, ".0f") if cluster.carrier != MEMORY else "—",
            _middle(paced, lambda each: each.median / 1e3, ".1f"),
            _middle(paced, lambda each: each.p99 / 1e3, ".1f"),
            " + ".join(_middle(full, functools.partial(_busy, at), ".1f") for at in range(4)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _busy(at: int, each: Figures) -> float:
    return each.busy[at]


def _middle(rounds: dict[int, Figures], read: Callable[[Figures], float], form: str) -> str:
    return format(statistics.median(map(read, rounds.values())), form) if rounds else "—"


def _spread(rounds: dict[int, Figures]) -> str:
    if not rounds:
        return "—"
    values = sorted(each.rate / 1e3 for each in rounds.values())
    return f"{statistics.median(values):,.0f}k ({values[0]:,.0f} … {values[-1]:,.0f})"


# -- the program ---------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carriers", default=",".join(CARRIERS), help="some of %(default)s")
    parser.add_argument("--processes", default="1,2,4", help="default: %(default)s; the peers have at most two")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.2, help="measured time of each load (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=float, default=0.4, help="time before the measured time (default: %(default)s)"
    )
    parser.add_argument("--python", default=sys.executable, help="the Python of the servers (default: this one)")
    return parser.parse_args()


def run(args: argparse.Namespace) -> int:
    """Set up, measure and print.

    Raises:
        SetupError: this machine lacks something that the measurement needs.
    """
    carriers = args.carriers.split(",")
    if not set(carriers) <= set(CARRIERS):
        raise SetupError(f"unknown carrier; choose from {', '.join(CARRIERS)}")
    measured = clusters(carriers, [int(word) for word in args.processes.split(",")])
    environment = ensure(args.python, cluster=True)
    with tempfile.TemporaryDirectory(prefix="pywsapp-bench-") as logs, contextlib.ExitStack() as stack:
        bench = Bench(environment, Path(logs), None, None, args.seconds, args.warmup)
        names = [name for name in BROKERS if name in carriers]
        session = Session(bench, {name: stack.enter_context(brokers.running_broker(name)) for name in names})
        for number in range(1, args.rounds + 1):
            order = list(measured)
            random.Random(SEED + number).shuffle(order)
            for cluster in order:
                session.measure(cluster, number)
    print(f"{machine.facts()['cpu']}, {os.cpu_count()} processors; load average {os.getloadavg()[1]:.1f}\n")
    print(table(session, measured))
    print("".join(f"\n- {text}" for text in session.failures))
    return 1 if session.failures else 0


def main() -> int:
    exit_on_sigterm()
    try:
        return run(arguments())
    except SetupError as exc:
        print(f"cluster.py: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
