#!/usr/bin/env python3
"""Run everything an installation lives through for an hour, and prove that nothing leaks and nothing is lost.

    run.py                                  an hour on uvloop, with Redis
    run.py --quick                          two minutes
    run.py --minutes 15 --loop trio         shorter, on another event loop
    run.py --broker none                    two servers with the local bus of their workers
    run.py --dev                            the servers run in Python's development mode
    run.py --faults reload restart          these faults only

Two servers with two workers each share a broker and a Redis for sessions, tickets and limits. The run consists of
rounds. In each one clients of all kinds come and leave, while faults are injected; then the faults end, everything is
checked once more, all clients leave, and the processes must be back at the level of the first idle point. See
`soak/world.py`, `soak/rounds.py` and `soak/measuring.py`. The workers of the first server live for the whole run, those
of the second one are replaced again and again.

Exit status: 1 if anything was lost, doubled, wrong, unexplained or leaked; 2 if the broker is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from benchmarks.fault_app import HISTORY_SIZE
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_log import unexplained
from benchmarks.fault_network import Network
from benchmarks.fault_proxy import Proxy
from benchmarks.fault_servers import Server, Setup
from benchmarks.faults import enter_network, running_broker
from benchmarks.measure import exit_on_sigterm
from support.services import Redis, redis_server

from soak import sampling
from soak.expected import patterns
from soak.measuring import (
    SETTLE_SECONDS,
    ZERO,
    IdlePoint,
    Levels,
    Process,
    Table,
    ask_redis,
    processes,
    seen_from_outside,
)
from soak.report import progress, table
from soak.rounds import Round
from soak.world import Problems

BROKERS = ("redis", "nats", "rabbitmq", "none")
#: Seconds between two faults of a kind, on average; a short round has each kind once.
EVERY = {"reload": 30.0, "disconnect": 0.5, "restart": 40.0, "freeze": 60.0, "late": 60.0, "cut": 60.0, "mute": 60.0}
_PROGRAM = Path(__file__).with_name("server.py")
_STOP_SECONDS = 30.0


@dataclass
class Soak:
    """A run: the servers, and what was found.

    Args:
        args: the options.
        directory: for logs and numbers.
        groups: the servers that share a broker.
        store: the Redis of sessions, tickets and limits.
        store_proxies: the ways to it, if they are not those to the broker.
        notes: what this machine does not allow.
    """

    args: argparse.Namespace
    directory: Path
    groups: list[Setup]
    store: Redis
    store_proxies: list[Proxy]
    notes: list[str]
    problems: Problems = field(default_factory=Problems)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    injected: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.samples = self.directory / "samples"
        self.samples.mkdir()
        stores = 5 if self.args.broker == "redis" else 3  # sessions, tickets and limits; the broker has two
        self.levels = Levels(self.args.workers, 2 * stores * self.args.workers)
        self.table = Table(self.args.csv or self.directory / "numbers.csv")
        self.phase = "start"
        self.rounds: list[Round] = []
        self._read_until: Counter[Path] = Counter()
        self._began = time.monotonic()
        self.seconds = 0.0

    @property
    def servers(self) -> list[Server]:
        """All servers."""
        return [server for group in self.groups for server in group.servers]

    async def run(self) -> None:
        """Run all rounds, and stop the servers."""
        async with anyio.create_task_group() as tasks:
            for proxy in (*self.store_proxies, *(proxy for group in self.groups for proxy in group.proxies)):
                tasks.start_soon(proxy.run)
            await self._until_listening()
            tasks.start_soon(self._measure)
            end = self._began + 60 * self.args.minutes
            await self._round(0, min(self.args.round, self.args.warm_up), warm_up=True)
            number = 0
            while number < self.args.rounds or time.monotonic() + self.args.round < end:
                number += 1
                await self._round(number, self.args.round)
            self.phase = "stop"
            for server in self.servers:
                await anyio.to_thread.run_sync(self._stop, server)
            tasks.cancel_scope.cancel()
        self.seconds = time.monotonic() - self._began
        self.check_logs()
        for text in self.levels.faults_of_growth():
            self.problems.add(text)
        self.table.close()

    async def _round(self, number: int, seconds: float, *, warm_up: bool = False) -> None:
        args = copy.copy(self.args)
        args.seconds, args.seed = seconds, f"{self.args.seed} {number}"
        for name in KINDS:
            every = min(getattr(args, name), seconds)
            setattr(args, name, every if not warm_up or name == "disconnect" else 0.0)
        self.phase = f"round {number}" if number else "warm-up"
        self.rounds = [
            Round(args, group, f"{number}.{place}", self.samples, self.problems, self.counts)
            for place, group in enumerate(self.groups)
        ]
        async with anyio.create_task_group() as tasks:
            for each in self.rounds:
                tasks.start_soon(each.run)
        for each in self.rounds:
            self.faults.update(each.run_of_rooms.faults.counts)
            self.injected.update(each.run_of_rooms.faults.latest)
        self.phase, self.rounds = f"idle {number}", []
        await self._reach_level(number)
        self.check_logs()

    # -- measuring -----------------------------------------------------------------------------------------------------

    async def _until_listening(self) -> None:
        with anyio.fail_after(SETTLE_SECONDS):
            while len([each for each in self._processes() if "tasks" in each.numbers]) < self._worker_count():
                for server in self.servers:
                    if server.process.poll() is not None:
                        raise SystemExit(f"a server ended: {server.log.read_text()}")
                await anyio.sleep(0.1)

    def _worker_count(self) -> int:
        workers: int = self.args.workers
        return len(self.servers) * workers

    def _processes(self) -> list[Process]:
        return list(processes(self.servers, self.samples))

    async def _measure(self) -> None:
        """Write the numbers of all processes from time to time."""
        while True:
            stored = await anyio.to_thread.run_sync(ask_redis, self.store)
            own = Process(-1, "clients", os.getpid(), dict(seen_from_outside(os.getpid())))
            found = self._processes()
            self.table.add(self.phase, [*found, own], stored)
            progress(self.args, time.monotonic() - self._began, self._step(), self.counts, self.problems, found)
            await anyio.sleep(self.args.interval)

    def _step(self) -> str:
        return f"{self.phase} {', '.join(each.step for each in self.rounds)}".strip()

    async def _reach_level(self, number: int) -> None:
        """Wait until all numbers are at their level, and add the idle point."""
        began, request = time.monotonic(), 100 * number
        while True:
            request += 1
            sampling.request(self.samples, request)
            point = IdlePoint(await self._thorough(request), await anyio.to_thread.run_sync(ask_redis, self.store))
            own = {key: count for key, count in sampling.objects().items() if key in ZERO}
            point.processes.append(Process(-1, "clients", os.getpid(), own))
            found = self.levels.faults(point)
            point.seconds = time.monotonic() - began
            if not found or point.seconds > SETTLE_SECONDS:
                break
            await anyio.sleep(0.5)
        for text in found:
            self.problems.add(f"after {SETTLE_SECONDS:g} s without clients, {text}")
        self.levels.points.append(point)
        self.table.add(self.phase, point.processes, point.stored)

    async def _thorough(self, request: int) -> list[Process]:
        """Return all processes when each worker has answered a request."""
        with anyio.move_on_after(SETTLE_SECONDS):
            while True:
                found = self._processes()
                if all(each.numbers.get("thorough") == request for each in found if each.role == "worker"):
                    return found
                await anyio.sleep(0.05)
        return self._processes()

    def check_logs(self) -> None:
        """Add the new lines of the logs that nothing explains to the problems."""
        expected = patterns(self.injected)
        for server in self.servers:
            with server.log.open("rb") as log:
                log.seek(self._read_until[server.log])
                data = log.read()
            self._read_until[server.log] += len(data)
            levels = ("WARNING", "ERROR", "CRITICAL")
            for line in unexplained(data.decode(errors="replace"), expected, levels=levels):
                self.problems.add(f"{server.log.name}: {line}")

    def _stop(self, server: Server) -> None:
        server.process.send_signal(signal.SIGTERM)
        try:
            status = server.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.problems.add(f"a server did not stop within {_STOP_SECONDS:g} s")
        else:
            if status:
                self.problems.add(f"a server ended with status {status}")


# -- setting up --------------------------------------------------------------------------------------------------------


@contextmanager
def running(args: argparse.Namespace, directory: Path) -> Iterator[Soak]:
    """Run the servers, their broker, and the Redis."""
    notes: list[str] = []
    with ExitStack() as stack:
        broker, url = stack.enter_context(running_broker(args.broker))
        store = broker if isinstance(broker, Redis) else stack.enter_context(redis_server())
        network = enter_network(args, stack, notes)
        host = "127.0.0.1" if network is None else network.broker_host
        delay = args.delay if network is None or network.delay_problem is not None else 0.0
        soak = Soak(args, directory, [], store, [], notes)
        if broker is not None:
            soak.groups.append(Setup(broker, network))
        for number in range(2):
            if broker is None:
                soak.groups.append(Setup(None, None))
            group = soak.groups[-1]
            address = None
            if broker is not None:
                group.proxies.append(Proxy(host, broker.port, delay))
                address = url.format(group.proxies[-1].address)
            if broker is store:
                store_address = group.proxies[-1].address
            elif network is None:
                store_address = f"127.0.0.1:{store.port}"
            else:
                soak.store_proxies.append(Proxy(host, store.port, delay))
                store_address = soak.store_proxies[-1].address
            server = _server(args, soak, number, address, network, f"redis://{store_address}")
            group.servers.append(server)
            if number == 0:
                group.spared.append(server)
            stack.callback(server.stop)
        notes += [f"left out, without {KINDS[name].needs}: {name}" for name in missing(args, soak.groups)]
        yield soak


def _server(
    args: argparse.Namespace, soak: Soak, number: int, broker: str | None, network: Network | None, store: str
) -> Server:
    development = {"PYTHONDEVMODE": "1"} if args.dev else {"PYTHONWARNINGS": "default::ResourceWarning"}
    return Server(
        args,
        broker,
        network,
        soak.directory / f"server-{number}.log",
        program=_PROGRAM,
        options=["--store", store, "--samples", str(soak.samples)],
        environment=development,
    )


def missing(args: argparse.Namespace, groups: list[Setup]) -> list[str]:
    """Return the faults that were selected and that the setup cannot have."""
    return [name for name, kind in KINDS.items() if getattr(args, name) and not groups[0].has(kind.needs)]


class _LogOfClients(logging.Handler):
    """Adds what the clients log from WARNING on to the problems."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(logging.WARNING)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.add(f"the log of the clients: {record.levelname} {self.format(record)}")


