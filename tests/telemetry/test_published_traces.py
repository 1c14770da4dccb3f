"""A trace begins in the program that publishes, and ends in the processes that deliver the message."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from opentelemetry.trace import SpanKind
from support.outages import until
from support.services import Redis, redis_server
from support.spans import SPAN_ID, TRACE_ID, TRACEPARENT, Spans, current_trace_id, hexadecimal, identity

from pywsapp import App, AsyncPublisher, Connection, MessageComponent, Publisher
from pywsapp.brokers.base import Broker
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.routing.endpoints import sign
from pywsapp.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.once]

#: For tests of what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])
KEY = "k" * 32


def app_with_room(broker: str | Broker | None = None, **arguments: Any) -> App:
    app = App(port=0, broker=broker, **arguments)

    @app.route("/")
    class Room(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            await app.topic("room").add(conn)
            conn.send("joined")

    return app


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


async def test_a_trace_passes_redis_from_a_program_to_the_delivery(redis: Redis) -> None:
    spans, found = Spans(), []
    app = spans.instrument(app_with_room(redis.url))
    app.on_broadcast("room")(lambda topic, message: found.append(current_trace_id()))

    def publish() -> str:
        with Publisher(redis.url) as publisher, spans.tracer.start_as_current_span("view"):
            publisher.publish("room", "hello")  # from a thread of its own
            return current_trace_id()

    async with TestClient(app) as client, client.connect("/") as ws:
        assert await ws.receive() == "joined"
        trace = await anyio.to_thread.run_sync(publish)
        assert await ws.receive() == "hello"
        assert found == [trace]
        await until(lambda: "deliver" in spans.names)
    delivery = spans.one("deliver")
    assert delivery.parent is not None
    assert delivery.parent.span_id == identity(spans.one("view")).span_id
    assert delivery.kind is SpanKind.CONSUMER
    assert spans.attributes("deliver")["messaging.destination.name"] == "room"


async def test_a_process_that_delivers_its_own_message_from_a_history_has_one_span() -> None:
    spans, app = Spans(), app_with_room(MemoryBroker())
    app.history("room")
    async with TestClient(spans.instrument(app)) as client, client.connect("/") as ws:
        assert await ws.receive() == "joined"
        with spans.tracer.start_as_current_span("view"):
            await app.topic("room").broadcast("hello")
        await ws.receive()
    assert spans.names.count("deliver") == 1


@one_loop
async def test_own_messages_that_come_back_have_no_span() -> None:
    spans, app = Spans(), app_with_room(MemoryBroker())
    async with TestClient(spans.instrument(app)) as client, client.connect("/") as ws:
        assert await ws.receive() == "joined"
        with spans.tracer.start_as_current_span("view"):
            await app.topic("room").broadcast("hello")
        assert await ws.receive() == "hello"
    assert "deliver" not in spans.names


@one_loop
@pytest.mark.parametrize("key", [KEY, "forged" * 5], ids=["right", "wrong"])
async def test_only_a_genuine_envelope_has_a_span(key: str) -> None:
    spans, broker = Spans(), MemoryBroker()
    app = spans.instrument(app_with_room(broker, broker_key=KEY))
    async with TestClient(app) as client, client.connect("/"), AsyncPublisher(broker, key=key) as publisher:
        with spans.tracer.start_as_current_span("view"):
            await publisher.publish("room", "hello")
    assert spans.names.count("deliver") == (key == KEY)


@one_loop
async def test_a_publisher_writes_no_context_outside_of_a_span() -> None:
    publisher = AsyncPublisher(MemoryBroker())
    expected = encode_envelope(Envelope("room", "hello", publisher._origin, None, "id"))
    assert publisher._encode("room", "hello", "id", None) == expected


@pytest.mark.parametrize("trust_clients", [False, True])
async def test_the_publish_endpoint_continues_the_trace_of_the_program(trust_clients: bool) -> None:
    spans, broker = Spans(), MemoryBroker()
    first, second = app_with_room(broker), app_with_room(broker)
    first.publish_endpoint("/publish", KEY)
    for app in (first, second):
        spans.instrument(app, trust_clients=trust_clients)
    body = json.dumps({"topic": "room", "text": "hello"}).encode()
    headers = {"X-Signature": sign(KEY, "/publish", body, time.time()), "traceparent": TRACEPARENT}
    async with TestClient(first) as client, TestClient(second) as other, other.connect("/") as ws:
        assert await ws.receive() == "joined"
        assert (await client.post("/publish", body=body, headers=headers)).status == 204
        assert await ws.receive() == "hello"
        headers["X-Signature"] = sign("forged" * 5, "/publish", body, time.time())
        assert (await client.post("/publish", body=body, headers=headers)).status == 401
    publish, deliver = spans.one("publish"), spans.one("deliver")
    request = next(span for span in spans.finished if span.name == "POST /publish")
    assert hexadecimal(identity(publish).trace_id) == hexadecimal(identity(deliver).trace_id) == TRACE_ID
    assert publish.parent is not None
    assert deliver.parent is not None
    assert deliver.parent.span_id == identity(publish).span_id
    if trust_clients:
        assert publish.parent.span_id == identity(request).span_id
    else:
        assert publish.parent.span_id == int(SPAN_ID, 16)
        assert [link.context.span_id for link in publish.links] == [identity(request).span_id]
