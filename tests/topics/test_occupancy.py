"""Topics and users that come and go are reported once, whatever happens to processes and the broker."""

from __future__ import annotations

import pytest
from support.cluster import START, Node, cluster

from pywsapp.brokers.memory import MemoryBroker
from pywsapp.testing import TestClient, VirtualClock
from pywsapp.topics.occupancy.changes import REPORTED_TOPIC, Kind

pytestmark = [pytest.mark.anyio, pytest.mark.once]
#: For tests of what several processes do, which does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])


@pytest.mark.parametrize("count", [0, 1, 3], ids=["no broker", "one process", "three processes"])
async def test_the_first_and_the_last_subscriber_are_reported_once(count: int) -> None:
    async with cluster(count) as (made, _):
        first, last = made.nodes[0].client, made.nodes[-1].client
        async with last.connect("/room:1/ana"):
            assert await made.reports_of(1) == ["occupied room:1", "online ana"]
            async with first.connect("/room:1/ana"), first.connect("/room:1"):
                assert await made.reports_of(2) == []
            assert await made.reports_of(2) == []
        assert await made.reports_of(0.9) == []
        assert await made.reports_of(1) == ["offline ana", "vacated room:1"]
        async with first.connect("/other:1"):
            assert await made.reports_of(2) == []


@one_loop
async def test_a_page_that_is_loaded_again_reports_nothing() -> None:
    async with cluster(2, delay=2) as (made, _):
        async with made.nodes[0].client.connect("/room:1/ana"):
            assert await made.reports_of(1) == ["occupied room:1", "online ana"]
        assert await made.reports_of(1.5) == []
        async with made.nodes[1].client.connect("/room:1/ana"):
            assert await made.reports_of(5) == []
        assert await made.reports_of(2.5) == ["offline ana", "vacated room:1"]


@one_loop
async def test_what_a_killed_process_had_is_reported_after_its_lease() -> None:
    async with cluster(3) as (made, stack):
        oldest, youngest = made.nodes[0], made.nodes[2]
        await stack.enter_async_context(oldest.client.connect("/room:1/ana"))
        await stack.enter_async_context(youngest.client.connect("/room:2/bob"))
        assert len(await made.reports_of(1)) == 4
        oldest.cut()  # it is the one that reports; what comes meanwhile is not lost
        await stack.enter_async_context(youngest.client.connect("/room:3"))
        assert await made.reports_of(9) == []
        assert await made.reports_of(12) == ["occupied room:3", "offline ana", "vacated room:1"]
        assert oldest.reports == []


@one_loop
async def test_a_process_that_was_cut_off_comes_back_as_the_youngest() -> None:
    async with cluster(2) as (made, stack):
        oldest, other = made.nodes
        await stack.enter_async_context(oldest.client.connect("/room:1"))
        await made.clock.advance(1)
        oldest.cut()
        assert await made.reports_of(18) == ["occupied room:1", "vacated room:1"]
        assert oldest.line is not None
        oldest.line.is_cut = False
        await made.clock.advance(12)
        assert other.reports == ["occupied room:1"]
        assert await made.reports_of(25) == ["occupied room:1"]


@one_loop
@pytest.mark.parametrize("seconds", [1, 16], ids=str)
async def test_an_outage_of_the_broker_delays_reports(seconds: float) -> None:
    async with cluster(2) as (made, stack):
        a, b = made.nodes
        await stack.enter_async_context(a.client.connect("/room:1"))
        leaving = b.client.connect("/room:2")
        await leaving.__aenter__()
        assert await made.reports_of(1) == ["occupied room:1", "occupied room:2"]
        assert made.broker is not None
        made.broker.available = False
        made.broker.disconnect()
        await leaving.__aexit__(None, None, None)
        await stack.enter_async_context(b.client.connect("/room:3"))
        assert await made.reports_of(seconds) == []
        made.broker.available = True
        assert await made.reports_of(15) == ["occupied room:3", "vacated room:2"]
        assert await made.reports_of(22) == []


@one_loop
async def test_replaced_processes_report_nothing_twice() -> None:
    async with cluster(2) as (made, stack):
        old = list(made.nodes)
        first = old[0].client.connect("/room:1/ana")
        await first.__aenter__()
        assert await made.reports_of(1) == ["occupied room:1", "online ana"]
        new = await made.start(stack)
        async with new.client.connect("/room:1/ana"):
            for node in old:
                await made.stop(node)
            assert await made.reports_of(22) == []
        assert await made.reports_of(2) == ["offline ana", "vacated room:1"]
        assert new.reports == []


@one_loop
async def test_the_last_process_reports_when_it_shuts_down() -> None:
    async with cluster(2) as (made, _):
        a, b = made.nodes
        await a.client.connect("/room:1").__aenter__()
        await b.client.connect("/room:2").__aenter__()
        await made.clock.advance(1)
        await made.stop(b)
        assert await made.reports_of(2) == ["occupied room:1", "occupied room:2", "vacated room:2"]
        await made.stop(a)
        assert a.reports == ["vacated room:1"]


@one_loop
async def test_a_change_whose_report_was_lost_is_forgotten() -> None:
    async with cluster(2) as (made, stack):
        a, b = made.nodes
        assert b.line is not None
        b.line.is_dropping = lambda topic: topic == REPORTED_TOPIC
        await stack.enter_async_context(b.client.connect("/room:1"))
        assert await made.reports_of(25) == ["occupied room:1"]
        await made.stop(a)
        assert await made.reports_of(5) == []


@one_loop
async def test_a_process_that_starts_learns_what_was_reported_before() -> None:
    async with cluster(1) as (made, stack):
        old = made.nodes[0]
        async with old.client.connect("/room:1"):
            await made.clock.advance(1)
            new = Node(made.broker, made.clock)
            made.nodes.append(new)
            assert new.line is not None
            new.line.is_dropping = lambda topic: topic == Kind.TOPIC.presence_topic  # the answers come too late
            await stack.enter_async_context(new.client)
            await made.clock.advance(START)
            new.line.is_dropping = lambda topic: False
            await stack.enter_async_context(old.client.connect("/room:2"))
            assert await made.reports_of(1) == ["occupied room:1", "occupied room:2"]
            old.cut()
            assert await made.reports_of(18) == ["vacated room:1", "vacated room:2"]
            assert old.reports == []


@one_loop
async def test_a_suspended_process_does_not_report_with_old_knowledge() -> None:
    async with cluster(2) as (made, stack):
        oldest, other = made.nodes
        await stack.enter_async_context(other.client.connect("/room:1"))
        await made.clock.advance(1)
        view = oldest.app.topics.occupancy._view
        assert view is not None
        view._last_tick -= 60  # as if the process had been suspended for a minute
        await stack.enter_async_context(oldest.client.connect("/room:2"))
        assert await made.reports_of(1) == ["occupied room:1", "occupied room:2"]
        assert view._reporter == other.app.topics.codec.origin


async def test_an_app_reports_again_in_a_second_run() -> None:
    clock = VirtualClock()
    node = Node(MemoryBroker(), clock)
    for _ in range(2):
        async with TestClient(node.app, clock=clock) as client:
            await clock.advance(START)
            async with client.connect("/room:1/ana"):
                await clock.advance(1)
        assert sorted(node.reports) == ["occupied room:1", "offline ana", "online ana", "vacated room:1"]
        node.reports.clear()
