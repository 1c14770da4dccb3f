"""The measurements of scale.py, one function for each part: how the cost of one server process grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks import machine, stalls
from benchmarks.contestants import Contestant
from benchmarks.hold import CONCURRENCY, finish, holding
from benchmarks.measure import Bench, Failed, Server, load, serving
from benchmarks.scenarios import PLAIN, Run, cpu_per_message

SIZES = tuple(16 * 4**step for step in range(9))  # 16 B to 1 MiB
BIG = 256 * 1024


@dataclass(frozen=True)
class Limits:
    """The limits of all measurements.

    Args:
        connections: the largest number of connections at a time.
        idle_seconds: the measured time of idle connections; a whole ping interval has one ping for each connection.
    """

    connections: int = 10_000
    idle_seconds: float = 20

    def steps(self, *shares: float) -> list[int]:
        return sorted({max(1, int(self.connections * share)) for share in shares})


@dataclass
class Point:
    """The cost of one part of one contestant at one size.

    Args:
        x: the size: connections, bytes or subscribers.
        values: the figures; empty if the measurement failed.
        failure: why it failed; empty if it did not.
    """

    contestant: str
    part: str
    x: int
    values: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def idle(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Return the memory in KiB and the processor time in per cent for connections that only answer pings."""
    with serving(bench, contestant, PLAIN) as server, holding(bench, server, count, limits.idle_seconds) as held:
        pids, began = server.pids, time.monotonic()
        before = machine.cpu_seconds(pids)
        time.sleep(limits.idle_seconds)
        used = machine.cpu_seconds(pids) - before
        share = 100 * used / (time.monotonic() - began)
        run = finish(held)
    return {"rss": run["rss_bytes_per_conn"] / 1024, "cpu": share}


def busy(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Return the processor time of a message on some connections, as fast as possible and at a fixed rate.

    The result includes the latency of replies in milliseconds, as fast as possible. If the server did not serve its
    connections in turn, the slowest reply would take many times the mean.
    """
    options = f"--size 64 --conns {count} {CONCURRENCY}"
    with serving(bench, contestant, PLAIN) as server:
        full = _load(bench, server, options)
        paced = _load(bench, server, f"{options} --rate 5000")
    latencies = {name: full["latency_us"][name] / 1000 for name in ("mean", "p99", "max")}
    return {"full": cpu_per_message(full), "paced": cpu_per_message(paced), **latencies}


def size(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Return the processor time of a message of some bytes, and the processor time of each byte in nanoseconds."""
    connections = min(limits.connections, 4 if count >= BIG else 16)
    with serving(bench, contestant, PLAIN) as server:
        run = _load(bench, server, f"--size {count} --conns {connections} --binary")
    return {"message": cpu_per_message(run), "byte": 1000 * cpu_per_message(run) / count}


def fanout(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Return the processor time of one delivery of a broadcast, and the deliveries/s."""
    options = f"--mode broadcast --path /chat --size 64 --conns {count} --window 8 {CONCURRENCY}"
    with serving(bench, contestant, PLAIN) as server:
        run = _load(bench, server, options)
    return {"delivery": cpu_per_message(run), "rate": float(run["rate"])}


def stall(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Return the longest times of an echo during work on some connections."""
    return stalls.measure(bench, contestant, count, limits.idle_seconds)


@dataclass(frozen=True)
class Part:
    """One part of scale.py: its sizes, and the function that measures at one size."""

    sizes: Callable[[Limits], list[int]]
    measure: Callable[[Bench, Contestant, Limits, int], dict[str, float]]


PARTS = {
    "idle": Part(lambda limits: limits.steps(0.1, 0.2, 0.5, 1), idle),
    "busy": Part(lambda limits: [count for count in (16, 64, 250, 1000, 2000) if count <= limits.connections], busy),
    "size": Part(lambda _: list(SIZES), size),
    "fanout": Part(lambda limits: limits.steps(0.001, 0.01, 0.1, 1), fanout),
    "stalls": Part(lambda limits: limits.steps(0.1, 1), stall),
}


def measure(bench: Bench, contestant: Contestant, part: str, limits: Limits) -> Iterator[Point]:
    """Measure one part at all its sizes; a failed point contains the reason."""
    for x in PARTS[part].sizes(limits):
        point = Point(contestant.name, part, x)
        try:
            point.values = PARTS[part].measure(bench, contestant, limits, x)
        except Failed as exc:
            point.failure = str(exc)
        yield point


def _load(bench: Bench, server: Server, options: str) -> Run:
    return load(bench, server, options.split(), seconds=bench.seconds, warmup=bench.warmup)
