"""What the processes of a soak run use over time, and whether it comes back to the level of the first idle point.

Theory

At an *idle point* all clients are gone. Each number of a process is then compared in one of two ways:

Exact numbers: connections, topics, subscriptions, users, messages and awaitables that wait must be 0; tasks, threads,
open files and subscriptions at the broker must not be more than the largest number of a process of the same role at the
first idle point. The first idle point follows a round without faults that uses everything, because some connections,
such as the one to the session store, are opened when they are needed. These numbers have no tolerance, but the
processes have `SETTLE_SECONDS` to reach them: a lease of presence, a connection to the broker that times out, or a
worker that drains take some seconds.

Memory: a worker that is never replaced, and a supervisor, must not grow. A process fragments its heap, fills caches up
to their bounds, and collects garbage when it likes. So the number of memory blocks is taken after a full garbage
collection, and the bound holds for the growth over the run: the slope of a line through the idle points (Theil-Sen, the
median of all slopes between two of them), times the number of rounds. A leak of one object for each visit grows with
each round, and a cache does so only at first. So the first idle points are left out when there are enough of them.
"""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TextIO

import redis
from benchmarks import machine
from benchmarks.fault_servers import Server
from support.services import Redis

#: Seconds in which all numbers must come back to their level, also on a busy machine.
SETTLE_SECONDS = 90.0
#: What must be 0 at an idle point.
ZERO = (
    "connections",
    "pending_connections",
    "topics",
    "subscriptions",
    "users",
    "unpublished",
    "awaited_subscriptions",
    "uncollectable",
    "objects Connection",
    "objects ClientConnection",
    "objects Lifecycle",
    "objects WebSocket",
    "objects HttpConnection",
)
#: What must not be more than at the first idle point, and how many more there can be. A task can be at a place with one
#: more coroutine on its stack, so their number is not exact.
LEVEL = {
    "tasks": 0,
    "threads": 0,
    "files": 0,
    "broker_subscriptions": 0,
    "objects coroutine": 20,
    "objects Topic": 0,
    "objects Request": 0,
}
#: What must not grow over a run: the growth that is allowed, of processes that live for the whole run.
GROWTH = {"settled_blocks": 8_000.0, "rss": 12 * 2.0**20}
COLUMNS = (
    *("seconds", "phase", "server", "role", "pid", "rss", "threads", "files", "tasks", "connections"),
    *("pending_connections", "topics", "subscriptions", "users", "broker_connected", "broker_subscriptions"),
    *("unpublished", "awaited_subscriptions", "handshakes", "dropped", "lost", "skipped", "uncollectable", "blocks"),
    *("settled_blocks", "redis_clients", "redis_channels", "redis_keys"),
)
_KINDS_OF_KEYS = {
    "session": re.compile(r"pywsapp:session:"),
    "ticket": re.compile(r"pywsapp:ticket:"),
    "limit": re.compile(r"pywsapp:limit:"),
    "history": re.compile(r"pywsapp:\{.*\}:messages$"),
    "history meta": re.compile(r"pywsapp:\{.*\}:meta$"),
}


@dataclass(frozen=True)
class Process:
    """A process of a server, with its numbers now.

    Args:
        server: the number of the server.
        role: "supervisor", "worker" or "clients".
        pid: the process ID.
        numbers: what `/proc` and the worker itself say.
    """

    server: int
    role: str
    pid: int
    numbers: dict[str, Any]


def processes(servers: Iterable[Server], samples: Path) -> Iterator[Process]:
    """Yield the processes of some servers with their numbers."""
    for number, server in enumerate(servers):
        for pid in machine.process_tree(server.process.pid):
            with suppress(OSError):
                role = "supervisor" if pid == server.process.pid else "worker"
                yield Process(number, role, pid, {**seen_from_outside(pid), **_sample(samples, pid)})


