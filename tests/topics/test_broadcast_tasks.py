"""What `Topic.broadcast` and `Topic.add` return: coroutines for tasks, which end with the app at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD, TEXT, frame
from support.waiting import until_blocked
from support.wire import peer_of, running

from pywsapp import App, Connection, MessageComponent
from pywsapp._event_loop import on_asyncio
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.topics import registry
from pywsapp.topics.presence.events import ALIVE_TOPIC

pytestmark = pytest.mark.anyio


def make_app(broker: MemoryBroker | None) -> tuple[App, list[str]]:
    app = App("*", 0, broker=broker)
    seen: list[str] = []
    app.history("kept:*")
    app.on_broadcast("*")(lambda topic, message: seen.append(message))
    return app, seen


@pytest.mark.parametrize("name", ["room:1", "kept:1"])
@pytest.mark.parametrize("has_broker", [False, True], ids=["no broker", "broker"])
async def test_a_broadcast_is_a_coroutine(name: str, has_broker: bool) -> None:
    app, seen = make_app(MemoryBroker() if has_broker else None)
    async with running(app):
        topic = app.topic(name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(topic.broadcast, "in a task group")
        if on_asyncio():
            await asyncio.create_task(topic.broadcast("in a task"))
            await asyncio.gather(topic.broadcast("one"), topic.broadcast("two"))
        dropped = topic.broadcast("not awaited")
        del dropped
        await topic.broadcast("last")
        with anyio.fail_after(GUARD):
            while "last" not in seen:
                await anyio.lowlevel.checkpoint()
    assert seen[0] == "in a task group"


async def test_a_waiting_broadcast_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FLUSH_SECONDS", 0.01)

    class Hanging(MemoryConnection):
        async def publish(self, messages: Any) -> None:
            await anyio.sleep_forever()

    class HangingBroker(MemoryBroker):
        async def connect(self, *arguments: Any) -> MemoryConnection:
            return Hanging(self, arguments[0], ())

    app, _ = make_app(HangingBroker())
    async with running(app), anyio.create_task_group() as tasks:
        tasks.start_soon(app.topic("room:1").broadcast, "x")
        await until_blocked()
        tasks.cancel_scope.cancel()


class Joins(MessageComponent):
    def __init__(self) -> None:
        self.conns: list[Connection] = []

    def on_message(self, conn: Connection, message: Any) -> None:
        self.conns.append(conn)
        conn.send("seen")


class SilentConnection(MemoryConnection):
    """Never answers a subscription of a topic, and never returns a history."""

    async def subscribe(self, topics: Sequence[str]) -> None:
        if topics != [ALIVE_TOPIC]:
            await anyio.sleep_forever()

    async def read_history(self, topic: str, since: Any, max_bytes: int | None = None) -> Any:
        await anyio.sleep_forever()


class SilentBroker(MemoryBroker):
    async def connect(self, *arguments: Any) -> MemoryConnection:
        return SilentConnection(self, arguments[0], ())


@pytest.mark.parametrize("name", ["room:1", "kept:1", "present:1"])
async def test_a_subscription_that_waits_ends_with_the_app(name: str) -> None:
    app, component = App("*", 0, broker=SilentBroker()), Joins()
    app.history("kept:*")
    app.on_presence("present:*")(lambda topic, diff: None)
    app.route("/", component)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as outside, running(app), peer_of(app) as peer:
            await peer.open(trailing=frame(TEXT))
            await peer.frame()
            waiting = app.topic(name).add(component.conns[0])
            outside.start_soon(_await, waiting)
            await until_blocked()


async def _await(awaitable: Any) -> None:
    await awaitable
