"""Spans of handshakes and plain requests end, whatever happens to them, and have the status of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from opentelemetry.trace import StatusCode
from support.asgi_servers import hosted
from support.outages import until
from support.plain_site import SITE_BACKENDS, PlainSite, respond, served
from support.serving import serving
from support.spans import TRACEPARENT, Spans, current_trace_id, hexadecimal, identity
from support.wire import get

from pywsapp import App, EchoServer, MessageComponent, Options, Refuse, Request, Response, in_thread
from pywsapp.auth import public
from pywsapp.testing import TestClient, VirtualClock

pytestmark = [pytest.mark.anyio, pytest.mark.once]

#: For tests of what does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["trio"])
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def page(request: Request) -> str:
    if request.path_params["name"] == "broken":
        raise ValueError("broken")
    if request.path_params["name"] == "secret":
        raise Refuse(403, body="not for you")
    return current_trace_id()


async def later(request: Request) -> str:
    await anyio.lowlevel.checkpoint()
    return page(request)


def app_with_pages(**arguments: Any) -> App:
    app = App(port=0, **arguments)
    app.http("/def/{name}", page, methods=["GET", "BREW"])
    app.http("/async/{name}", later)
    app.http("/thread/{name}", in_thread(page))
    return app


@pytest.mark.parametrize("kind", ["def", "async", "thread"])
async def test_a_plain_request_has_a_span(kind: str) -> None:
    spans = Spans()
    async with TestClient(spans.instrument(app_with_pages())) as client:
        text = (await client.get(f"/{kind}/a?token=secret", headers={"traceparent": TRACEPARENT})).text
        span = spans.one(f"GET /{kind}/{{name}}")
        assert text == hexadecimal(identity(span).trace_id)
        assert (span.parent, len(span.links)) == (None, 1)
        found = spans.attributes(span.name)
        assert (found["http.response.status_code"], found["url.path"]) == (200, f"/{kind}/a")
        assert "secret" not in str(found)


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_plain_requests_that_fail_have_spans(kind: str) -> None:
    spans = Spans()
    app = spans.instrument(app_with_pages())
    async with TestClient(app) as client:
        with pytest.raises(ValueError, match="broken"):
            await client.get(f"/{kind}/broken")
        await client.get(f"/{kind}/secret")
        await client.get("/nothing")
    broken, secret, nothing = spans.finished
    assert [one.attributes["http.response.status_code"] for one in spans.finished] == [500, 403, 404]  # type: ignore[index]
    assert [one.status.status_code for one in spans.finished] == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]
    assert broken.events[0].name == "exception"
    assert secret.attributes is not None
    assert secret.attributes["pywsapp.refusal"] == "403 not for you"
    assert nothing.name == "GET"


@one_loop
async def test_a_client_cannot_invent_a_name_of_a_span() -> None:
    spans = Spans()
    async with TestClient(spans.instrument(app_with_pages())) as client:
        assert (await client.request("BREW", "/def/a")).status == 200
    found = spans.attributes("HTTP /def/{name}")
    assert (found["http.request.method"], found["http.request.method_original"]) == ("_OTHER", "BREW")


@one_loop
async def test_health_checks_and_metrics_have_no_spans() -> None:
    spans, app = Spans(), app_with_pages()
    app.health("/health")
    app.metrics(guard=public)
    async with TestClient(spans.instrument(app)) as client:
        for path in ("/health", "/metrics"):
            assert (await client.get(path)).status == 200
    assert spans.names == []


@pytest.mark.parametrize("name", ["a", "secret"])
async def test_plain_requests_on_an_asgi_server_have_spans(name: str) -> None:
    spans = Spans()
    async with hosted(spans.instrument(app_with_pages())) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(get(f"/def/{name}"))
            assert (await stream.receive()).startswith(b"HTTP/1.1 " + (b"200" if name == "a" else b"403"))
        await until(lambda: spans.finished)
    assert spans.attributes("GET /def/{name}")["http.response.status_code"] == (200 if name == "a" else 403)


async def test_the_span_of_a_body_ends_with_the_body() -> None:
    spans, app, is_sending, pieces = Spans(), App(port=0), anyio.Event(), 3

    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            await anyio.lowlevel.checkpoint()
            yield b"x"
        is_sending.set()
        await anyio.sleep_forever()

    app.http("/file", lambda request: Response(body(), content_length=4))
    async with serving(spans.instrument(app)) as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(get("/file"))
            await is_sending.wait()
            assert spans.open == 1
        await until(lambda: spans.finished)
        found = spans.attributes("GET /file")
        assert (found["http.response.status_code"], found["error.type"]) == (200, "incomplete")
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(get("/file"))
            await until(lambda: spans.open)
            server.cancel()  # the App ends at once
    assert spans.open == 0


async def test_a_decision_in_a_thread_whose_client_has_gone_has_a_span() -> None:
    spans, app = Spans(), App(port=0)
    asked, answer = anyio.Event(), anyio.Event()

    @app.route("/")
    class Slow(MessageComponent):
        async def on_handshake(self, request: Request) -> None:
            asked.set()
            with anyio.CancelScope(shield=True):  # as a thread, which cannot be cancelled
                await answer.wait()

    async with serving(spans.instrument(app)) as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(HANDSHAKE)
            await asked.wait()
        await until(lambda: spans.finished)
        answer.set()
    assert spans.open == 0
    assert spans.attributes("GET")["error.type"] == "cancelled"


async def test_an_event_stream_whose_client_goes_before_it_is_allowed_has_a_span() -> None:
    asked = anyio.Event()

    async def authorize(*_: Any) -> bool:
        asked.set()
        await anyio.sleep_forever()
        return True

    spans, app = Spans(), App(port=0)
    app.events("/news", "news", authorize=authorize)
    async with serving(spans.instrument(app)) as server:
        async with await anyio.connect_tcp("127.0.0.1", server.port) as stream:
            await stream.send(get("/news"))
            await asked.wait()
            assert spans.open == 1
        await until(lambda: spans.finished)
    assert spans.attributes("GET")["error.type"] == "cancelled"


async def test_a_decision_that_takes_too_long_has_the_status_of_the_answer() -> None:
    spans, clock = Spans(), VirtualClock()
    app = App(options=Options(handshake_timeout=5))

    @app.route("/")
    class Slow(MessageComponent):
        async def on_handshake(self, request: Request) -> None:
            await anyio.sleep_forever()

    async with TestClient(spans.instrument(app), clock=clock) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.assert_refused, "/", 503)
        await clock.advance(6)
    found = spans.attributes("GET /")
    assert (found["http.response.status_code"], found["error.type"]) == (503, "503")
    assert found["pywsapp.refusal"] == "503 deciding took too long"


@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_a_client_of_an_asgi_server_that_has_gone_has_a_span(kind: str) -> None:
    spans, app = Spans(), App("*", port=0)
    app.route("/", EchoServer())
    app.http("/page", lambda request: "page")
    scope: dict[str, Any] = {"type": kind, "path": "/" if kind == "websocket" else "/page", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")], "method": "GET", "scheme": "ws", "client": None, "server": None}
    events = iter([{"type": "websocket.connect"}])

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        raise OSError("the client has gone")

    async with TestClient(spans.instrument(app)):
        try:
            await app(scope, receive, send)
        except OSError:
            assert kind == "http"
    assert spans.open == 0
    assert [one.attributes["error.type"] for one in spans.finished] == ["cancelled"]  # type: ignore[index]


@pytest.mark.parametrize("anyio_backend", SITE_BACKENDS)
async def test_requests_of_a_site_have_spans() -> None:
    spans, site, app = Spans(), PlainSite(), App("*", 0)

    @site.at("/who")
    async def who(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, current_trace_id().encode())

    async with served(site, spans.instrument(app)) as (_, peer):
        traces = []
        for _ in range(2):
            await peer.send(get("/who"))
            traces.append((await peer.response()).body.decode())
        await until(lambda: len(spans.finished) == 2)
        await peer.send(b"GET /who HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n")
        await peer.response()
    assert [hexadecimal(identity(span).trace_id) for span in spans.finished[:2]] == traces
    assert len({*traces}) == 2
    assert spans.open == 0


@one_loop
@pytest.mark.parametrize("trust_clients", [False, True])
@pytest.mark.parametrize(
    ("headers", "is_known"),
    [
        ([("traceparent", TRACEPARENT), ("tracestate", ",".join(f"k{number}=v" for number in range(1000)))], True),
        ([("traceparent", TRACEPARENT), ("tracestate", "=,=,\t"), ("tracestate", "a=b")], True),
        ([("traceparent", TRACEPARENT), ("baggage", ",".join(f"k{number}=v" for number in range(1000)))], True),
        ([("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)], False),
    ],
    ids=["many entries", "malformed", "baggage", "repeated"],
)
async def test_hostile_contexts_of_clients_do_no_harm(
    headers: list[tuple[str, str]], is_known: bool, trust_clients: bool
) -> None:
    spans = Spans()
    async with TestClient(spans.instrument(app_with_pages(), trust_clients=trust_clients)) as client:
        assert (await client.get("/def/a", headers=headers)).status == 200
    span = spans.one("GET /def/{name}")
    assert (span.parent is not None) == (is_known and trust_clients)
    assert len(span.links) == (is_known and not trust_clients)