def seen_from_outside(pid: int) -> dict[str, int]:
    """Return the memory in bytes, the threads and the open files of a process.

    Raises:
        OSError: it has ended.
    """
    directory = Path(f"/proc/{pid}")
    fields = (directory / "stat").read_text().rpartition(")")[2].split()
    return {
        "rss": int((directory / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "threads": int(fields[17]),
        "files": len(list((directory / "fd").iterdir())),
    }


def _sample(samples: Path, pid: int) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((samples / f"{pid}.json").read_text())
        return found
    return {}


# -- Redis -------------------------------------------------------------------------------------------------------------


@dataclass
class RedisNumbers:
    """What a Redis has.

    Args:
        clients: connections of the servers.
        channels: channels with a subscriber.
        subscriptions: subscriptions of channels.
        keys: the number of keys of each kind; "other" must not exist.
        eternal: keys that never expire.
    """

    clients: int
    channels: int
    subscriptions: int
    keys: dict[str, int]
    eternal: list[str]


def ask_redis(service: Redis) -> RedisNumbers | None:
    """Return what a Redis has; None while it does not answer. Blocks."""
    client = redis.Redis(port=service.port, socket_timeout=2.0, decode_responses=True)
    try:
        channels = [str(name) for name in client.pubsub_channels()]
        subscriptions = client.pubsub_numsub(*channels) if channels else []
        keys = [str(key) for key in client.scan_iter(count=1000)]
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.pttl(key)
            times = pipeline.execute()
        return RedisNumbers(
            len(client.client_list()) - 1,
            len(channels),
            sum(count for _, count in subscriptions),
            dict(Counter(_kind_of(key) for key in keys)),
            [key for key, left in zip(keys, times, strict=True) if left == -1],
        )
    except redis.RedisError:
        return None
    finally:
        client.close()


def _kind_of(key: str) -> str:
    return next((kind for kind, pattern in _KINDS_OF_KEYS.items() if pattern.match(key)), "other")


# -- over time ---------------------------------------------------------------------------------------------------------


class Table:
    """Writes the numbers of all processes to a CSV file, a row for each process and moment.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, extrasaction="ignore", restval="")
        self._writer.writeheader()
        self._began = time.monotonic()

    def add(self, phase: str, found: Iterable[Process], stored: RedisNumbers | None) -> None:
        """Write the rows of one moment."""
        seconds = round(time.monotonic() - self._began, 1)
        of_redis: dict[str, Any] = {}
        if stored is not None:
            keys = " ".join(f"{kind.replace(' ', '-')}={count}" for kind, count in sorted(stored.keys.items()))
            of_redis = {"redis_clients": stored.clients, "redis_channels": stored.channels, "redis_keys": keys}
        for each in found:
            row = {"seconds": seconds, "phase": phase, "server": each.server, "role": each.role, "pid": each.pid}
            self._writer.writerow({**row, **each.numbers, **(of_redis if each.role == "supervisor" else {})})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass
class IdlePoint:
    """The numbers while there are no clients.

    Args:
        processes: all processes.
        stored: what the Redis has.
        seconds: how long it took to reach the level.
    """

    processes: list[Process]
    stored: RedisNumbers | None
    seconds: float = 0.0


@dataclass
class Levels:
    """Compares idle points with the first one.

    Args:
        workers: how many workers each server has.
        connections: how many connections to Redis the workers of all servers can have. They make some of them when
            they need them, so the number at the first idle point is no bound.

    Attributes:
        points: the idle points so far.
    """

    workers: int
    connections: int
    points: list[IdlePoint] = field(default_factory=list)

    def faults(self, point: IdlePoint) -> list[str]:
        """Return what is not at its level."""
        found = [text for process in point.processes for text in self._faults_of(process)]
        counts = Counter((process.server, process.role) for process in point.processes)
        for (server, role), count in counts.items():
            expected = self.workers if role == "worker" else 1
            if count != expected:
                found.append(f"server {server} has {count} processes of the role {role} instead of {expected}")
        return found + self._faults_of_redis(point.stored)

    def _faults_of(self, process: Process) -> Iterator[str]:
        name = f"{process.role} of server {process.server}"
        for key in ZERO:
            if process.numbers.get(key, 0):
                yield f"{key}: {name} has {process.numbers[key]} without clients"
        for key, tolerance in LEVEL.items():
            before, now = self._level(process.role, key), process.numbers.get(key, 0)
            if before is not None and now > before + tolerance:
                what = f" ({self._more_tasks(process)})" if key == "tasks" else ""
                yield f"{key}: {name} has {now}, more than {before} at the first idle point{what}"

    def _more_tasks(self, process: Process) -> str:
        """Return the names of the tasks that no process had at the first idle point."""
        before: Counter[str] = Counter()
        for each in self.points[0].processes:
            before |= Counter(each.numbers.get("running", {}))
        return ", ".join((Counter(process.numbers.get("running", {})) - before).elements())

    def _level(self, role: str, key: str) -> int | None:
        if not self.points:
            return None
        return max((each.numbers.get(key, 0) for each in self.points[0].processes if each.role == role), default=None)

    def _faults_of_redis(self, stored: RedisNumbers | None) -> list[str]:
        if stored is None:
            return []
        found = [f"Redis keeps {key!r} for ever" for key in stored.eternal[:3]]
        if stored.clients > self.connections:
            found.append(f"Redis has {stored.clients} connections, more than {self.connections}")
        if stored.keys.get("other"):
            found.append(f"Redis has {stored.keys['other']} keys of no known kind")
        before = self.points[0].stored if self.points else None
        if before is not None:
            for key in ("channels", "subscriptions"):
                now, level = getattr(stored, key), getattr(before, key)
                if now > level:
                    found.append(f"Redis has {now} {key}, more than {level} at the first idle point")
        return found

    # -- growth ----------------------------------------------------------------------------------------------------

    def growth(self) -> dict[tuple[int, str, int, str], tuple[list[float], float]]:
        """Return the values at the idle points, and the growth over the run, of processes that live all the time."""
        points = self.points
        found = {}
        for first in points[0].processes if points else ():
            for key in GROWTH:
                values = [
                    float(each.numbers[key])
                    for point in points
                    for each in point.processes
                    if each.pid == first.pid and key in each.numbers
                ]
                if len(values) == len(points) > 1:
                    found[first.server, first.role, first.pid, key] = values, grown(values)
        return found

    def faults_of_growth(self) -> list[str]:
        """Return which processes have grown by more than `GROWTH` allows."""
        return [
            f"{key}: {role} of server {server} has grown by {growth:,.0f}, more than {GROWTH[key]:,.0f}: {values}"
            for (server, role, _, key), (values, growth) in self.growth().items()
            if growth > GROWTH[key]
        ]


def grown(values: list[float]) -> float:
    """Return the growth over a run: the median of the slopes between two values, times the number of steps.

    The first third of the values is left out if there are at least six: caches fill up.
    """
    counted = values[len(values) // 3 :] if len(values) >= 6 else values
    slopes = [(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(counted), 2)]
    return statistics.median(slopes) * (len(counted) - 1)
