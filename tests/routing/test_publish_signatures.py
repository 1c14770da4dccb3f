"""Each signature of a published message is for one path, and is accepted once by all processes that share histories."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import pytest
from support.local_bus import running as bus_running
from support.serving import Serving, serving
from support.topic_bench import Bench, until

from pywsapp import App, ConfigurationError
from pywsapp.brokers.base import Broker
from pywsapp.brokers.envelope import Keys
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.routing.endpoints import sign
from pywsapp.topics.history import claims
from pywsapp.topics.history.memory_store import MemoryHistory

pytestmark = pytest.mark.anyio

KEY = "k" * 32
BODY = json.dumps({"topic": "news", "text": "hello"}).encode()


def make_app(broker: Broker | None = None, key: Keys = KEY, path: str = "/publish") -> App:
    app = App("*", 0, broker=broker)
    app.publish_endpoint(path, key)
    app.on_broadcast("*")(lambda topic, message: None)
    return app


async def post(server: Serving, signature: str, path: str = "/publish") -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", path, BODY, {"X-Signature": signature})
        answer = connection.getresponse()
        text = answer.read().decode().strip()
        connection.close()
        return answer.status, text

    return await anyio.to_thread.run_sync(ask)


def good(path: str = "/publish", key: str = KEY, now: float | None = None) -> str:
    return sign(key, path, BODY, time.time() if now is None else now)


USED = (401, "the signature was used already")
WRONG = (401, "the signature is missing or wrong")


@asynccontextmanager
async def carried(carrier: str) -> AsyncIterator[Callable[[], Broker]]:
    """Yield a function that returns the broker of a new process."""
    if carrier == "bus":
        async with bus_running() as bus:
            yield bus.broker
    else:
        broker = MemoryBroker()
        yield lambda: broker


@pytest.mark.parametrize("carrier", ["bus", "broker"])
async def test_a_signature_is_good_once_in_all_processes_and_after_restarts(carrier: str) -> None:
    async with carried(carrier) as make:
        signature = good()
        async with serving(make_app(make())) as one, serving(make_app(make())) as two:
            assert await post(one, signature) == (204, "")
            assert await post(one, signature) == USED
            assert await post(two, signature) == USED
        async with serving(make_app(make())) as three:
            assert await post(three, signature) == USED
            assert (await post(three, good(now=time.time() + 60)))[0] == 204


async def test_of_many_requests_at_once_one_is_accepted() -> None:
    broker, statuses = MemoryBroker(), list[int]()
    signature = good()

    async def ask(server: Serving) -> None:
        statuses.append((await post(server, signature))[0])

    async with (
        serving(make_app(broker)) as one,
        serving(make_app(broker)) as two,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(10):
            tasks.start_soon(ask, one)
            tasks.start_soon(ask, two)
    assert sorted(statuses) == [204] + [401] * 19


@pytest.mark.parametrize("keeps_history", [False, True])
async def test_without_other_processes_a_signature_is_good_once(keeps_history: bool) -> None:
    broker = Bench()
    broker.keeps_history = keeps_history
    async with serving(make_app(None if keeps_history else broker)) as server:
        signature = good()
        assert (await post(server, signature))[0] == 204
        assert await post(server, signature) == USED


async def test_a_signature_is_for_the_path_that_the_client_asks_for() -> None:
    outer, inner = App("*", 0), make_app()
    inner.publish_endpoint("/other", KEY)
    outer.mount("/api", inner)
    async with serving(outer) as server:
        for path in ("/publish", "/other", "/api/publish"):
            assert await post(server, good(path), "/api/other") == WRONG
        assert (await post(server, good("/api/other"), "/api/other"))[0] == 204
        assert (await post(server, good("/api/publish"), "/api/publish?x=1"))[0] == 204


async def test_lines_of_a_body_cannot_become_a_part_of_the_path() -> None:
    async with serving(make_app(path="/{name}")) as server:
        signature = sign(KEY, "/publish", b"x\n" + BODY, time.time())
        assert await post(server, signature, "/publish%0Ax") == WRONG


async def test_several_keys_are_accepted() -> None:
    async with serving(make_app(key=["n" * 16, b"o" * 16])) as server:
        for key, status in (("n" * 16, 204), ("o" * 16, 204), ("x" * 16, 401)):
            assert (await post(server, good(key=key)))[0] == status


@pytest.mark.parametrize("keys", [["k" * 16, "short"], "short", [], "", ["k" * 16, ""]])
async def test_each_key_needs_16_bytes(keys: Keys) -> None:
    with pytest.raises(ConfigurationError, match=r"at least 16 bytes|is empty"):
        App().publish_endpoint("/publish", keys)


async def test_a_refused_message_does_not_use_up_its_signature() -> None:
    broker = MemoryBroker()
    broker.available = False
    app = make_app(broker)
    async with serving(app) as server:
        signature = good()
        status, text = await post(server, signature)
        assert (status, "not connected" in text) == (503, True)
        broker.available = True
        relay = app.topics.relay
        assert relay is not None
        await until(lambda: relay.connection is not None)
        assert (await post(server, signature))[0] == 204


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "broker"])
async def test_more_signatures_than_are_remembered_are_refused(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MAX_IDS", 3)
    app = make_app(MemoryBroker() if shared else None)
    async with serving(app):
        history = app.topics.history
        for number in range(3):
            assert await history.claim(60, f"a{number}")
        with pytest.raises(claims.TooManyClaims):
            await history.claim(60, "a3")
        assert await history.claim(60, "b0")
        assert await history.claim(120, "a3")
        assert not await history.claim(120, "a3")


async def test_a_signature_is_remembered_as_long_as_it_is_valid() -> None:
    now = [0.0]
    history = MemoryHistory(lambda: now[0])
    assert await claims.claim(300, "a", None, history)
    now[0] = claims.SECONDS - 1
    assert not await claims.claim(300, "a", None, history)
    now[0] = claims.SECONDS
    history.expire()
    assert history.topics() == []


async def test_a_broker_that_does_not_answer_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_CLAIM_SECONDS", 0.05)
    broker = Bench()
    async with serving(make_app(broker)) as server:
        broker.before["publish"] = anyio.sleep_forever
        status, text = await post(server, good())
        assert (status, "has not answered in time" in text) == (503, True)


async def test_claims_reach_no_listener() -> None:
    app, heard = App("*", 0, broker=MemoryBroker()), list[str]()
    app.publish_endpoint("/publish", KEY)
    app.history("*")
    app.on_broadcast("*")(lambda topic, message: heard.append(topic.name))
    async with serving(app) as server:
        assert (await post(server, good()))[0] == 204
        await until(lambda: heard)
        assert heard == ["news"]
        assert app.topics.stats.dropped == 0
