"""A limit that several processes share in a real Redis: two Apps, each with a RateLimit and a connection of its own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

import anyio
import pytest
from support.services import Redis, redis_server
from support.serving import CLOSE, GUARD, PING, Client, Recorder, close_code, close_frame, serving
from support.waiting import until_blocked

from pywsapp._limits import shared_budget
from pywsapp._limits.budget import Rates
from pywsapp._limits.shared_budget import LEASE_SECONDS, SharedBuckets, SharedBudget
from pywsapp.app import App
from pywsapp.component import EchoServer, MessageComponent
from pywsapp.middleware.rate_limit import Exceeded, RateLimit

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis(redis: Redis) -> Redis:
    """Return the Redis of this file, without keys."""
    redis.ask("FLUSHALL")
    redis.ask("CONFIG", "RESETSTAT")
    return redis


@pytest.fixture(autouse=True)
def _long_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Redis for as long as it takes, and do not try a Redis again that was unavailable."""
    for name in ("_TIMEOUT", "_RETRY_SECONDS"):
        monkeypatch.setattr(shared_budget, name, 10 * GUARD)


@asynccontextmanager
async def two_apps(
    redis: Redis, *components: MessageComponent, **arguments: Any
) -> AsyncIterator[list[tuple[App, Client]]]:
    """Run two Apps with one limit, and connect a client to each of them."""
    apps = []
    for component in components:
        app = App(port=0)
        limit = RateLimit(component, per="address", shared=redis.url, name="shared", **arguments)
        app.route("/", limit)
        apps.append(app)
    async with serving(apps[0]) as first, serving(apps[1]) as second, first.client() as one, second.client() as two:
        yield [(apps[0], one), (apps[1], two)]


