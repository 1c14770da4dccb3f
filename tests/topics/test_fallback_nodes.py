"""Batches of fallback connections that reach another node than the one that has the stream."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from support.fallback_peer import UNKNOWN_STREAM, fallback_app, fallback_peer
from support.header_users import by_header
from support.topic_bench import until
from support.topics_peer import Open, TopicsPeer

from pywsapp import App
from pywsapp.brokers import relay
from pywsapp.brokers.base import Broker, Outgoing, Receive
from pywsapp.brokers.envelope import Envelope, EnvelopeError, Keys
from pywsapp.brokers.memory import MemoryBroker, MemoryConnection
from pywsapp.testing import TestClient, two_nodes, until_idle
from pywsapp.topics.codec import EnvelopeCodec
from pywsapp.topics.fallback import service as module
from pywsapp.topics.fallback.batch import Batch
from pywsapp.topics.fallback.service import FallbackService, Outcome
from pywsapp.topics.process_events import ProcessEvents

pytestmark = [pytest.mark.anyio, pytest.mark.once]
EMPTY: dict[str, Any] = {"number": 1, "messages": []}


@pytest.fixture(params=[None, b"a key of sixteen"])
async def nodes(request: pytest.FixtureRequest, brokers: tuple[Broker, Broker]) -> AsyncIterator[list[TestClient]]:
    """Two nodes with one broker, with and without signatures."""
    async with AsyncExitStack() as stack:
        apps = [
            fallback_app(Open(), broker=broker, broker_key=request.param, authenticate=by_header) for broker in brokers
        ]
        yield [await stack.enter_async_context(TestClient(app)) for app in apps]


@asynccontextmanager
async def posting_to_another_node(broker: Broker) -> AsyncIterator[tuple[TopicsPeer, TestClient]]:
    """Open a fallback connection whose POST requests reach another node than the one with the stream; return both."""
    async with (
        TestClient(fallback_app(Open(), broker=broker)) as client,
        TestClient(fallback_app(Open(), broker=broker)) as other,
        fallback_peer(client) as peer,
    ):
        peer.ws.posts_by = other
        yield peer, other


async def test_batches_reach_the_stream_from_every_node(nodes: list[TestClient]) -> None:
    headers = {"X-User": "ana"}
    async with fallback_peer(nodes[0], headers=headers) as peer:
        for number in range(6):
            peer.ws.posts_by = nodes[number % 2]
            assert await peer.ask("publish", topic="room:1", data=number, key=f"k{number}") == {"type": "ok"}
        peer.ws.posts_by = nodes[1]
        last = {"number": peer.ws.number, "messages": ["repeated"]}
        assert (await peer.ws.post_body(last)).status == 204
        assert (await peer.ws.post_body({**last, "number": peer.ws.number + 2})).status == 409
        assert (await peer.ws.post_body(EMPTY, headers={"X-User": "ben"})).status == 404
        assert (await peer.ws.post_body(EMPTY, stream=peer.ws.id + "x")).status == 404
        await until_idle()
        await peer.ws.stream.assert_silent()
        stream = peer.ws.id
    await until_idle()
    assert (await peer.ws.post_body(EMPTY, stream=stream)).status == 404
    assert not nodes[1].app.topics.fallback._asked


async def test_a_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.02)
    async with two_nodes(lambda: fallback_app(Open())) as (_, client):
        headers = {"Pywsapp-Stream": UNKNOWN_STREAM}
        response = await client.post("/live", json=EMPTY, headers=headers)
        assert response.status == 504


async def test_a_node_without_a_broker_knows_only_its_own_streams() -> None:
    async with TestClient(fallback_app(Open())) as client:
        response = await client.post("/live", json=EMPTY, headers={"Pywsapp-Stream": UNKNOWN_STREAM})
        assert response.status == 404


async def test_too_many_batches_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with posting_to_another_node(MemoryBroker()) as (peer, other):
        assert (await peer.ws.post([])).status == 204
        monkeypatch.setattr(module, "MAX_ASKED_SILENT", 0)
        response = await other.post("/live", json=EMPTY, headers={"Pywsapp-Stream": UNKNOWN_STREAM})
        assert response.status == 503
        assert (await peer.ws.post([])).status == 204  # the process with the stream has answered before
        monkeypatch.setattr(module, "MAX_ASKED", 0)
        assert (await peer.ws.post([])).status == 503


async def test_a_process_that_has_not_answered_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ASKED_SILENT", 1)
    async with posting_to_another_node(MemoryBroker()) as (peer, other):
        service = other.app.topics.fallback
        assert (await peer.ws.post([])).status == 204
        assert len(service._answered) == 1
        peer.ws.posts_by.app.topics.process_events.unlisten(service.topic)  # which gets the answers
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.02)
        assert (await peer.ws.post([])).status == 504
        assert not service._answered


async def test_an_invented_id_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", math.inf)
    key = "a key of sixteen"
    async with (
        two_nodes(lambda: fallback_app(Open(), broker_key=key)) as (client, other),
        fallback_peer(client) as peer,
    ):
        unsigned, _, signature = peer.ws.id.rpartition(".")
        another_process = f"{'0' * 16}{peer.ws.id[16:]}"
        for invented in (UNKNOWN_STREAM, f"{unsigned}x.{signature}", unsigned, f"{unsigned}.", another_process):
            response = await other.post("/live", json=EMPTY, headers={"Pywsapp-Stream": invented})
            assert response.status == 404, invented
        peer.ws.posts_by = other
        assert (await peer.ws.post([])).status == 204


def service_of(keys: Keys | None = None, secret: str = "") -> FallbackService:
    codec = EnvelopeCodec(keys)
    service = FallbackService(codec, ProcessEvents(codec))
    if secret:
        service.use_secret(secret)
    return service


class Ended:
    def take(self, user: str | None, batch: Batch) -> Outcome:
        return Outcome.GONE


@pytest.mark.parametrize(
    ("one", "other", "is_invented"),
    [
        (service_of(), service_of(), False),
        (service_of(["new key", "old key"]), service_of("old key"), True),
        (service_of("old key"), service_of(["new key", "old key"]), False),
        (service_of(), service_of("a key"), True),
        (service_of(secret="s"), service_of(secret="s"), False),
        (service_of(secret="s"), service_of(secret="t"), True),
        (service_of("a key", "s"), service_of("a key", "t"), False),
    ],
)
def test_ids_are_signed_with_what_the_processes_share(
    one: FallbackService, other: FallbackService, is_invented: bool
) -> None:
    assert other._is_invented(one.add(Ended(), "/live")) is is_invented


# -- events of other processes -----------------------------------------------------------------------------------------

BATCH: dict[str, Any] = {"fallback": "batch", "number": 1, "stream": "0" * 32, "user": None, "batch": EMPTY}


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"fallback": "batch"},
        {"fallback": "other", "number": 1},
        {**BATCH, "number": 0},
        {**BATCH, "number": True},
        {**BATCH, "number": "1"},
        {**BATCH, "stream": "x"},
        {**BATCH, "stream": None},
        {**BATCH, "user": 1},
        {**BATCH, "batch": None},
        {**BATCH, "batch": {"number": 1, "messages": [1]}},
    ],
)
def test_events_that_no_process_sends(event: dict[str, Any]) -> None:
    service = service_of()
    with pytest.raises(EnvelopeError):
        service.receive(Envelope(service.topic, None, "1" * 16, event))


def test_events_of_processes_without_a_valid_name() -> None:
    service = service_of()
    with pytest.raises(EnvelopeError):
        service.receive(Envelope(service.topic, None, "x:*", BATCH))
    service.receive(Envelope(service.topic, None, "1" * 16, {"fallback": "answer", "number": 1, "outcome": "accepted"}))


async def test_only_the_asked_process_answers() -> None:
    async with two_nodes(lambda: fallback_app(Open())) as (client, _):
        service = client.app.topics.fallback
        question = service._asked[7] = module._Question("1" * 16)
        answer = {"fallback": "answer", "number": 7, "outcome": "accepted"}
        service.receive(Envelope(service.topic, None, "2" * 16, answer))
        assert question.outcome is Outcome.UNKNOWN
        with pytest.raises(EnvelopeError):
            service.receive(Envelope(service.topic, None, "1" * 16, {**answer, "outcome": "x"}))
        service.receive(Envelope(service.topic, None, "1" * 16, answer))
        assert question.outcome.value == "accepted"
        del service._asked[7]


def test_a_batch_as_json() -> None:
    batch = Batch(3, ("text", b"\x00\xff"), 1000)
    assert json.loads(json.dumps(batch.fields())) == {
        "number": 3,
        "messages": ["text", {"base64": "AP8="}],
        "close": 1000,
    }


class SmallBroker(MemoryBroker):
    """Carries messages of at most 4 KiB."""

    max_size = 4096


async def test_a_batch_that_the_broker_cannot_carry(caplog: pytest.LogCaptureFixture) -> None:
    broker = SmallBroker()
    async with posting_to_another_node(broker) as (peer, _):
        response = await peer.ws.post(["x" * 5000])
        assert (response.status, response.text) == (413, "the batch is larger than a message of the broker\n")
        assert (await peer.ws.post([json.dumps({"type": "ping"})], peer.ws.number)).status == 204
        assert await peer.receive() == {"type": "pong"}
        assert not caplog.records


async def test_batches_reach_the_stream_after_a_reconnect_of_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FIRST_PAUSE_SECONDS", 0.001)
    broker = MemoryBroker()
    async with posting_to_another_node(broker) as (peer, _):
        broker.disconnect()
        await until(lambda: len(broker.connections) == 2)
        await until_idle()
        assert await peer.ask("publish", topic="plain", data=1) == {"type": "ok"}


async def test_a_mounted_app_has_the_fallback() -> None:
    def mounted() -> App:
        app = App()
        app.mount("/in", fallback_app(Open()))
        return app

    async with two_nodes(mounted) as (client, other), fallback_peer(client, "/in/live") as peer:
        peer.ws.posts_by = other
        assert await peer.ask("publish", topic="plain", data=1) == {"type": "ok"}


class HeldBroker(MemoryBroker):
    """Accepts no message while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.released = anyio.Event()
        self.released.set()

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> MemoryConnection:
        connection = HeldConnection(self, receive, [])
        self.connections.append(connection)
        return connection


class HeldConnection(MemoryConnection):
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._broker.released.wait()  # type: ignore[attr-defined]
        await super().publish(messages)


async def test_batches_do_not_fill_the_queue_for_a_slow_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 1000)
    broker = HeldBroker()
    async with posting_to_another_node(broker) as (peer, other), anyio.create_task_group() as tasks:
        ping = json.dumps({"type": "ping"})
        service, number = other.app.topics.fallback, peer.ws.number + 1
        broker.released = anyio.Event()
        tasks.start_soon(peer.ws.post, [ping.ljust(1200)])
        await until(lambda: service._unsent == 1200)
        assert (await peer.ws.post([ping], number + 1)).status == 503
        broker.released.set()
        await until(lambda: not service._asked)
        assert (await peer.ws.post([ping], number + 1)).status == 204
        assert service._unsent == 0


async def test_a_broker_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 3600)
    broker = MemoryBroker()
    async with posting_to_another_node(broker) as (peer, other):
        broker.available = False
        broker.disconnect()
        relay = other.app.topics.relay
        assert relay is not None
        await until(lambda: relay.connection is None)
        assert (await peer.ws.post([])).status == 504
