"""How often histories are read, and that no message waits for the next one."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.topic_bench import Bench, until
from support.topic_rooms import Recovering, recover, running, take
from support.waiting import until_blocked

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Position
from pywsapp.brokers.memory import MemoryConnection
from pywsapp.topics.history import service as service_module
from pywsapp.topics.history.service import HistoryService

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)


class Reads:
    """The readings of histories by all processes; they fail if `failing` is True."""

    def __init__(self) -> None:
        self.since: list[Position | None] = []
        self.failing = False


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()

    async def read(connection: MemoryConnection, topic: str, since: Position | None, max_bytes: int) -> Any:
        found.since.append(since)
        await anyio.lowlevel.checkpoint()
        if found.failing:
            raise OSError("it is busy")
        return await original(connection, topic, since, max_bytes)

    original = MemoryConnection.read_history
    monkeypatch.setattr(MemoryConnection, "read_history", read)
    return found


@pytest.fixture
def retries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The topics for which a reading is repeated; each retry waits until the test ends."""
    found: list[str] = []

    async def retry(service: HistoryService, name: str) -> None:
        found.append(name)
        await anyio.sleep_forever()

    monkeypatch.setattr(HistoryService, "_retry", retry)
    return found


async def test_a_history_is_read_when_a_topic_is_joined_and_not_for_each_message(reads: Reads) -> None:
    one, two = (Recovering(broker) for broker in [Bench()] * 2)
    async with running(one, two) as clients:
        client, _ = await one.connect(clients)
        await until_blocked()
        start = one.app.topics.history._followers["t"].position
        assert reads.since == [None, start], "once before and once after subscribing"
        for number in range(20):
            await (one, two)[number % 2].topic().broadcast(str(number))
        await take(client, 20)
        await one.connect(clients)
        assert len(reads.since) == 2, "the next subscribers need nothing"


async def test_a_recovery_reads_a_history_once_for_each_page(reads: Reads) -> None:
    one = Recovering(Bench())
    async with running(one) as clients:
        client, conn = await one.connect(clients)
        await one.topic().broadcast("x")
        (seen,) = await take(client)
        one.topic().remove(conn)
        await one.connect(clients)
        await until_blocked()
        for since, number in ((seen["position"], 1), ("new", 2)):
            reads.since.clear()
            other, _ = await one.connect(clients, None)
            await recover(other, since)
            assert len(reads.since) == number


async def test_a_new_connection_reads_each_history_once(reads: Reads) -> None:
    broker = Bench()
    one = Recovering(broker)
    async with running(one) as clients:
        await one.connect(clients)
        await until_blocked()
        reads.since.clear()
        connects = broker.calls.count("connect")
        broker.disconnect()
        await until(lambda: broker.calls.count("connect") > connects and reads.since)
        await until_blocked()
        assert len(reads.since) == 1


async def test_a_message_of_the_time_before_the_subscription_does_not_wait_for_the_next_one(reads: Reads) -> None:
    broker = Bench()
    one, two = Recovering(broker), Recovering(broker)
    async with running(one, two) as clients:
        gate, asked = anyio.Event(), anyio.Event()

        async def hold() -> None:
            asked.set()
            await gate.wait()

        client, conn = await one.connect(clients, None)
        broker.before["subscribe"] = hold
        one.topic().add(conn)
        await asked.wait()
        await until_blocked()
        assert reads.since == [None], "the history is not read again before the topic is subscribed"
        await two.topic().broadcast("in between")
        gate.set()
        assert [message["message"] for message in await take(client)] == ["in between"]
        assert len(reads.since) == 2


async def test_joining_waits_for_the_subscription() -> None:
    broker = Bench()
    one = Recovering(broker)
    async with running(one) as clients, anyio.create_task_group() as tasks:
        gate, joined = anyio.Event(), anyio.Event()
        _, conn = await one.connect(clients, None)
        broker.before["subscribe"] = gate.wait

        async def join() -> None:
            await one.topic().add(conn)
            joined.set()

        tasks.start_soon(join)
        await until(lambda: "subscribe" in broker.calls)
        await until_blocked()
        assert not joined.is_set()
        gate.set()
        await joined.wait()
        assert broker.subscribed == {"t"}


# -- readings that fail ------------------------------------------------------------------------------------------------


async def test_a_reading_that_fails_is_repeated_by_one_task(reads: Reads, retries: list[str]) -> None:
    one = Recovering(Bench())
    one.app.history("u")
    async with running(one) as clients:
        reads.failing = True
        await one.connect(clients)
        await one.connect(clients, "u")
        await until_blocked()
        assert sorted(retries) == ["t", "u"]
        for _ in range(20):
            one.app.topics.history._followers["t"].catch_up()
            await until_blocked()
        assert sorted(retries) == ["t", "u"]
        assert len(reads.since) > 20


async def test_without_a_connection_no_reading_is_repeated(reads: Reads, retries: list[str]) -> None:
    broker = Bench()
    one = Recovering(broker)
    async with running(one) as clients:
        broker.available = False
        broker.disconnect()
        relay = one.app.topics.relay
        assert relay is not None
        await until(lambda: relay.connection is None)
        await one.connect(clients)
        for _ in range(5):
            one.app.topics.history._followers["t"].catch_up()
            await until_blocked()
        assert (retries, reads.since) == ([], [])


async def test_after_a_retry_the_next_failure_is_retried_as_well(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_RETRY_SECONDS", 0.001)
    one, two = (Recovering(broker) for broker in [Bench()] * 2)
    async with running(one, two) as clients:
        reads.failing = True
        client, _ = await one.connect(clients)
        await until(lambda: len(reads.since) >= 5)
        await two.topic().broadcast("x")
        reads.failing = False
        await until(lambda: one.app.topics.history._followers["t"].position)
        await two.topic().broadcast("y")
        assert [message["message"] for message in await take(client, 2)] == ["x", "y"]
