"""How the cost of one server process grows: what is measured for scale.py, one function for each part."""

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
    """How far and how long it is measured.

    Args:
        connections: the most there are at a time.
        idle_seconds: how long idle connections are watched; a whole ping interval has one ping for each.
    """

    connections: int = 10_000
    idle_seconds: float = 20

    def steps(self, *shares: float) -> list[int]:
        return sorted({max(1, int(self.connections * share)) for share in shares})


@dataclass
class Point:
    """What one part of one contestant costs at one size.

    Args:
        x: connections, bytes or subscribers, as the part has it.
        values: the figures; none if it failed.
    """

    contestant: str
    part: str
    x: int
    values: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def idle(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Give memory in KiB and processor time in per cent of connections that do nothing but answer pings."""
    with serving(bench, contestant, PLAIN) as server, holding(bench, server, count, limits.idle_seconds) as held:
        pids, began = server.pids, time.monotonic()
        before = machine.cpu_seconds(pids)
        time.sleep(limits.idle_seconds)
        used = machine.cpu_seconds(pids) - before
        share = 100 * used / (time.monotonic() - began)
        run = finish(held)
    return {"rss": run["rss_bytes_per_conn"] / 1024, "cpu": share}


def busy(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Give the processor time of a message, as fast as it goes and at a fixed rate, on so many connections.

    And the milliseconds that replies take as fast as it goes: were the connections not served in turn, the slowest of
    them would take many times the mean.
    """
    words = f"--size 64 --conns {count} {CONCURRENCY}"
    with serving(bench, contestant, PLAIN) as server:
        full = _load(bench, server, words)
        paced = _load(bench, server, f"{words} --rate 5000")
    taken = {name: full["latency_us"][name] / 1000 for name in ("mean", "p99", "max")}
    return {"full": cpu_per_message(full), "paced": cpu_per_message(paced), **taken}


def size(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Give the processor time of a message of so many bytes, and in nanoseconds that of each byte."""
    connections = min(limits.connections, 4 if count >= BIG else 16)
    with serving(bench, contestant, PLAIN) as server:
        run = _load(bench, server, f"--size {count} --conns {connections} --binary")
    return {"message": cpu_per_message(run), "byte": 1000 * cpu_per_message(run) / count}


def fanout(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Give the processor time of one delivery of a broadcast to so many, and their rate."""
    words = f"--mode broadcast --path /chat --size 64 --conns {count} --window 8 {CONCURRENCY}"
    with serving(bench, contestant, PLAIN) as server:
        run = _load(bench, server, words)
    return {"delivery": cpu_per_message(run), "rate": float(run["rate"])}


def stall(bench: Bench, contestant: Contestant, limits: Limits, count: int) -> dict[str, float]:
    """Give the longest echoes while something is done to so many connections."""
    return stalls.measure(bench, contestant, count, limits.idle_seconds)


@dataclass(frozen=True)
class Part:
    """One thing that grows: the sizes to look at, and what is looked at."""

    sizes: Callable[[Limits], list[int]]
    at: Callable[[Bench, Contestant, Limits, int], dict[str, float]]


PARTS = {
    "idle": Part(lambda limits: limits.steps(0.1, 0.2, 0.5, 1), idle),
    "busy": Part(lambda limits: [count for count in (16, 64, 250, 1000, 2000) if count <= limits.connections], busy),
    "size": Part(lambda _: list(SIZES), size),
    "fanout": Part(lambda limits: limits.steps(0.001, 0.01, 0.1, 1), fanout),
    "stalls": Part(lambda limits: limits.steps(0.1, 1), stall),
}


def measure(bench: Bench, contestant: Contestant, part: str, limits: Limits) -> Iterator[Point]:
    """Measure one part, point by point; a point that fails says why."""
    for x in PARTS[part].sizes(limits):
        point = Point(contestant.name, part, x)
        try:
            point.values = PARTS[part].at(bench, contestant, limits, x)
        except Failed as exc:
            point.failure = str(exc)
        yield point


def _load(bench: Bench, server: Server, words: str) -> Run:
    return load(bench, server, words.split(), seconds=bench.seconds, warmup=bench.warmup)