def script_calls(redis: Redis) -> int:
    """Return how often a script was called."""
    lines = [line for line in redis.ask("INFO", "commandstats").splitlines() if line.startswith("cmdstat_eval")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


async def flood(client: Client, *messages: str | bytes) -> None:
    """Send messages, and wait until they are handled."""
    await client.send(*messages)
    assert await client.close() in (1000, 1008, 1013)


async def test_dropped_messages_are_counted_for_both(redis: Redis) -> None:
    first, second = Recorder(), Recorder()
    arguments = {"messages_per_second": 0.01, "messages_burst": 10, "when_exceeded": Exceeded.DROP}
    async with two_apps(redis, first, second, **arguments) as clients:
        for _, client in clients:
            await flood(client, *map(str, range(100)))
        handled = [component.names().count("message") for component in (first, second)]
        assert sum(handled) == 10
        assert handled[0] >= 5
        dropped = [app.stats().rate_limits["shared"].dropped for app, _ in clients]
        assert sum(dropped) == 190


async def test_delayed_messages_pass_in_order_at_the_common_rate(redis: Redis) -> None:
    messages = [str(number) for number in range(15)]
    arguments = {"messages_per_second": 50, "messages_burst": 10}
    async with two_apps(redis, EchoServer(), EchoServer(), **arguments) as clients:
        began = monotonic()
        for _, client in clients:
            await client.send(*messages)
        for _, client in clients:
            assert [await client.message() for _ in messages] == messages
        assert monotonic() - began >= (30 - 10) / 50 - 0.01


async def test_a_close_is_one_for_both(redis: Redis) -> None:
    first, second = Recorder(), Recorder()
    arguments = {"bytes_per_second": 1, "bytes_burst": 1000, "when_exceeded": Exceeded.CLOSE}
    async with two_apps(redis, first, second, **arguments) as [(_, one), (_, two)]:
        await one.send(b"x" * 900)
        await first.until_called("message")
        await two.send(b"y" * 200, b"z")
        opcode, payload = await two.receive()
        assert (opcode, close_code(payload)) == (CLOSE, 1008)
        await two.stream.send(close_frame(1008))
        await two.read_to_end()
        assert await one.close() == 1000
        assert second.names() == ["open", "close"]


async def test_a_message_that_waits_for_redis_is_not_handled_after_a_close(redis: Redis) -> None:
    component = Recorder()
    arguments = {"messages_per_second": 0.01, "messages_burst": 4}
    async with two_apps(redis, component, Recorder(), **arguments) as [(app, one), _]:
        await one.send("1")
        await component.until_called("message")
        redis.freeze()
        try:
            await one.send("2")
            await one.send_frame(PING)
            await one.receive()
            component.conns[0].close(4000)
        finally:
            redis.thaw()
        assert await one.close() == 4000
        await component.until_called("close")
        assert component.names() == ["open", "message", "close"]
        assert app.stats().rate_limits["shared"].dropped == 0


async def test_messages_within_a_lease_do_not_ask_redis(redis: Redis) -> None:
    arguments = {"messages_per_second": 10_000, "messages_burst": 10_000}
    async with two_apps(redis, EchoServer(), EchoServer(), **arguments) as [(_, one), _]:
        for number in range(500):
            await one.send(str(number))
            assert await one.message() == str(number)
        assert script_calls(redis) <= 10


async def test_a_flood_that_is_dropped_does_not_ask_redis_for_each_message(redis: Redis) -> None:
    arguments = {"messages_per_second": 0.01, "messages_burst": 4, "when_exceeded": Exceeded.DROP}
    async with two_apps(redis, Recorder(), Recorder(), **arguments) as [(_, one), _]:
        await flood(one, *map(str, range(1000)))
    assert script_calls(redis) <= 10


async def test_keys_expire_when_the_bucket_is_full(redis: Redis) -> None:
    arguments = {"messages_per_second": 1, "messages_burst": 50, "bytes_per_second": 1000}
    async with two_apps(redis, EchoServer(), EchoServer(), **arguments) as [(_, one), _]:
        await one.send("hello")
        await one.message()
        key = "pywsapp:limit:shared:address 127.0.0.1"
        assert redis.ask("DBSIZE") == ":1"
        assert 0 < int(redis.ask("PTTL", key).removeprefix(":")) <= 51_000


async def test_an_outage_is_logged_once_and_each_process_counts(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Recorder(), Recorder()
    arguments = {"messages_per_second": 0.01, "messages_burst": 3, "when_exceeded": Exceeded.DROP}
    with redis_server() as server:
        async with two_apps(server, first, second, **arguments) as clients:
            server.kill()
            for _, client in clients:
                await flood(client, *map(str, range(50)))
            assert [component.names().count("message") for component in (first, second)] == [3, 3]
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2  # one for each process
    assert all("is unavailable (" in line and "'shared' counts for each process meanwhile" in line for line in errors)


async def test_redis_counts_again_after_an_outage(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        buckets = SharedBuckets(server.url, "limit", Rates(0.01, 5, None, 0))
        server.kill()
        assert await buckets.ask("ana", 0, reserve=False) is None
        assert buckets.is_down(monotonic())
        server.start()
        with anyio.fail_after(GUARD):
            while await buckets.ask("ana", 0, reserve=False) is None:  # a refused connection takes a moment
                await anyio.lowlevel.checkpoint()
        assert not buckets.is_down(monotonic())
        await buckets.aclose()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "is available again for RateLimit 'limit'" in caplog.messages[1]


async def test_a_frozen_redis_counts_as_unavailable(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = SharedBuckets(redis.url, "limit", Rates(0.01, 2, None, 0))
    budget = SharedBudget(buckets, "ana", monotonic())
    assert await budget.ask(0, reserve=False) == 0
    redis.freeze()
    monkeypatch.setattr(shared_budget, "_TIMEOUT", 0.2)
    try:
        with anyio.fail_after(GUARD):
            assert await budget.ask(0, reserve=False) == 0  # this process counts from here on
        now = monotonic()
        assert [budget.take(0, now), budget.take(0, now), budget.must_ask(0, now)] == [True, False, False]
        assert await budget.ask(0, reserve=False) == float("inf")
        assert budget.reserve(0, monotonic()) > 0
        budget.give_back(0)
        assert await budget.ask(0, reserve=True) > 0
    finally:
        redis.thaw()
    await buckets.aclose()


async def test_only_one_message_waits_for_a_frozen_redis(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    buckets = SharedBuckets(redis.url, "limit", Rates(0.01, 5, None, 0))
    budgets = [SharedBudget(buckets, str(number), monotonic()) for number in range(20)]
    redis.freeze()
    try:
        with monkeypatch.context() as short:
            short.setattr(shared_budget, "_TIMEOUT", 0.2)
            assert await buckets.ask("ana", 0, reserve=False) is None
        buckets._down_until = monotonic()  # it is time to try again
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(budgets[0].ask, 0, reserve=False))
            await until_blocked()
            with anyio.fail_after(GUARD):
                for budget in budgets[1:]:
                    assert await budget.ask(0, reserve=False) == 0
            tasks.cancel_scope.cancel()
    finally:
        redis.thaw()
    await buckets.aclose()


async def test_never_more_than_the_burst_and_the_rate_passes_in_many_processes(redis: Redis) -> None:
    rate, burst, size = 200.0, 40.0, 4
    processes = [SharedBuckets(redis.url, "limit", Rates(rate, burst, None, 0)) for _ in range(size)]
    budgets = [SharedBudget(buckets, "ana", monotonic()) for buckets in processes]
    passed = 0
    began = monotonic()

    async def send(budget: SharedBudget) -> None:
        nonlocal passed
        while passed < burst + 60:
            is_within = budget.take(0, monotonic()) or await budget.ask(0, reserve=False) == 0
            passed += is_within

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            for budget in budgets * 2:
                tasks.start_soon(send, budget)
    assert passed <= burst + rate * (monotonic() - began) + 1
    assert all(budget._messages <= rate * LEASE_SECONDS for budget in budgets)
    for buckets in processes:
        await buckets.aclose()


async def test_a_budget_is_forgotten_when_redis_has_forgotten_it(redis: Redis) -> None:
    buckets = SharedBuckets(redis.url, "limit", Rates(0.1, 5, 10, 100))
    budget = SharedBudget(buckets, "ana", monotonic())
    assert budget.is_full(monotonic())
    assert await budget.ask(10, reserve=True) == 0
    assert not budget.is_full(monotonic())
    assert budget.is_full(monotonic() + buckets.fill_seconds())
    await buckets.aclose()


async def test_pings_are_counted_for_both(redis: Redis) -> None:
    """Each process answers at once; what Redis says counts for the pings that follow."""
    arguments = {"control_frames_per_second": 0.01, "control_frames_burst": 10}
    async with two_apps(redis, EchoServer(), EchoServer(), **arguments) as clients:
        answered = 0
        for _ in range(20):
            for app, client in clients:
                await client.send_frame(PING)
                await client.send("end")
                while await client.receive() != (1, b"end"):
                    answered += 1
                limit: Any = app.router._routes[0].target
                [budget] = limit.component._limit.table._in_use.values()
                while budget._asks:  # until Redis has answered
                    await anyio.lowlevel.checkpoint()
        assert answered == 12, "each process answers one more before it knows"
        dropped = [app.stats().rate_limits["shared"].dropped_control_frames for app, _ in clients]
        assert sum(dropped) == 40 - answered


async def test_pings_are_counted_by_each_process_without_redis(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_budget, "_TIMEOUT", 0.2)
    buckets = SharedBuckets(redis.url, "limit", Rates(None, 0, None, 0, 0.01, 3))
    budget = SharedBudget(buckets, "ana", monotonic())
    redis.freeze()
    try:
        assert budget.take_control_frame(monotonic())
        assert budget.begin_to_ask(monotonic())
        assert not budget.begin_to_ask(monotonic()), "one question at a time"
        await budget.ask_for_control_frames()
        assert [budget.take_control_frame(monotonic()) for _ in range(3)] == [True, True, False]
        assert not budget.begin_to_ask(monotonic())
    finally:
        redis.thaw()
    await buckets.aclose()


async def test_pings_that_redis_does_not_know_yet_are_bounded_by_the_process(redis: Redis) -> None:
    buckets = SharedBuckets(redis.url, "limit", Rates(None, 0, None, 0, 0.01, 5))
    first, second = (SharedBudget(buckets, "ana", monotonic()) for _ in range(2))
    for budget in (first, second):
        assert sum(budget.take_control_frame(monotonic()) for _ in range(20)) == 5
    for budget in (first, second):
        assert budget.begin_to_ask(monotonic())
        await budget.ask_for_control_frames()
    assert (first._control_frames, second._control_frames) == (0, 0)
    assert second._control_frames_refused > monotonic() + 400, "5 frames above the limit are earned in 500 s"
    await buckets.aclose()
