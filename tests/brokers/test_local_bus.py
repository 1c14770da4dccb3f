"""The local bus: routers and brokers over real socket pairs, on every event loop."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.local_bus import TOPIC, running, until

from pywsapp.testing.broker import BROKER_CHECKS
from pywsapp.testing.broker_peers import Check, Peer
from pywsapp.topics.registry import TopicRegistry

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_the_local_broker_keeps_the_contract(check: Check) -> None:
    async with running() as bus:
        await check(bus.broker)


async def test_two_registries_have_the_same_topics() -> None:
    received: list[str] = []
    event = anyio.Event()

    def receive(topic: Any, message: str) -> None:
        received.append(message)
        event.set()

    async with running() as bus:
        one, two = TopicRegistry(bus.broker()), TopicRegistry(bus.broker())
        two.listeners.add("room:*", receive)
        async with one.running(), two.running():
            await one.topic(TOPIC).broadcast("hello")
            await event.wait()
        assert received == ["hello"]


async def test_two_publishers_at_once_keep_their_order() -> None:
    async with running() as bus:
        listener, one, two = await bus.peer(TOPIC), await bus.peer(), await bus.peer()

        async def publish(peer: Peer, letter: bytes) -> None:
            for start in range(0, 1000, 10):
                await peer.publish(TOPIC, *(letter + b"%d" % number for number in range(start, start + 10)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish, one, b"a")
            tasks.start_soon(publish, two, b"b")
        await until(lambda: len(listener.received) == 2000)
        for letter in (b"a", b"b"):
            found = [data for _, data, _ in listener.received if data.startswith(letter)]
            assert found == [letter + b"%d" % number for number in range(1000)]
