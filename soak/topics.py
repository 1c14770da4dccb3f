"""Visits that subscribe to many topics; presence, whose users come and leave."""

from __future__ import annotations

import json
from itertools import count

import anyio
from benchmarks.fault_clients import Guest
from benchmarks.fault_run import GIVE_UP_SECONDS, FaultRun

from pywsapp import ClientConnection
from soak.world import Kind, Violation, Visitor, World, check, check_left

_TOPICS, _AT_ONCE = 300, 60
_STEPS = 4
#: Seconds between two guests that come or leave.
_GUEST_SECONDS = 1.0


class _Subscriber:
    """One connection that subscribes to many topics, and checks every message."""

    def __init__(self, conn: ClientConnection, visitor: Visitor) -> None:
        self._conn = conn
        self._name = visitor.new_name()
        self._numbers = count(1)
        self._seen: set[tuple[str, str]] = set()
        self._own: list[tuple[str, str]] = []
        self.held: set[str] = set()

    async def subscribe(self, topics: list[str]) -> None:
        self.held.update(topics)
        await self._command(topics, subscribe=True)

    async def unsubscribe(self, topics: list[str]) -> None:
        await self._command(topics, subscribe=False)
        self.held.difference_update(topics)

    async def publish(self, topics: list[str]) -> None:
        """Publish on topics; what is published on own topics comes back once, in order."""
        text = f"{self._name} {next(self._numbers)}"
        self._own.clear()
        self._conn.send(json.dumps({"topics": topics, "text": text}))
        await self._command([], subscribe=True)
        expected = [(topic, text) for topic in topics if topic in self.held]
        check(self._own == expected, f"{len(expected)} own messages were expected, and {len(self._own)} came")

    async def _command(self, topics: list[str], *, subscribe: bool) -> None:
        number = next(self._numbers)
        self._conn.send(json.dumps({"topics": topics, "subscribe": subscribe, "number": number}))
        while True:
            answer = json.loads(await self._conn.receive())
            if isinstance(answer, dict) and "broker_connected" in answer:  # what the server reports without a history
                continue
            if isinstance(answer, dict):
                check(answer == {"done": number}, f"the answer is {answer}")
                return
            self._note(answer[0], answer[1])

    def _note(self, topic: str, text: str) -> None:
        check(topic in self.held, "a message came on a topic that the client does not have")
        if (topic, text) in self._seen:
            raise Violation("a message came twice")
        self._seen.add((topic, text))
        if text.startswith(self._name):
            self._own.append((topic, text))


async def many(visitor: Visitor) -> None:
    """Subscribe to many topics, publish on some, and unsubscribe from some."""
    rng = visitor.rng
    async with visitor.open("many") as conn:
        subscriber = _Subscriber(conn, visitor)
        for _ in range(_STEPS):
            await subscriber.subscribe([f"many:{n}" for n in rng.sample(range(_TOPICS), rng.randint(1, _AT_ONCE // 2))])
            await subscriber.publish([f"many:{n}" for n in rng.sample(range(_TOPICS), 20)])
            await subscriber.publish(rng.sample(sorted(subscriber.held), 1))
            await subscriber.unsubscribe(rng.sample(sorted(subscriber.held), len(subscriber.held) // 2))
            await anyio.sleep(rng.uniform(0, 0.5))
    check_left(conn.close_code)


class Lobby:
    """A topic with presence, whose guests come and leave during a round.

    Args:
        run: the fault run, with the servers.
        world: what the visitors share.
        topic: the name of the topic.
    """

    def __init__(self, run: FaultRun, world: World, topic: str) -> None:
        self._run = run
        self._world = world
        self.guests = [Guest(f"guest {number}", topic, run.urls, run.new_rng()) for number in range(world.args.guests)]
        self.is_over = False
        self._connected: set[Guest] = set()  # whose task runs, at least

    async def run(self) -> None:
        """Let guests come and leave until `is_over`; check at the end that each guest sees exactly those present."""
        rng = self._run.new_rng()
        async with anyio.create_task_group() as tasks:
            for guest in self.guests:
                tasks.start_soon(self._connect, guest)
            while not self.is_over:
                await anyio.sleep(rng.uniform(0, 2 * _GUEST_SECONDS))
                guest = rng.choice(self.guests)
                if guest.is_stopped and guest not in self._connected:
                    guest.is_stopped = False
                    tasks.start_soon(self._connect, guest)
                elif sum(not each.is_stopped for each in self.guests) > 2:
                    guest.stop()
                    self._world.counts["presence changes"] += 1
            await self._check()
            for guest in self.guests:
                guest.stop()

    async def _connect(self, guest: Guest) -> None:
        self._connected.add(guest)
        await guest.run()
        self._connected.discard(guest)

    async def _check(self) -> None:
        seconds = await self._run.seconds_until_agreement(self.guests)
        if seconds >= GIVE_UP_SECONDS:
            present = sorted(guest.name for guest in self.guests if not guest.is_stopped)
            wrong = next((g for g in self.guests if not g.is_stopped and g.present != present), None)
            self._world.problems.add(
                f"presence: after {seconds:.0f} s a guest sees {wrong and wrong.present}, and present are {present}"
            )


KINDS = (Kind("many topics", 6, 0.5, many),)
