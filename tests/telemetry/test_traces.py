"""Spans of handshakes and handlers, and their contexts on the way through brokers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from support.asgi_servers import hosted
from support.otlp_receiver import OtlpReceiver, attributes, receiving_over_grpc, receiving_over_http
from support.outages import until
from support.receiver import SECRET, Receiver
from support.serving import GUARD, serving
from support.spans import SPAN_ID, TRACE_ID, TRACEPARENT, Spans, current_trace_id, hexadecimal, identity

from pywsapp import (
    App,
    Connection,
    EchoServer,
    HandshakeError,
    MessageComponent,
    Options,
    RateLimit,
    Refuse,
    Request,
    WebhookOptions,
    connect,
    telemetry,
)
from pywsapp.brokers.envelope import Envelope, encode_envelope, traceparent_in
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.telemetry.contexts import parse_traceparent
from pywsapp.telemetry.handlers import HandlerSpans
from pywsapp.telemetry.otlp import export_over_otlp
from pywsapp.testing import TestClient, check_middleware

pytestmark = [pytest.mark.anyio, pytest.mark.once]

#: For tests of what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
Receiving = Callable[[], AbstractContextManager[OtlpReceiver]]


class Room(MessageComponent):
    """Refuses what the path asks for, and broadcasts what it gets."""

    def on_handshake(self, request: Request) -> None:
        name = request.path_params["name"]
        if name == "secret":
            raise Refuse(403, body="not\r\nfor you")
        if name == "broken":
            raise ValueError("broken")

    def on_message(self, conn: Connection, message: Any) -> Any:
        if message == "fail":
            raise ValueError("failed")
        return self._answer(conn, message) if message == "async" else conn.send(current_trace_id())

    async def _answer(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        await conn.send(current_trace_id())

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        conn.send("failed")


def app_with_room(**arguments: Any) -> App:
    app = App(port=0, **arguments)
    app.route("/rooms/{name}", Room())
    return app


@pytest.mark.parametrize(
    ("protocol", "receiving"), [("http/protobuf", receiving_over_http), ("grpc", receiving_over_grpc)]
)
async def test_a_receiver_decodes_the_spans(
    protocol: str, receiving: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pywsapp.telemetry.otlp._LAST_EXPORT_SECONDS", GUARD)
    app = app_with_room()
    export_over_otlp(app)
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        async with serving(app) as server, server.client("/rooms/a?token=secret"):
            pass
        (span,) = receiver.spans
        assert span.name == "GET /rooms/{name}"
        assert span.kind == span.SPAN_KIND_SERVER
        assert attributes(span.attributes) == {
            "client.address": "127.0.0.1",
            "http.request.method": "GET",
            "http.response.status_code": 101,
            "http.route": "/rooms/{name}",
            "url.path": "/rooms/a",
            "url.scheme": "http",
        }


@one_loop
@pytest.mark.parametrize(
    ("name", "status", "refusal", "code"),
    [("secret", 403, r"not\r\nfor you", StatusCode.UNSET), ("broken", 500, None, StatusCode.ERROR)],
)
async def test_a_refused_handshake_has_a_span(name: str, status: int, refusal: str | None, code: StatusCode) -> None:
    spans = Spans()
    async with TestClient(spans.instrument(app_with_room())) as client:
        with pytest.raises((HandshakeError, ValueError)):
            async with client.connect(f"/rooms/{name}"):
                pass
    span = spans.one("GET /rooms/{name}")
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == status
    assert refusal is None or refusal in str(span.attributes["pywsapp.refusal"])
    assert span.status.status_code is code
    assert len(span.events) == (status == 500)


@one_loop
async def test_a_handshake_that_is_refused_after_the_decision_has_the_status_of_the_answer() -> None:
    spans, app = Spans(), App(port=0)
    app.route("/", EchoServer(), subprotocols=["chat"], require_subprotocol=True)
    async with TestClient(spans.instrument(app)) as client:
        with pytest.raises(HandshakeError) as refused:
            async with client.connect("/"):
                pass
    assert spans.one("GET /").attributes["http.response.status_code"] == refused.value.status  # type: ignore[index]


@one_loop
async def test_a_client_does_not_choose_the_trace() -> None:
    spans = Spans()
    app = spans.instrument(app_with_room())
    async with TestClient(app) as client, client.connect("/rooms/a", headers={"traceparent": TRACEPARENT}):
        pass
    span = spans.one("GET /rooms/{name}")
    assert span.parent is None
    assert hexadecimal(identity(span).trace_id) != TRACE_ID
    (link,) = span.links
    assert hexadecimal(link.context.trace_id) == TRACE_ID


@one_loop
async def test_a_trusted_client_chooses_the_trace() -> None:
    spans = Spans()
    app = spans.instrument(app_with_room(), trust_clients=True)
    async with TestClient(app) as client, client.connect("/rooms/a", headers={"traceparent": TRACEPARENT}):
        pass
    span = spans.one("GET /rooms/{name}")
    assert hexadecimal(identity(span).trace_id) == TRACE_ID
    assert span.parent is not None
    assert span.parent.span_id == int(SPAN_ID, 16)


@one_loop
@pytest.mark.parametrize("trust_clients", [False, True])
@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", f"00-{'0' * 32}-{SPAN_ID}-01")],
        [("traceparent", f"00-{TRACE_ID}-{'0' * 16}-01")],
        [("traceparent", f"ff-{TRACE_ID}-{SPAN_ID}-01")],
        [("traceparent", TRACEPARENT.upper())],
        [("traceparent", TRACEPARENT + "-more")],
        [("traceparent", "x" * 4000)],
        [("traceparent", TRACEPARENT[:-1] + "é")],
    ],
    ids=["no-trace", "no-span", "version", "upper-case", "longer", "long", "no-ascii"],
)
async def test_an_invalid_traceparent_is_ignored(headers: list[tuple[str, str]], trust_clients: bool) -> None:
    spans = Spans()
    app = spans.instrument(app_with_room(), trust_clients=trust_clients)
    async with TestClient(app) as client, client.connect("/rooms/a", headers=headers):
        pass
    span = spans.one("GET /rooms/{name}")
    assert (span.parent, len(span.links)) == (None, 0)


def test_later_versions_of_traceparent_can_be_longer() -> None:
    assert parse_traceparent(f"01-{TRACE_ID}-{SPAN_ID}-01-more") is not None
    assert parse_traceparent(f"01-{TRACE_ID}-{SPAN_ID}-01more") is None


@pytest.mark.parametrize(
    "around",
    [lambda room: room, lambda room: RateLimit(room, messages_per_second=20, messages_burst=1)],
    ids=["plain", "delayed"],
)
async def test_handlers_have_spans_when_asked(around: Callable[[MessageComponent], MessageComponent]) -> None:
    spans, app = Spans(), App(port=0)
    app.route("/rooms/{name}", around(Room()))
    async with TestClient(spans.instrument(app, handler_spans=True)) as client, client.connect("/rooms/a") as ws:
        found = []
        for message in ("sync", "async", "fail"):
            ws.send(message)
            found.append(await ws.receive())
    handshake = spans.one("GET /rooms/{name}")
    named = [span for span in spans.finished if span.name == "on_message /rooms/{name}"]
    assert [hexadecimal(identity(span).trace_id) for span in named[:2]] == found[:2]
    for span in (*named, spans.one("on_open /rooms/{name}"), spans.one("on_close /rooms/{name}")):
        assert span.parent is None
        assert [link.context.span_id for link in span.links] == [identity(handshake).span_id]
    assert [span.status.status_code for span in named] == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    assert named[2].events[0].name == "exception"
    assert named[0].kind is SpanKind.CONSUMER


async def test_handlers_have_no_spans_by_default() -> None:
    spans = Spans()
    async with TestClient(spans.instrument(app_with_room())) as client, client.connect("/rooms/a") as ws:
        ws.send("async")
        assert await ws.receive() == "0" * 32
    assert spans.names == ["GET /rooms/{name}"]


async def test_a_program_makes_spans_that_belong_to_the_handshake() -> None:
    spans, app = Spans(), App(port=0)

    @app.route("/")
    class Program(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None:
            link = telemetry.link_to(conn)
            with (
                spans.tracer.start_as_current_span("child", telemetry.context_of(conn)),
                spans.tracer.start_as_current_span("linked", links=[link]),
            ):
                conn.send("done")

    async with TestClient(spans.instrument(app)) as client, client.connect("/") as ws:
        ws.send("")
        await ws.receive()
    handshake, child, linked = (identity(spans.one(name)) for name in ("GET /", "child", "linked"))
    assert spans.one("child").parent.span_id == handshake.span_id  # type: ignore[union-attr]
    assert child.trace_id == handshake.trace_id == linked.trace_id
    assert spans.one("linked").links[0].context.span_id == handshake.span_id


@one_loop
async def test_without_telemetry_a_connection_has_no_context() -> None:
    spans = Spans()

    class Program(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            with spans.tracer.start_as_current_span(
                "linked", telemetry.context_of(conn), links=[telemetry.link_to(conn)]
            ):
                pass

    app = App(port=0)
    app.route("/", Program())
    async with TestClient(app) as client, client.connect("/"):
        pass
    span = spans.one("linked")
    assert (span.parent, len(span.links)) == (None, 0)


@pytest.mark.parametrize("has_broker", [True, False])
@pytest.mark.parametrize("handler_spans", [True, False])
async def test_listeners_run_in_the_trace_of_the_broadcast(has_broker: bool, handler_spans: bool) -> None:
    spans, broker = Spans(), MemoryBroker()
    first, second = App(port=0, broker=broker), App(port=0, broker=broker)
    app = second if has_broker else first
    found: list[str] = []
    came = anyio.Event()

    @app.on_broadcast("room:*")
    def note(topic: Any, message: Any) -> None:
        found.append(current_trace_id())

    @app.on_broadcast("room:*")
    async def note_later(topic: Any, message: Any) -> None:
        found.append(current_trace_id())
        if len(found) == 4:
            came.set()

    for each in (first, second):
        spans.instrument(each, handler_spans=handler_spans)
    async with TestClient(first), TestClient(second):
        with spans.tracer.start_as_current_span("broadcast"):
            expected = current_trace_id()
            await first.topic("room:1").broadcast("hello")
            first.topic("room:1").broadcast("hello")
        with anyio.fail_after(GUARD):
            await came.wait()
    assert found == [expected] * 4
    assert spans.names.count("deliver") == (2 if has_broker else 0)
    assert len(spans.names) == (5 if handler_spans else 1) + spans.names.count("deliver")


def test_envelopes_have_no_context_without_telemetry() -> None:
    plain, traced = App(), App()
    traced.topics.codec.origin = plain.topics.codec.origin
    spans = Spans()
    spans.instrument(traced)
    assert traced.topics.trace_hooks is not None
    traced.topics.codec.trace(traced.topics.trace_hooks, traced.topics.receive)
    expected = b'{"v":1,"topic":"room:1","from":"%s","text":"hello"}' % plain.topics.codec.origin.encode()
    with spans.tracer.start_as_current_span("broadcast") as span:
        assert plain.topics.codec.encode("room:1", "hello") == expected
        data = traced.topics.codec.encode("room:1", "hello")
        found = traceparent_in(data)
        assert found is not None
        assert parse_traceparent(found).trace_id == span.get_span_context().trace_id  # type: ignore[union-attr]
    assert traced.topics.codec.encode("room:1", "hello") == expected
    assert plain.topics.codec.decode("room:1", data).message == "hello"


@pytest.mark.parametrize(
    "text",
    [
        f'","traceparent":"{TRACEPARENT}',
        json.dumps({"traceparent": TRACEPARENT}),
        f'{{"traceparent":"{TRACEPARENT}"}}',
        f',"traceparent":"{TRACEPARENT}"',
    ],
)
def test_a_message_cannot_forge_a_context(text: str) -> None:
    assert traceparent_in(encode_envelope(Envelope("room:1", text))) is None
    assert traceparent_in(encode_envelope(Envelope("room:1", text), None, TRACEPARENT)) == TRACEPARENT


def test_another_publisher_writes_a_context() -> None:
    fields = {"v": 1, "topic": "room:1", "traceparent": TRACEPARENT, "text": "hello"}
    assert traceparent_in(json.dumps(fields).encode()) == TRACEPARENT
    assert traceparent_in(json.dumps(fields, indent=4).encode()) == TRACEPARENT


async def test_webhooks_carry_a_context() -> None:
    spans, app = Spans(), app_with_room()

    @app.route("/follow")
    class Follow(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            await app.topic("room:1").add(conn)

    with Receiver() as receiver:
        receiver.answers.append((503, {"Retry-After": "0"}))
        app.webhook(receiver.url, secret=SECRET, events=["topic_occupied"], options=WebhookOptions(base=0.01))
        async with TestClient(spans.instrument(app)) as client, client.connect("/follow"):
            await until(lambda: len(receiver.requests) == 2)
        sent = [parse_traceparent(request.headers["traceparent"]) for request in receiver.requests]
    found = [span for span in spans.finished if span.kind is SpanKind.CLIENT]
    assert [one.span_id for one in sent if one] == [identity(span).span_id for span in found]
    assert [span.attributes["http.response.status_code"] for span in found if span.attributes] == [503, 204]
    assert "hidden" not in str([span.attributes for span in found])


@pytest.mark.parametrize(("path", "status"), [("/rooms/a", 101), ("/rooms/secret", 403)])
async def test_handshakes_on_an_asgi_server_have_spans(path: str, status: int) -> None:
    spans = Spans()
    async with hosted(spans.instrument(app_with_room())) as port:
        with suppress(HandshakeError):
            async with connect(f"ws://127.0.0.1:{port}{path}"):
                pass
    assert spans.one("GET /rooms/{name}").attributes["http.response.status_code"] == status  # type: ignore[index]


async def test_a_handshake_whose_client_has_gone_has_a_span() -> None:
    spans, app = Spans(), App(port=0)
    asked = anyio.Event()

    @app.route("/")
    class Slow(MessageComponent):
        async def on_handshake(self, request: Request) -> None:
            asked.set()
            await anyio.sleep_forever()

    async with serving(spans.instrument(app)) as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(HANDSHAKE)
            await asked.wait()
        await until(lambda: spans.names)
    assert spans.one("GET").attributes["error.type"] == "cancelled"  # type: ignore[index]


@one_loop
async def test_a_request_that_reaches_no_component_has_no_span() -> None:
    spans, app = Spans(), App(port=0, max_connections=1)
    app.route("/", EchoServer())
    async with TestClient(spans.instrument(app)) as client, client.connect("/"):
        with pytest.raises(HandshakeError, match="503"):
            async with client.connect("/"):
                pass
        assert spans.names == ["GET /"]


async def test_spans_of_handlers_keep_the_rules_of_middleware() -> None:
    tracer = Spans().tracer
    await check_middleware(lambda component: HandlerSpans(component, tracer))


class Hanging(MessageComponent):
    """Waits for ever in its handler."""

    def __init__(self) -> None:
        self.called = anyio.Event()

    async def on_message(self, conn: Connection, message: Any) -> None:
        self.called.set()
        await anyio.sleep_forever()


@pytest.mark.parametrize("end", ["client", "server"])
async def test_the_span_of_a_handler_that_is_cancelled_ends(end: str) -> None:
    spans, hanging = Spans(), Hanging()
    app = App(port=0, options=Options(cancel_on_disconnect=end == "client"))
    app.route("/", RateLimit(hanging, messages_per_second=1, messages_burst=1))
    async with serving(spans.instrument(app, handler_spans=True)) as server, server.client() as client:
        await client.send("hang", "queued")
        await hanging.called.wait()
        if end == "client":
            await client.reset()
            await until(lambda: not app.stats().open_connections)
        else:
            server.cancel()
            await server.ended.wait()
    assert spans.open == 0
    assert spans.one("on_message /").status.status_code is StatusCode.ERROR


async def test_the_span_of_a_message_that_is_dropped_while_it_waits_ends() -> None:
    spans, app = Spans(), App(port=0)
    app.route("/", RateLimit(EchoServer(), messages_per_second=0.01, messages_burst=1))
    async with serving(spans.instrument(app, handler_spans=True)) as server, server.client() as client:
        await client.send("first", "second")
        await until(lambda: spans.open)
        await client.reset()
        await until(lambda: not app.stats().open_connections)
    assert spans.open == 0
    assert spans.names.count("on_message /") == 2
