"""What an app has to live through, whatever its broker is: killed, frozen, refusing, not read from; on real servers."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from pywsapp import App, Connection, MessageComponent, Topic
from pywsapp.brokers.base import Broker, Outgoing
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.testing.broker import Make, Peer, fresh
from support.services import Service
from support.serving import Client, Serving, serving

GUARD = 30


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(GUARD):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.01)


class Room(MessageComponent):
    """Everybody in it gets what the others say, and whoever says it is told what came of it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def on_open(self, conn: Connection) -> None:
        await self.app.topic("room:1").add(conn)
        conn.send("ready")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        if message == "ping":
            conn.send("pong")
            return
        try:
            await self.app.topic("room:1").broadcast(message, exclude=conn)
        except BrokerUnavailable:
            conn.send(f"{message!s} stayed here")
        else:
            conn.send(f"{message!s} was sent")


@asynccontextmanager
async def room(broker: Broker) -> AsyncIterator[tuple[App, Serving]]:
    app = App(port=0, broker=broker)
    app.route("/", Room(app))
    async with serving(app) as server:
        yield app, server


@asynccontextmanager
async def inside(server: Serving) -> AsyncIterator[Client]:
    async with server.client() as client:
        assert await client.message() == "ready"
        yield client


def connected(*apps: App) -> bool:
    return all(app.topics.relay is not None and app.topics.relay.stats.connected for app in apps)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what was logged by whomever, from a warning on."""
    return [record.getMessage() for record in caplog.records if record.levelno >= 30]


async def is_killed_and_restarted(service: Service, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Hold two apps to it that they outlive their broker, and find each other again."""
    heard: list[tuple[str, str | bytes]] = []
    here = App(port=0, broker=make())
    here.route("/", Room(here))

    @here.on_broadcast("news:*")
    def listen(topic: Topic, message: str | bytes) -> None:
        heard.append((topic.name, message))

    async with (
        serving(here) as server,
        room(make()) as (there, other_server),
        inside(server) as speaker,
        inside(server) as neighbour,
        inside(other_server) as stranger,
    ):
        await speaker.send("1")
        assert await speaker.message() == "1 was sent"
        assert [await client.message() for client in (neighbour, stranger)] == ["1", "1"]

        service.kill()
        with anyio.fail_after(2):  # at once, and not only by what is not answered
            await until(lambda: not connected(here) and not connected(there))
        await speaker.send("2")
        assert await speaker.message() == "2 stayed here"
        assert await neighbour.message() == "2"
        assert here.topics.relay is not None
        assert here.topics.relay.stats.failed == 1

        await anyio.to_thread.run_sync(service.start)
        await until(lambda: connected(here, there))
        await speaker.send("3")
        assert await speaker.message() == "3 was sent"
        assert [await client.message() for client in (neighbour, stranger)] == ["3", "3"]
        await there.topic("news:today").broadcast("rain")
        await until(lambda: heard)
        assert heard == [("news:today", "rain")]
        assert here.topics.relay.stats.connects >= 2
    assert [line.partition("(")[0] for line in warnings(caplog)[:2]] == [f"{make().name} is unavailable "] * 2
    assert [line.partition(";")[0] for line in warnings(caplog)[2:]] == [f"connected to {make().name} again"] * 2


async def freezes_and_thaws(service: Service, make: Make, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Hold an app to it that it misses a broker that says nothing, though its connections stay open."""
    async with room(make()) as (app, server), inside(server) as speaker, inside(server) as neighbour:
        service.freeze()
        try:
            await until(lambda: not connected(app))
            assert reason in warnings(caplog)[0]
            await speaker.send("1")
            assert await speaker.message() == "1 stayed here"
            assert await neighbour.message() == "1"
        finally:
            service.thaw()
        await until(lambda: connected(app))
        await speaker.send("2")
        assert await speaker.message() == "2 was sent"
        assert await neighbour.message() == "2"
    assert len(warnings(caplog)) == 2


async def refuses(make: Make, reason: str, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    """Hold an app to it that it runs without its broker, says why, and shows nobody the password."""
    caplog.set_level(0)
    async with room(make()) as (app, server), inside(server) as speaker, inside(server) as neighbour:
        assert not connected(app)
        await speaker.send("1")
        assert await speaker.message() == "1 stayed here"
        assert await neighbour.message() == "1"
    assert len(warnings(caplog)) == 1
    assert reason in warnings(caplog)[0]
    assert secret not in caplog.text
    assert secret not in "".join(str(record.__dict__) for record in caplog.records)


async def is_not_read_from(make: Make, options: dict[str, Any], reason: str) -> None:
    """Hold a connection to it that it is lost, and says why, when messages are dropped since it is read too slowly."""
    topic, peer = fresh(), Peer()
    gate, ready = threading.Event(), threading.Event()
    why: list[str] = []

    def receive(*_: object) -> None:
        gate.wait(GUARD)

    async def listen() -> None:
        connection = await make().connect(receive, [])
        await connection.subscribe([topic])
        ready.set()
        try:
            with anyio.fail_after(GUARD):
                await connection.wait_lost()
        except BrokerUnavailable as exc:
            why.append(str(exc))
        finally:
            await connection.aclose()

    async with anyio.create_task_group() as tasks:
        # an event loop of its own, that what is received can block
        tasks.start_soon(anyio.to_thread.run_sync, lambda: anyio.run(listen, **options))
        await anyio.to_thread.run_sync(ready.wait, GUARD)
        peer.connection = await make().connect(peer.receive, [])
        for _ in range(4):  # 32 MB, more than the buffers on the way hold
            await peer.connection.publish([Outgoing(topic, bytes(16_000))] * 500)
        await peer.connection.aclose()
        gate.set()
    assert len(why) == 1
    assert reason in why[0]
