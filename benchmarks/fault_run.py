"""A fault run: clients that publish and receive messages, or are present, while faults are injected."""

from __future__ import annotations

import argparse
import random
import time
from typing import TypeVar

import anyio
import anyio.to_thread

from benchmarks.fault_clients import Guest, Listener, Publisher
from benchmarks.fault_kinds import Faults
from benchmarks.fault_record import TopicRecord
from benchmarks.fault_servers import Setup, keeps_history

#: The run ends after so many seconds without an event. It takes less if every message was delivered.
QUIET_SECONDS = 3.0
QUIET_SECONDS_IF_COMPLETE = 0.5
#: Seconds that listeners have to reconnect after the last fault.
RECONNECT_SECONDS = 60.0
#: Messages of each publisher after the last fault, so that a loss at the end is noticed.
LAST_MESSAGES = 20
#: Seconds that the processes have to agree on the users who are present.
GIVE_UP_SECONDS = 40.0
RoomClient = TypeVar("RoomClient", Listener, Publisher)


class FaultRun:
    """Clients of some servers, with faults at random moments.

    Args:
        args: the options of `faults.py`.
        setup: the servers and the broker.
        path: the path of the commands on the servers, without the first slash.
        room: the beginning of the names of the topics.
    """

    def __init__(self, args: argparse.Namespace, setup: Setup, *, path: str = "", room: str = "room") -> None:
        self.args = args
        self.setup = setup
        self.rng = random.Random(args.seed)
        self.urls = [server.url + path for server in setup.servers]
        self.records = {f"{room}:{number}": TopicRecord() for number in range(args.topics)}
        self.listeners = self._make(Listener, "listener ", args.listeners)
        self.publishers = self._make(Publisher, "p", args.publishers)
        clients = [*self.listeners, *self.publishers]
        self.faults = Faults(args, setup, clients, self._count_accepted, self.new_rng())
        self._faults_are_over = False

    def _make(self, kind: type[RoomClient], name: str, count: int) -> list[RoomClient]:
        topics, history = list(self.records.items()), keeps_history(self.args)
        clients = []
        for number in range(count):
            topic, record = topics[number % len(topics)]
            clients.append(kind(f"{name}{number}", topic, self.urls, self.new_rng(), record, history=history))
        return clients

    def _count_accepted(self) -> int:
        return sum(len(record.accepted) for record in self.records.values())

    def new_rng(self) -> random.Random:
        """Return a source of random choices that depends on the seed."""
        return random.Random(self.rng.random())

    async def run(self) -> list[float]:
        """Run the test that the options select, then stop the servers; return the times of `run_presence`."""
        seconds: list[float] = []
        async with anyio.create_task_group() as proxies:
            for proxy in self.setup.proxies:
                proxies.start_soon(proxy.run)
            if self.args.presence:
                seconds = await self.run_presence()
            else:
                await self.run_messages()
            for server in self.setup.servers:
                await anyio.to_thread.run_sync(server.stop)
            proxies.cancel_scope.cancel()
        return seconds

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
                await self.disturb()
                await self._until_all_are_ready()
                self._faults_are_over = True
            await self._until_quiet()
            for client in (*self.listeners, *self.publishers):
                client.stop()

    async def disturb(self) -> None:
        """Inject the faults, while messages are published."""
        await self.faults.inject()

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
        guests = [Guest(f"guest {n}", "lobby:1", self.urls, self.new_rng()) for n in range(self.args.listeners)]
        seconds = []
        async with anyio.create_task_group() as clients:
            for guest in guests:
                clients.start_soon(guest.run)
            await self.seconds_until_agreement(guests)
            end = time.monotonic() + self.args.seconds
            while time.monotonic() < end:
                seconds.append(await self._seconds_after_death(guests))
                for guest in guests:
                    if guest.is_stopped:
                        guest.is_stopped = False
                        clients.start_soon(guest.run)
                seconds.append(await self.seconds_until_agreement(guests))
            for guest in guests:
                guest.stop()
        return seconds

    async def _seconds_after_death(self, guests: list[Guest]) -> float:
        """Kill a worker, and the broker if there is one; half of the worker's guests do not come back."""
        victim = self.rng.choice(guests).worker
        for guest in [guest for guest in guests if guest.worker == victim][::2]:
            guest.is_stopped = True
        began = time.monotonic()
        await self.faults.kill_worker(victim)
        if self.setup.broker is not None:
            await self.faults.restart_broker()
        return await self.seconds_until_agreement(guests, began)

    async def seconds_until_agreement(self, guests: list[Guest], began: float | None = None) -> float:
        """Return how many seconds it takes until all guests receive the correct list of who is present.

        Args:
            guests: the guests; those that are stopped are not present.
            began: the start, in seconds of the monotonic clock; now by default.
        """
        began = began or time.monotonic()
        while time.monotonic() - began < GIVE_UP_SECONDS:
            for guest in guests:
                if guest.conn is not None:
                    guest.present = None
                    guest.send_command(list=True)
            await anyio.sleep(0.25)
            expected = sorted(guest.name for guest in guests if not guest.is_stopped)
            if all(guest.present == expected for guest in guests if not guest.is_stopped):
                break
        return time.monotonic() - began
