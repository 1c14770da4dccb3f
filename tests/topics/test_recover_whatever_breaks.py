"""While readers, connections and the broker fail at random, every reader gets every message once and in order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from support.serving import GUARD
from support.topic_bench import Bench
from support.topic_rooms import Recovering, recover, running, take

from pywsapp.brokers.base import Position, Receive
from pywsapp.brokers.memory import MemoryConnection

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]


class Lossy(Bench):
    """A broker whose pub/sub loses messages silently."""

    def __init__(self, generator: random.Random) -> None:
        super().__init__()
        self.generator = generator
        self.losing = True

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        def receive_some(topic: str, data: bytes, position: Position | None) -> None:
            if not self.losing or self.generator.random() > 0.1:
                receive(topic, data, position)

        return await super().connect(receive_some, patterns)


MESSAGES = 150


class Reader:
    """A client that disconnects and comes back, and checks that it gets every message once."""

    def __init__(self, rooms: list[Recovering], generator: random.Random) -> None:
        self.rooms = rooms
        self.generator = generator
        self.position = "new"
        self.seen: list[str] = []
        self.visits = 0

    def take(self, message: dict[str, Any]) -> None:
        assert "lost" not in message
        if "message" not in message:
            assert message.get("recovered", True), message
            if self.position == "new":
                self.position = message["position"]
            return
        before, _, epoch = self.position.partition("-")
        assert message["position"] == f"{int(before) + 1}-{epoch}", "missed, or seen twice"
        self.position = message["position"]
        self.seen.append(message["message"])

    async def visit(self) -> None:
        """Connect for a while."""
        self.visits += 1
        app = self.generator.choice(self.rooms)
        async with app.server.client() as client:
            await client.send(self.position)
            for _ in range(self.generator.randint(1, 40)):
                (message,) = await take(client)
                if "error" in message:
                    return
                self.take(message)
                if len(self.seen) == MESSAGES:
                    return

    async def run(self) -> None:
        while len(self.seen) < MESSAGES:
            await self.visit()


async def publish(one: Recovering, name: str, generator: random.Random) -> None:
    for number in range(MESSAGES // 2 - 1):
        acknowledgement = one.topic().broadcast(f"{name} {number}")
        if generator.random() < 0.3:
            await acknowledgement
        await anyio.sleep(generator.random() * 0.004)


async def break_things(broker: Bench, generator: random.Random) -> None:
    for _ in range(6):
        await anyio.sleep(generator.random() * 0.05)
        broker.available = generator.random() < 0.5
        broker.disconnect()
        await anyio.sleep(generator.random() * 0.02)
        broker.available = True


@pytest.mark.parametrize("seed", range(3))
async def test_readers_get_every_message_once_and_in_order(seed: int) -> None:
    generator = random.Random(seed)
    broker = Lossy(generator)
    rooms = [Recovering(broker, size=1000) for _ in range(2)]
    readers = [Reader(rooms, generator) for _ in range(4)]
    async with running(*rooms), anyio.create_task_group() as tasks:
        for reader in readers:
            async with rooms[0].server.client() as client:
                reader.take((await recover(client))[1])
            tasks.start_soon(reader.run)
        async with anyio.create_task_group() as work:
            work.start_soon(break_things, broker, generator)
            for one, name in zip(rooms, "ab", strict=True):
                work.start_soon(publish, one, name, generator)
        broker.losing = False
        for one in rooms:
            with anyio.fail_after(GUARD):
                await one.topic().broadcast("the end")
    check(readers)


def check(readers: list[Reader]) -> None:
    wanted = {f"{name} {number}" for name in "ab" for number in range(MESSAGES // 2 - 1)} | {"the end"}
    for reader in readers:
        assert set(reader.seen) == wanted
        assert reader.seen == readers[0].seen, "all see the same"
        for name in "ab":
            numbers = [int(message[2:]) for message in reader.seen if message[:2] == f"{name} "]
            assert numbers == list(range(MESSAGES // 2 - 1)), "the order of a publisher is kept"
        assert reader.visits > 1
