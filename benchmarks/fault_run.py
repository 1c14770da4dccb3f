"""A fault run: servers, a broker, clients, and the faults of all three."""

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
from benchmarks.fault_record import TopicRecord

#: The shortest and the longest time that a broker is away or a worker is stopped, in seconds.
AWAY_SECONDS = (0.2, 3.0)
FROZEN_SECONDS = (1.0, 6.0)
#: The run ends after so many seconds without an event. It takes less if every message was delivered.
QUIET_SECONDS = 3.0
QUIET_SECONDS_IF_COMPLETE = 0.5
#: Seconds that listeners have to reconnect after the last fault.
RECONNECT_SECONDS = 60.0
#: Messages of each publisher after the last fault, so that a loss at the end is noticed.
LAST_MESSAGES = 20
#: Seconds that the processes have to agree on the users who are present.
_AGREEMENT_SECONDS = 40.0
_APP = Path(__file__).with_name("fault_app.py")
RoomClient = TypeVar("RoomClient", Listener, Publisher)


class Server:
    """A server program with workers; no fault ends its supervisor.

    Args:
        args: the options of `faults.py`.
        broker: the URL of the broker.
        log: the file for its output.
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
        """Return the process IDs of the workers."""
        return machine.process_tree(self.process.pid)[1:]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in machine.process_tree(self.process.pid):
                send_signal(pid, signal.SIGKILL)
            self.process.wait()


def send_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class FaultRun:
    """Some servers, a broker and their clients, with faults at random moments.

    Args:
        args: the options of `faults.py`.
        servers: the servers, which are running.
        broker: the process of the broker; None for the local bus.
    """

    def __init__(self, args: argparse.Namespace, servers: list[Server], broker: Service | None) -> None:
        self.args = args
        self.servers = servers
        self.broker = broker
        self.rng = random.Random(args.seed)
        self.faults: Counter[str] = Counter()
        self.ports = [server.port for server in servers]
        self.records = {f"room:{number}": TopicRecord() for number in range(args.topics)}
        self.listeners = self._make(Listener, "listener ", args.listeners)
        self.publishers = self._make(Publisher, "p", args.publishers)
        self._faults_are_over = False

    def _make(self, kind: type[RoomClient], name: str, count: int) -> list[RoomClient]:
        topics, history = list(self.records.items()), self.args.broker != "rabbitmq"
        clients = []
        for number in range(count):
            topic, record = topics[number % len(topics)]
            clients.append(kind(f"{name}{number}", topic, self.ports, self._new_rng(), record, history=history))
        return clients

    def _new_rng(self) -> random.Random:
        return random.Random(self.rng.random())

    # -- faults ------------------------------------------------------------------------------------------------------

    async def kill_worker(self) -> None:
        workers = self.rng.choice(self.servers).workers()
        if workers:
            send_signal(self.rng.choice(workers), signal.SIGKILL)

    async def stop_worker(self) -> None:
        workers = self.rng.choice(self.servers).workers()
        if workers:
            pid = self.rng.choice(workers)
            send_signal(pid, signal.SIGSTOP)
            await anyio.sleep(self.rng.uniform(*AWAY_SECONDS))
            send_signal(pid, signal.SIGCONT)

    async def replace_workers(self) -> None:
        send_signal(self.rng.choice(self.servers).process.pid, signal.SIGHUP)

    async def restart_broker(self) -> None:
        assert self.broker is not None
        await anyio.to_thread.run_sync(self.broker.kill)
        await anyio.sleep(self.rng.uniform(*AWAY_SECONDS))
        await anyio.to_thread.run_sync(self.broker.start)

    async def freeze_broker(self) -> None:
        """Suspend the broker for some seconds. The broker of the local bus is the supervisor."""
        supervisor = self.rng.choice(self.servers).process.pid
        self.broker.freeze() if self.broker is not None else send_signal(supervisor, signal.SIGSTOP)
        await anyio.sleep(self.rng.uniform(*FROZEN_SECONDS))
        self.broker.thaw() if self.broker is not None else send_signal(supervisor, signal.SIGCONT)

    async def break_connection(self) -> None:
        self.rng.choice([*self.listeners, *self.publishers]).break_connection()

    async def inject_faults(self) -> None:
        """Inject faults of all kinds for the seconds of the run."""
        args, lock = self.args, anyio.Lock()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, "workers killed", args.kill, self.kill_worker)
            tasks.start_soon(self._repeat, "workers stopped", args.stop, self.stop_worker)
            tasks.start_soon(self._repeat, "replacements of all workers", args.reload, self.replace_workers)
            tasks.start_soon(self._repeat, "connections broken", args.disconnect, self.break_connection)
            tasks.start_soon(self._repeat, "broker frozen", args.freeze, self.freeze_broker, lock)
            if self.broker is not None:
                tasks.start_soon(self._repeat, "broker restarted", args.restart, self.restart_broker, lock)

    async def _repeat(
        self, name: str, every: float, fault: Callable[[], Awaitable[None]], lock: anyio.Lock | None = None
    ) -> None:
        """Inject a fault at random moments, every so many seconds on average (0: never), and wait for its end."""
        end = time.monotonic() + self.args.seconds
        while every and (moment := time.monotonic() + self.rng.expovariate(1 / every)) < end:
            await anyio.sleep(moment - time.monotonic())
            if lock is None:
                await fault()
            else:
                async with lock:
                    await fault()
            self.faults[name] += 1

    # -- messages ----------------------------------------------------------------------------------------------------

    async def run_messages(self) -> None:
        """Publish messages during the faults; return when no more messages arrive."""
        async with anyio.create_task_group() as clients:
            for client in (*self.listeners, *self.publishers):
                clients.start_soon(client.run)
            await self._until_all_are_ready()
            async with anyio.create_task_group() as publishing:
                for publisher in self.publishers:
                    publishing.start_soon(self._publish, publisher)
                await self.inject_faults()
                await self._until_all_are_ready()
                self._faults_are_over = True
            await self._until_quiet()
            for client in (*self.listeners, *self.publishers):
                client.stop()

    async def _publish(self, publisher: Publisher) -> None:
        interval = len(self.publishers) / self.args.rate
        left = LAST_MESSAGES
        while left:
            left -= self._faults_are_over
            due = time.monotonic() + publisher.rng.uniform(0, 2 * interval)
            await publisher.publish()
            await anyio.sleep(max(0.0, due - time.monotonic()))

    async def _until_all_are_ready(self) -> None:
        with anyio.move_on_after(RECONNECT_SECONDS):
            while not all(listener.is_ready for listener in self.listeners):  # noqa: ASYNC110 - all at the same time
                await anyio.sleep(0.05)

    async def _until_quiet(self) -> None:
        """Wait until the listeners have had no event for some time."""
        count, since = -1, 0.0
        while True:
            if count != (now := self._event_count()):
                count, since = now, time.monotonic()
            quiet = time.monotonic() - since
            if quiet >= QUIET_SECONDS or (quiet >= QUIET_SECONDS_IF_COMPLETE and self._is_complete()):
                return
            await anyio.sleep(0.1)

    def _event_count(self) -> int:
        return sum(len(events) for record in self.records.values() for events in record.received.values())

    def _is_complete(self) -> bool:
        return all(record.is_complete() for record in self.records.values())

    # -- presence ----------------------------------------------------------------------------------------------------

    async def run_presence(self) -> list[float]:
        """Kill workers; return how many seconds it took each time until all guests received the correct list."""
        guests = [Guest(f"guest {n}", "lobby:1", self.ports, self._new_rng()) for n in range(self.args.listeners)]
        seconds = []
        async with anyio.create_task_group() as clients:
            for guest in guests:
                clients.start_soon(guest.run)
            await self._seconds_until_agreement(guests)
            end = time.monotonic() + self.args.seconds
            while time.monotonic() < end:
                seconds.append(await self._seconds_after_death(guests))
                for guest in guests:
                    if guest.is_stopped:
                        guest.is_stopped = False
                        clients.start_soon(guest.run)
                seconds.append(await self._seconds_until_agreement(guests))
            for guest in guests:
                guest.stop()
        return seconds

    async def _seconds_after_death(self, guests: list[Guest]) -> float:
        """Kill a worker, and the broker if there is one; half of the worker's guests do not come back."""
        victim = self.rng.choice(guests).worker
        for guest in [guest for guest in guests if guest.worker == victim][::2]:
            guest.is_stopped = True
        began = time.monotonic()
        send_signal(victim, signal.SIGKILL)
        self.faults["workers killed"] += 1
        if self.broker is not None:
            await self.restart_broker()
            self.faults["broker restarted"] += 1
        return await self._seconds_until_agreement(guests, began)

    async def _seconds_until_agreement(self, guests: list[Guest], began: float | None = None) -> float:
        began = began or time.monotonic()
        while time.monotonic() - began < _AGREEMENT_SECONDS:
            for guest in guests:
                if guest.conn is not None:
                    guest.present = None
                    guest.send_command(list=True)
            await anyio.sleep(0.25)
            expected = sorted(guest.name for guest in guests if not guest.is_stopped)
            if all(guest.present == expected for guest in guests if not guest.is_stopped):
                break
        return time.monotonic() - began
