#!/usr/bin/env python3
"""Hurt servers for a while, and count what was sent, delivered, missing and doubled.

    faults.py                                           one server with 4 workers and the local bus
    faults.py --broker redis --servers 2 --workers 2    two servers with a Redis between them that loses nothing
    faults.py --broker redis-volatile --servers 2 --workers 2
    faults.py --broker rabbitmq --servers 2 --workers 2
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
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Started as a program, only this file's folder is on the path.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from services import Service, free_port, rabbitmq_server, redis_server

from benchmarks import machine
from benchmarks.fault_clients import Guest, Listener, Publisher
from benchmarks.ledger import Counts, Ledger

#: Seconds that a broker or a worker stays away.
AWAY_SECONDS = (0.2, 3.0)
FROZEN_SECONDS = (1.0, 6.0)
#: Seconds without anything new until it is quiet, and until everybody has to be back before that.
QUIET_SECONDS = 5.0
CALM_SECONDS = 60.0
#: What is said last, that a gap at the end is seen.
LAST_WORDS = 20
#: Seconds in which everybody has to know who is there: the lease, and a little.
LEASE_SECONDS = 15.0
CONVERGE_SECONDS = LEASE_SECONDS + 3.0
BROKERS = ("none", "redis", "redis-volatile", "rabbitmq")


class Server:
    """A program with workers, started anew on the same port never: its supervisor outlives all that happens here.

    Args:
        args: of this program.
        broker: the broker's URL.
        log: where its output goes.
    """

    def __init__(self, args: argparse.Namespace, broker: str | None, log: Path) -> None:
        self.port = free_port()
        self.log = log
        history = args.history if args.broker != "rabbitmq" else 0
        command = f"--port {self.port} --workers {args.workers} --loop {args.loop} --history {history}".split()
        if broker is not None:
            command += ["--broker", broker]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "benchmarks" / "fault_app.py"), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            )

    def workers(self) -> list[int]:
        """Give the process IDs of its workers."""
        return machine.process_tree(self.process.pid)[1:]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in machine.process_tree(self.process.pid):
                hit(pid, signal.SIGKILL)
            self.process.wait()


def hit(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Run:
    """A number of servers, a broker, and what happens to them.

    Args:
        args: of this program.
        servers: which there are.
        broker: the process of the broker, or None.
    """

    def __init__(self, args: argparse.Namespace, servers: list[Server], broker: Service | None) -> None:
        self.args = args
        self.servers = servers
        self.broker = broker
        self.dice = random.Random(args.seed)
        self.faults: Counter[str] = Counter()
        self.ports = [server.port for server in servers]
        self.ledgers = {f"room:{number}": Ledger() for number in range(args.topics)}
        topics = list(self.ledgers)
        history = args.broker != "rabbitmq"
        self.listeners = [
            Listener(f"listener {n}", t := topics[n % len(topics)], self.ports, self._another(), self.ledgers[t], history=history)
            for n in range(args.listeners)
        ]
        self.publishers = [
            Publisher(f"p{n}", t := topics[n % len(topics)], self.ports, self._another(), self.ledgers[t], time.monotonic)
            for n in range(args.publishers)
        ]
        self._done = False

    def _another(self) -> random.Random:
        return random.Random(self.dice.random())

    # -- faults ------------------------------------------------------------------------------------------------------

    async def kill_worker(self) -> None:
        workers = self.dice.choice(self.servers).workers()
        if workers:
            hit(self.dice.choice(workers), signal.SIGKILL)

    async def stall_worker(self) -> None:
        workers = self.dice.choice(self.servers).workers()
        if workers:
            pid = self.dice.choice(workers)
            hit(pid, signal.SIGSTOP)
            await anyio.sleep(self.dice.uniform(*AWAY_SECONDS))
            hit(pid, signal.SIGCONT)

    async def replace_workers(self) -> None:
        hit(self.dice.choice(self.servers).process.pid, signal.SIGHUP)

    async def restart_broker(self) -> None:
        assert self.broker is not None
        await anyio.to_thread.run_sync(self.broker.kill)
        await anyio.sleep(self.dice.uniform(*AWAY_SECONDS))
        await anyio.to_thread.run_sync(self.broker.start)

    async def freeze_broker(self) -> None:
        assert self.broker is not None
        self.broker.freeze()
        await anyio.sleep(self.dice.uniform(*FROZEN_SECONDS))
        self.broker.thaw()

    async def break_connection(self) -> None:
        self.dice.choice([*self.listeners, *self.publishers]).leave()

    async def hurt(self) -> None:
        """Let it all happen for as long as was asked for."""
        args, lock = self.args, anyio.Lock()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, "workers killed", args.kill, self.kill_worker)
            tasks.start_soon(self._repeat, "workers stalled", args.stall, self.stall_worker)
            tasks.start_soon(self._repeat, "workers replaced", args.reload, self.replace_workers)
            tasks.start_soon(self._repeat, "connections broken", args.leave, self.break_connection)
            if self.broker is not None:
                tasks.start_soon(self._repeat, "broker restarted", args.restart, self.restart_broker, lock)
                tasks.start_soon(self._repeat, "broker frozen", args.freeze, self.freeze_broker, lock)

    async def _repeat(
        self, name: str, every: float, fault: Callable[[], Awaitable[None]], alone: anyio.Lock | None = None
    ) -> None:
        """Do it at random moments, and never leave it half done; 0 for never."""
        end = time.monotonic() + self.args.seconds
        while every and (moment := time.monotonic() + self.dice.expovariate(1 / every)) < end:
            await anyio.sleep(moment - time.monotonic())
            if alone is None:
                await fault()
            else:
                async with alone:
                    await fault()
            self.faults[name] += 1

    # -- messages ----------------------------------------------------------------------------------------------------

    async def messages(self) -> None:
        """Publish meanwhile, and return when it is quiet."""
        async with anyio.create_task_group() as clients:
            for client in (*self.listeners, *self.publishers):
                clients.start_soon(client.run)
            await self._until_all_listen()
            async with anyio.create_task_group() as saying:
                for publisher in self.publishers:
                    saying.start_soon(self._say, publisher)
                await self.hurt()
                await self._until_all_listen()
                self._done = True
            await self._until_quiet()
            for client in (*self.listeners, *self.publishers):
                client.stop()

    async def _say(self, publisher: Publisher) -> None:
        pace = len(self.publishers) / self.args.rate
        left = LAST_WORDS
        while left:
            left -= self._done
            due = time.monotonic() + publisher.dice.uniform(0, 2 * pace)
            await publisher.say()
            await anyio.sleep(max(0.0, due - time.monotonic()))

    async def _until_all_listen(self) -> None:
        with anyio.move_on_after(CALM_SECONDS):
            while not all(listener.ready for listener in self.listeners):
                await anyio.sleep(0.05)

    async def _until_quiet(self) -> None:
        """Wait until nobody has been told anything for some time."""
        came, since = -1, 0.0
        while came != (now := self._came()) or time.monotonic() - since < QUIET_SECONDS:
            if came != now:
                came, since = now, time.monotonic()
            await anyio.sleep(0.1)

    def _came(self) -> int:
        return sum(len(events) for ledger in self.ledgers.values() for events in ledger.heard.values())

    # -- presence ----------------------------------------------------------------------------------------------------

    async def presence(self) -> list[float]:
        """Kill workers, and give how many seconds it took each time until everybody knew who was there."""
        guests = [Guest(f"guest {n}", "lobby:1", self.ports, self._another()) for n in range(self.args.listeners)]
        seconds = []
        async with anyio.create_task_group() as clients:
            for guest in guests:
                clients.start_soon(guest.run)
            await self._seconds_until_known(guests)
            end = time.monotonic() + self.args.seconds
            while time.monotonic() < end:
                gone = self._another().sample(guests, len(guests) // 8)
                for guest in gone:
                    guest.stopped = True  # it does not come back when its worker is killed
                for _ in range(self.args.workers // 2):
                    await self.kill_worker()
                    self.faults["workers killed"] += 1
                if self.broker is not None:
                    await self.restart_broker()
                    self.faults["broker restarted"] += 1
                for guest in gone:
                    guest.stopped = guest.conn is None
                seconds.append(await self._seconds_until_known(guests))
                for guest in guests:
                    if guest.stopped:
                        guest.stopped = False
                        clients.start_soon(guest.run)
                seconds.append(await self._seconds_until_known(guests))
            for guest in guests:
                guest.stop()
        return seconds

    async def _seconds_until_known(self, guests: list[Guest]) -> float:
        began = time.monotonic()
        while time.monotonic() - began < 2 * CONVERGE_SECONDS:
            there = [guest for guest in guests if guest.conn is not None]
            for guest in there:
                guest.view = None
                guest.ask(who=True)
            await anyio.sleep(0.25)
            truth = sorted(guest.name for guest in guests if not guest.stopped)
            if all(guest.view == truth for guest in guests if not guest.stopped):
                break
        return time.monotonic() - began


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
    lossless = args.broker in ("none", "redis")
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
    add("--history", type=int, default=20_000, help="messages that a topic keeps (default: %(default)s)")
    add("--seed", type=int, default=1, help="of what happens when (default: %(default)s)")
    for name, seconds, what in (
        ("--kill", 3.0, "a worker is killed"),
        ("--stall", 7.0, "a worker is stopped"),
        ("--reload", 15.0, "a server replaces its workers"),
        ("--restart", 12.0, "the broker is killed and started again"),
        ("--freeze", 20.0, "the broker is frozen"),
        ("--leave", 0.3, "a client breaks its connection"),
    ):
        add(name, type=float, default=seconds, help=f"seconds on average until {what}; 0: never (default: %(default)s)")
    add("--logs", help="an existing folder for the servers' logs")
    add("--out", type=Path, help="write it all into this JSON file")
    return parser.parse_args(words)


def main() -> int:
    args = arguments()
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
