"""A fault run: servers, a broker and clients, and what happens to them."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from support.services import Service, free_port

from benchmarks import machine
from benchmarks.fault_clients import Guest, Listener, Publisher
from benchmarks.ledger import Ledger

#: Seconds that a broker or a worker stays away.
AWAY_SECONDS = (0.2, 3.0)
FROZEN_SECONDS = (1.0, 6.0)
#: Seconds without anything new until it is quiet, and until everybody has to be back before that.
QUIET_SECONDS = 3.0
CALM_SECONDS = 60.0
#: What is said last, that a gap at the end is seen.
LAST_WORDS = 20
#: Seconds until who is there is no longer waited for.
_GIVE_UP_SECONDS = 40.0
_APP = Path(__file__).with_name("fault_app.py")
Speaker = TypeVar("Speaker", Listener, Publisher)


class Server:
    """A program with workers, whose supervisor outlives all that happens here.

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
                [sys.executable, str(_APP), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(_APP.parent.parent / "src")},
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
        self.listeners = self._make(Listener, "listener ", args.listeners)
        self.publishers = self._make(Publisher, "p", args.publishers)
        self._done = False

    def _make(self, kind: type[Speaker], name: str, count: int) -> list[Speaker]:
        topics, history = list(self.ledgers.items()), self.args.broker != "rabbitmq"
        made = []
        for number in range(count):
            topic, ledger = topics[number % len(topics)]
            made.append(kind(f"{name}{number}", topic, self.ports, self._another(), ledger, history=history))
        return made

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
        """Stop it for a while; of the local bus that is the supervisor."""
        supervisor = self.dice.choice(self.servers).process.pid
        self.broker.freeze() if self.broker is not None else hit(supervisor, signal.SIGSTOP)
        await anyio.sleep(self.dice.uniform(*FROZEN_SECONDS))
        self.broker.thaw() if self.broker is not None else hit(supervisor, signal.SIGCONT)

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
            tasks.start_soon(self._repeat, "broker frozen", args.freeze, self.freeze_broker, lock)
            if self.broker is not None:
                tasks.start_soon(self._repeat, "broker restarted", args.restart, self.restart_broker, lock)

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
            while not all(listener.ready for listener in self.listeners):  # noqa: ASYNC110 - to be so all at once
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
                seconds.append(await self._seconds_after_death(guests))
                for guest in guests:
                    if guest.stopped:
                        guest.stopped = False
                        clients.start_soon(guest.run)
                seconds.append(await self._seconds_until_known(guests))
            for guest in guests:
                guest.stop()
        return seconds

    async def _seconds_after_death(self, guests: list[Guest]) -> float:
        """Kill a worker, and the broker if there is one; half of the guests who were there do not come back."""
        victim = self.dice.choice(guests).worker
        for guest in [guest for guest in guests if guest.worker == victim][::2]:
            guest.stopped = True
        began = time.monotonic()
        hit(victim, signal.SIGKILL)
        self.faults["workers killed"] += 1
        if self.broker is not None:
            await self.restart_broker()
            self.faults["broker restarted"] += 1
        return await self._seconds_until_known(guests, began)

    async def _seconds_until_known(self, guests: list[Guest], began: float | None = None) -> float:
        began = began or time.monotonic()
        while time.monotonic() - began < _GIVE_UP_SECONDS:
            there = [guest for guest in guests if guest.conn is not None]
            for guest in there:
                guest.view = None
                guest.ask(who=True)
            await anyio.sleep(0.25)
            truth = sorted(guest.name for guest in guests if not guest.stopped)
            if all(guest.view == truth for guest in guests if not guest.stopped):
                break
        return time.monotonic() - began
