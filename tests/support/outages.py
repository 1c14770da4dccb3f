"""Failures that an App must survive with every broker: a restart, a frozen server, a refused login, a slow reader."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from pywsapp import App, Connection, MessageComponent, Options, Topic
from pywsapp.brokers.base import Broker, Outgoing
from pywsapp.brokers.relay_stats import RelayStats
from pywsapp.exceptions import BrokerUnavailable
from pywsapp.testing.broker_peers import MakeBroker, Peer, unique_topic
from support.services import Service
from support.serving import Client, Serving, serving

#: Seconds after which a test gives up.
TIMEOUT = 30

#: The clients of these tests expect no pings, and a broker can take longer to start than the default interval.
NO_PINGS = Options(ping_interval=None)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds for which there is no event."""
    with anyio.fail_after(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - there is no event
            await anyio.sleep(0.01)


class Room(MessageComponent):
    """A chat room that tells the sender of each message whether the broker has accepted the message."""

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
async def serving_room(broker: Broker) -> AsyncIterator[tuple[App, Serving]]:
    app = App(port=0, broker=broker, options=NO_PINGS)
    app.route("/", Room(app))
    async with serving(app) as server:
        yield app, server


@asynccontextmanager
async def join(server: Serving) -> AsyncIterator[Client]:
    """Connect a client and wait until it is in the room."""
    async with server.client() as client:
        assert await client.message() == "ready"
        yield client


def relay_stats(app: App) -> RelayStats:
    relay = app.topics.relay
    assert relay is not None
    return relay.stats


def connected(*apps: App) -> bool:
    """Return whether all these apps are connected to their broker."""
    return all(app.topics.relay is not None and app.topics.relay.stats.connected for app in apps)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of all loggers at WARNING and above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= 30]


async def check_restart(service: Service, make: MakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    """Check that two apps survive the end of their broker, and reach each other again after its restart."""
    received: list[tuple[str, str | bytes]] = []
    app = App(port=0, broker=make(), options=NO_PINGS)
    app.route("/", Room(app))

    @app.on_broadcast("news:*")
    def listen(topic: Topic, message: str | bytes) -> None:
        received.append((topic.name, message))

    async with (
        serving(app) as server,
        serving_room(make()) as (remote_app, remote_server),
        join(server) as sender,
        join(server) as local_client,
        join(remote_server) as remote_client,
    ):
        await sender.send("1")
        assert await sender.message() == "1 was sent"
        assert [await client.message() for client in (local_client, remote_client)] == ["1", "1"]

        service.kill()
        await until(lambda: not connected(app) and not connected(remote_app))
        await sender.send("2")
        assert await sender.message() == "2 stayed here"
        assert await local_client.message() == "2"
        assert relay_stats(app).failed == 1

        await anyio.to_thread.run_sync(service.start)
        await until(lambda: connected(app, remote_app))
        await sender.send("3")
        assert await sender.message() == "3 was sent"
        assert [await client.message() for client in (local_client, remote_client)] == ["3", "3"]
        await remote_app.topic("news:today").broadcast("rain")
        await until(lambda: received)
        assert received == [("news:today", "rain")]
        assert relay_stats(app).connects >= 2
    assert not any("answer" in line for line in warnings(caplog)[:2]), "they notice the end, not a missing answer"
    assert [line.partition("(")[0] for line in warnings(caplog)[:2]] == [f"{make().name} is unavailable "] * 2
    assert [line.partition(";")[0] for line in warnings(caplog)[2:]] == [f"connected to {make().name} again"] * 2


async def check_freeze(service: Service, make: MakeBroker, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that an app notices a broker that stops answering while its connections stay open."""
    async with serving_room(make()) as (app, server), join(server) as sender, join(server) as local_client:
        service.freeze()
        try:
            await until(lambda: not connected(app))
            assert reason in warnings(caplog)[0]
            await sender.send("1")
            assert await sender.message() == "1 stayed here"
            assert await local_client.message() == "1"
        finally:
            service.thaw()
        await until(lambda: connected(app))
        await sender.send("2")
        assert await sender.message() == "2 was sent"
        assert await local_client.message() == "2"
    assert len(warnings(caplog)) == 2


async def check_refused_login(make: MakeBroker, reason: str, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that an app runs without its broker, logs the reason, and does not log the password."""
    caplog.set_level(0)
    async with serving_room(make()) as (app, server), join(server) as sender, join(server) as local_client:
        assert not connected(app)
        await sender.send("1")
        assert await sender.message() == "1 stayed here"
        assert await local_client.message() == "1"
    assert len(warnings(caplog)) == 1
    assert reason in warnings(caplog)[0]
    assert secret not in caplog.text
    assert secret not in "".join(str(record.__dict__) for record in caplog.records)


async def check_slow_reader(make: MakeBroker, options: dict[str, Any], reason: str) -> None:
    """Check that a connection is lost, with the right reason, when the broker drops messages for a slow reader."""
    topic, peer = unique_topic(), Peer()
    gate, ready = threading.Event(), threading.Event()
    reasons: list[str] = []

    def receive(*_: object) -> None:
        gate.wait(TIMEOUT)

    async def listen() -> None:
        connection = await make().connect(receive, [])
        await connection.subscribe([topic])
        ready.set()
        try:
            with anyio.fail_after(TIMEOUT):
                await connection.wait_lost()
        except BrokerUnavailable as exc:
            reasons.append(str(exc))
        finally:
            await connection.aclose()

    async with anyio.create_task_group() as tasks:
        # `receive` blocks its event loop, so the connection runs in an event loop of its own.
        tasks.start_soon(anyio.to_thread.run_sync, lambda: anyio.run(listen, **options))
        await anyio.to_thread.run_sync(ready.wait, TIMEOUT)
        peer.connection = await make().connect(peer.receive, [])
        for _ in range(4):  # 32 MB, which is more than the buffers on the way hold
            await peer.connection.publish([Outgoing(topic, bytes(16_000))] * 500)
        await peer.connection.aclose()
        gate.set()
    assert len(reasons) == 1
    assert reason in reasons[0]
