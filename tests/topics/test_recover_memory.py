"""Recovering takes memory in proportion to what a client reads, not to what a history keeps."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.local_bus import running as bus_running
from support.serving import GUARD
from support.topic_bench import Bench, until
from support.topic_rooms import Recovering, recover, running, take
from support.waiting import until_blocked

from pywsapp import Connection, Options, SlowConsumer
from pywsapp.brokers.base import MIB, Broker, Position
from pywsapp.brokers.memory import MemoryConnection
from pywsapp.topics.delivery import RECOVERING
from pywsapp.topics.history.rules import Publication, wrap_as_json

pytestmark = pytest.mark.anyio

KIB = 1024


@asynccontextmanager
async def carried(carrier: str) -> AsyncIterator[Broker | None]:
    """Yield the broker of an app."""
    if carrier == "bus":
        async with bus_running() as bus:
            yield bus.broker()
    else:
        yield Bench() if carrier == "broker" else None


class Wrapping:
    """A `wrap` that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, publication: Publication) -> str | dict[str, object]:
        self.calls += 1
        return wrap_as_json(publication)


@pytest.mark.parametrize("carrier", ["alone", "broker", "bus"])
async def test_clients_that_do_not_read_hold_no_more_than_their_outboxes(carrier: str) -> None:
    wrap = Wrapping()
    async with carried(carrier) as broker:
        rooms = Recovering(broker, size=100, wrap=wrap, max_bytes=20 * MIB)
        async with running(rooms) as clients, anyio.create_task_group() as tasks:
            for _ in range(100):
                await rooms.topic().broadcast("x" * 128 * KIB)
            conns: list[Connection] = [(await rooms.connect(clients, None))[1] for _ in range(10)]
            gc.collect()
            tracemalloc.start()
            for conn in conns:
                tasks.start_soon(rooms.topic().recover, conn, None)
            await until(lambda: all(conn.buffered > conn._outbox.high_water for conn in conns))
            for number in range(100):  # nothing that they have not read yet is kept for them
                await rooms.topic().broadcast(f"{number} " + "y" * 128 * KIB)
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            tasks.cancel_scope.cancel()
        # The history is 12.5 MiB; a client has at most a page, a message and its outbox. The kernel has the rest.
        assert used < 12.5 * MIB + len(conns) * MIB
        assert wrap.calls < 60 * len(conns), "what was not sent was not wrapped either"


@pytest.mark.parametrize("carrier", ["alone", "broker"])
async def test_a_message_without_a_receiver_is_not_wrapped(carrier: str) -> None:
    wrap = Wrapping()
    async with carried(carrier) as broker:
        rooms = Recovering(broker, wrap=wrap)
        async with running(rooms) as clients:
            (client, conn), (_, other) = await rooms.connect(clients), await rooms.connect(clients)
            subscribers = rooms.topic()._subscribers
            subscribers[conn] = subscribers[other] = RECOVERING  # both get it from the history later
            await rooms.topic().broadcast("a")
            await until_blocked()
            assert wrap.calls == 0
            subscribers[conn] = None
            await rooms.topic().broadcast("b")
            assert [one["message"] for one in await take(client)] == ["b"]
            assert wrap.calls == 1


@pytest.mark.parametrize("policy", SlowConsumer)
async def test_large_messages_do_not_overflow_the_outbox(policy: SlowConsumer) -> None:
    options = Options(max_outbox=256 * KIB, slow_consumer=policy)
    rooms = Recovering(Bench(), size=50, max_bytes=100 * MIB, options=options)
    async with running(rooms) as clients:
        for number in range(50):
            await rooms.topic().broadcast(f"{number} " + "x" * (200 * KIB if number % 5 else 20 * KIB))
        client, conn = await rooms.connect(clients, None)
        await client.send("new")
        await until(lambda: conn.buffered > 64 * KIB)
        conn.send('{"message": "in between"}')
        got = await take(client, 52)
        numbers = [int(one["message"].split()[0]) for one in got if one.get("message", "in")[:2] != "in"]
        assert numbers == list(range(50)), "all arrive, in order"
        assert got[-1]["recovered"] is True
        assert conn.is_open


async def test_other_messages_that_fill_the_outbox_meanwhile_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = Recovering(Bench(), max_bytes=10 * MIB, options=Options(max_outbox=256 * KIB))
    flooded: list[Connection] = []

    async def read(connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int) -> Any:
        kept = await original(connection, topic, since, max_bytes)
        if flooded and since is not None:
            conn = flooded.pop()
            while conn.buffered < 300 * KIB:
                conn.send('{"message": "%s"}' % ("f" * 20 * KIB))
        return kept

    original = MemoryConnection.read_history
    async with running(rooms) as clients:
        for number in range(5):
            await rooms.topic().broadcast(f"{number} " + "x" * 200 * KIB)
        client, conn = await rooms.connect(clients, None)
        monkeypatch.setattr(MemoryConnection, "read_history", read)
        flooded.append(conn)
        await client.send("new")
        got: list[Any] = []
        while not got or "recovered" not in got[-1]:
            got += await take(client)
        assert [one["message"][0] for one in got[:-1] if one["message"][0] != "f"] == list("01234")
        assert conn.is_open


@pytest.mark.parametrize("carrier", ["alone", "broker", "bus"])
async def test_many_pages_are_recovered_in_order_and_the_next_message_follows(carrier: str) -> None:
    async with carried(carrier) as broker:
        rooms = Recovering(broker, size=1000, max_bytes=10 * MIB)
        async with running(rooms) as clients:
            for number in range(1000):
                await rooms.topic().broadcast(f"{number} " + "x" * KIB)
            client, _ = await rooms.connect(clients, None)
            missed, answer = await recover(client)
            await rooms.topic().broadcast("1000 x")
            numbers = [int(one["message"].split()[0]) for one in [*missed, *await take(client)]]
            assert numbers == list(range(1001))
            assert answer["recovered"] is True


async def test_a_follower_reads_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Bench()
    one, two = (Recovering(broker, size=1000, max_bytes=10 * MIB) for _ in range(2))
    pages: list[int] = []

    async def read(connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int) -> Any:
        kept = await original(connection, topic, since, max_bytes)
        pages.append(sum(len(data) for _, data in kept.messages))
        return kept

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    async with running(one, two) as clients:
        client, _ = await one.connect(clients)
        relay = one.app.topics.relay
        assert relay is not None
        connection: Any = relay.connection
        connection._topics.discard("t")  # it hears nothing for a while
        for number in range(300):
            await two.topic().broadcast(f"{number} " + "x" * 10_000)
        connection._topics.add("t")
        pages.clear()
        await two.topic().broadcast("300 x")
        with anyio.fail_after(GUARD):
            got = await take(client, 301)
        assert [int(message["message"].split()[0]) for message in got] == list(range(301))
        assert len(pages) > 10
        assert max(pages) < MIB // 4 + 20_000