def perform(args: argparse.Namespace) -> Soak:
    """Run everything; return what was found."""
    with ExitStack() as stack:
        directory = Path(args.logs or stack.enter_context(tempfile.TemporaryDirectory(prefix="pywsapp-soak-")))
        soak = stack.enter_context(running(args, directory))
        handler, logger = _LogOfClients(soak.problems), logging.getLogger("pywsapp")
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
        logger.propagate = False
        anyio.run(soak.run)
        return soak


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="two minutes")
    add("--minutes", type=float, default=60.0, help="default: %(default)s")
    add("--round", type=float, default=150.0, help="seconds of faults in each round (default: %(default)s)")
    add("--rounds", type=int, default=2, help="the least number of rounds (default: %(default)s)")
    add("--broker", choices=BROKERS, default="redis", help="none: the local bus (default: %(default)s)")
    add("--loop", choices=("asyncio", "uvloop", "trio"), default="uvloop", help="default: %(default)s")
    add("--workers", type=int, default=2, help="of each of the two servers (default: %(default)s)")
    add("--scale", type=float, default=1.0, help="more or fewer clients (default: %(default)s)")
    add("--faults", nargs="*", choices=EVERY, default=list(EVERY), help="default: all")
    add("--seed", type=int, default=1, help="seed of all random choices (default: %(default)s)")
    add("--interval", type=float, default=5.0, help="seconds between two rows of each process (default: %(default)s)")
    add("--dev", action="store_true", help="run the servers in Python's development mode")
    add("--csv", type=Path, help="the file for the numbers of all processes")
    add("--logs", help="an existing, empty directory for logs and numbers, which are kept")
    add("--markdown", type=Path, help="write the summary to this file too")
    args = parser.parse_args(words)
    if args.quick:
        args.minutes, args.round, args.interval = 2.0, 20.0, 2.0
    # What the parts of the fault runs read.
    args.topics, args.rate = scaled(3, args), 60.0 * args.scale
    args.listeners, args.publishers, args.guests = (args.topics * count for count in (4, 2, 3))
    args.history, args.delay, args.worker_timeout, args.warm_up = HISTORY_SIZE, 0.005, 30.0, 10.0
    for name in KINDS:
        setattr(args, name, EVERY[name] if name in args.faults else 0.0)
    return args


def scaled(count: int, args: argparse.Namespace) -> int:
    """Return a number of clients for the size of the run, at least one."""
    return max(1, round(count * float(args.scale)))


def main() -> int:
    """Run the program; return its exit status."""
    args = arguments()
    exit_on_sigterm()
    try:
        soak = perform(args)
    except pytest.skip.Exception as exc:
        print(f"soak: {exc}", file=sys.stderr)
        return 2
    text = table(soak)
    print(f"\n{text}")
    if args.markdown is not None:
        args.markdown.write_text(text + "\n")
    return 1 if soak.problems.counts else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
