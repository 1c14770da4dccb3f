"""Who may open and use a fallback connection: guards, origins, sessions, limits, and hostile requests."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from support.fallback_peer import FallbackSocket, accept, fallback_app, fallback_peer, fallback_socket, refused
from support.header_users import as_user, by_header
from support.topics_peer import Open

from pywsapp import App, Connection, Exceeded, HandshakeMiddleware, Options, RateLimit, Refuse, Request
from pywsapp._limits.over_limit import OverLimit
from pywsapp.auth import Authenticated
from pywsapp.exceptions import ConfigurationError
from pywsapp.http import Headers
from pywsapp.middleware.origin import OriginCheck
from pywsapp.testing import TestClient, VirtualClock, until_idle

pytestmark = [pytest.mark.anyio, pytest.mark.once]
PING = json.dumps({"type": "ping"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # in memory, nothing here depends on the event loop


async def post(socket: FallbackSocket, **arguments: Any) -> int:
    """Send a batch that would be accepted; return the status."""
    status = (await socket.post_body({"number": socket.number + 1, "messages": []}, **arguments)).status
    socket.number += status == 204
    return status


# -- users -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", ["app", "route", "component"])
async def test_both_requests_need_the_same_user(guarded: str) -> None:
    component = Open()
    if guarded == "component":
        component.authenticate = by_header
    app = App(authenticate=by_header if guarded == "app" else None)
    app.route("/live", component, fallback=True, authenticate=by_header if guarded == "route" else None)
    async with TestClient(app) as client:
        assert await refused(client) == 401
        async with fallback_socket(client, headers=as_user("ana")) as socket:
            assert await post(socket) == 204
            assert await post(socket, headers=as_user("ben")) == 404
            assert await post(socket, headers={}) == 401


async def test_a_user_without_a_key_is_a_mistake() -> None:
    app = fallback_app(Open(), authenticate=lambda request: Authenticated({"name": "ana"}))
    async with TestClient(app) as client:
        with pytest.raises(ConfigurationError, match="has no key"):
            async with fallback_socket(client):
                pass


async def test_a_user_that_is_disconnected_or_expires() -> None:
    app = fallback_app(Open(), authenticate=lambda request: Authenticated("ana", expires_at=100))
    async with TestClient(app, clock=VirtualClock()) as client:
        async with fallback_peer(client) as peer:
            await app.users["ana"].disconnect(4003, "out")
            assert (await peer.ws.end())["code"] == 4003
        await client.clock.advance(30)  # the disconnect is remembered for some seconds
        async with fallback_peer(client) as peer:
            await client.clock.advance(200)
            assert (await peer.ws.end())["code"] == 4401


async def test_sessions() -> None:
    class Counting(Open):
        def on_call(self, conn: Connection, method: str, params: Any) -> Any:
            return conn.session["name"]

    def log_in(request: Request) -> str:
        request.session["name"] = "ana"
        return "done"

    app = App(session_store="memory", authenticate=lambda request: request.session.get("name"))
    app.http("/login", log_in, authenticate=lambda request: "anyone")
    app.route("/live", Counting(), fallback=True)
    async with TestClient(app) as client:
        assert await refused(client) == 401
        await client.get("/login")
        async with fallback_peer(client) as peer:
            assert await peer.ask("call", method="me") == {"type": "ok", "result": "ana"}
            client.cookies.clear()
            assert await post(peer.ws) == 401


async def test_middleware_decides_about_both_requests() -> None:
    class Closed(HandshakeMiddleware):
        is_closed = False

        def check(self, request: Request) -> None:
            if self.is_closed:
                raise Refuse(503, body="closed")

    app, middleware = App(), Closed(Open())
    app.route("/live", middleware, fallback=True)
    async with TestClient(app) as client, fallback_socket(client) as socket:
        assert await post(socket) == 204
        middleware.is_closed = True
        assert await refused(client) == 503
        assert await post(socket) == 503


# -- routes ------------------------------------------------------------------------------------------------------------

STREAMS = [
    ("a.example", "/live"),
    ("b.example", "/live"),
    ("a.example", "/rooms/1"),
    ("a.example", "/rooms/2"),
    ("a.example", "/in/live"),
    ("b.example", "/in/live"),
]


def app_with_streams() -> App:
    """Return an App in which each of `STREAMS` differs from another one in its host, its path, or that of its mount."""
    app, component = App(http_host="*"), Open()
    for host in ("a.example", "b.example"):
        app.route("/live", component, http_host=host, fallback=True)
        inner = App(http_host="*")
        inner.route("/live", component, fallback=True)
        app.mount("/in", inner, http_host=host)
    app.route("/rooms/{room}", component, fallback=True)
    return app


@pytest.mark.parametrize("own", STREAMS)
async def test_a_stream_takes_requests_to_its_own_route_only(own: tuple[str, str]) -> None:
    async with TestClient(app_with_streams(), host=own[0]) as client, fallback_socket(client, own[1]) as socket:
        for host, path in STREAMS:
            client._host = host
            batch = {"number": socket.number + 1, "messages": []}
            status = (await client.post(path, json=batch, headers={"Pywsapp-Stream": socket.id})).status
            socket.number += status == 204
            assert status == (204 if (host, path) == own else 404), (host, path)


# -- pages of other origins --------------------------------------------------------------------------------------------


async def test_origins() -> None:
    app = App("example.com", authenticate=by_header)
    app.route("/live", Open(), ["https://page.example"], fallback=True)
    page, other = {"Origin": "https://page.example"}, {"Origin": "https://other.example"}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "pywsapp-stream"}
    async with TestClient(app) as client:
        assert await refused(client, headers={**as_user("ana"), **other}) == 403
        assert await refused(client, headers={**as_user("ana"), "Sec-Fetch-Site": "cross-site"}) == 403
        async with fallback_socket(client, headers={**as_user("ana"), **page}) as socket:
            assert socket.stream.headers["access-control-allow-origin"] == "https://page.example"
            assert socket.stream.headers["access-control-allow-credentials"] == "true"
            assert await post(socket) == 204
            assert await post(socket, headers={**as_user("ana"), **other}) == 403
            response = await socket.post_body(b"", stream="x", headers={**as_user("ana"), **page})
            assert response.status == 400
            assert response.headers["access-control-allow-origin"] == "https://page.example"
        response = await client.request("OPTIONS", "/live", headers={**page, **preflight})
        assert response.status == 204
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        assert "Pywsapp-Stream" in response.headers["access-control-allow-headers"]
        assert (await client.request("OPTIONS", "/live", headers={**other, **preflight})).status == 403
        assert (await client.request("OPTIONS", "/nowhere", headers={**page, **preflight})).status == 401


PAGE = {"Origin": "https://page.example"}


def assert_page_can_read(headers: Headers) -> None:
    assert headers.getlist("access-control-allow-origin") == ["https://page.example"]
    assert headers.getlist("access-control-allow-credentials") == ["true"]
    assert headers.getlist("vary") == ["Origin"]


async def test_a_page_reads_why_the_server_refuses() -> None:
    """Also what is decided after the component has accepted, and what fails."""

    class Failing(HandshakeMiddleware):
        def check(self, request: Request) -> None:
            raise RuntimeError("broken")

    app = App(max_connections_per_user=1, authenticate=by_header)
    origins = ["https://page.example"]
    app.route("/live", Open(), origins, fallback=True)
    app.route("/plain", Open(), origins)
    app.route("/failing", Failing(Open()), origins, fallback=True)
    app.route("/slow", Open(), origins, fallback=True, authenticate=wait_for_ever)
    app.route("/nested", OriginCheck(Open(), origins), origins, fallback=True)
    headers = {**as_user("ana"), **PAGE}
    statuses = {"/live": 429, "/plain": 406, "/failing": 500, "/slow": 503}
    async with (
        TestClient(app, raise_handler_errors=False, clock=VirtualClock()) as client,
        fallback_socket(client, "/nested", headers=headers) as socket,
    ):
        assert_page_can_read(socket.stream.headers)

        async def check(path: str) -> None:
            response = await client.get(path, headers={**headers, **accept()})
            assert response.status == statuses[path]
            assert_page_can_read(response.headers)

        for path in statuses:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(check, path)
                if path == "/slow":
                    await client.clock.advance(app.options.handshake_timeout)
        response = await socket.post_body(b"", stream="x", headers=headers)
        assert response.status == 400
        assert_page_can_read(response.headers)


async def wait_for_ever(request: Request) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("site", "status"), [(None, 403), ("same-origin", 200), ("same-site", 403), ("cross-site", 403), ("none", 403)]
)
async def test_a_required_origin(site: str | None, status: int) -> None:
    """Browsers send no Origin field with a GET request to the origin of the page."""
    app = App()
    app.route("/live", Open(), require_origin=True, fallback=True)
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    async with TestClient(app) as client:
        if status == 403:
            assert await refused(client, headers=headers) == 403
        else:
            async with fallback_socket(client, headers=headers) as socket:
                assert await post(socket) == 403
                assert await post(socket, headers={"Origin": "http://localhost"}) == 204


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_limits_of_connections() -> None:
    app = fallback_app(Open(), authenticate=by_header, max_connections_per_address=2, max_connections_per_user=1)
    async with TestClient(app) as client, fallback_socket(client, headers=as_user("ana")) as socket:
        assert await refused(client, headers=as_user("ana")) == 429
        async with fallback_socket(client, headers=as_user("ben")):
            assert await refused(client, headers=as_user("eve")) == 429
            assert await post(socket) == 204


async def test_messages_of_a_batch_count_for_rates() -> None:
    app = App()
    limited = RateLimit(Open(), messages_per_second=1, messages_burst=5, when_exceeded=Exceeded.CLOSE)
    app.route("/live", limited, fallback=True)
    async with TestClient(app) as client, fallback_socket(client) as socket:
        assert (await socket.post([PING] * 5)).status == 204
        assert (await socket.post([PING])).status == 204
        assert (await socket.end())["code"] == 1008


async def test_a_client_whose_messages_wait_is_slowed_down(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pywsapp")
    app = App(options=Options(max_queue=2))
    app.route("/live", RateLimit(Open(), messages_per_second=1, messages_burst=1), fallback=True)
    async with TestClient(app, clock=VirtualClock()) as client, fallback_socket(client) as socket:
        connect = json.dumps({"type": "connect", "id": 1})
        calls = [json.dumps({"type": "unsubscribe", "id": number, "topic": "t"}) for number in range(2, 8)]
        assert (await socket.post([connect, *calls])).status == 204
        response = await socket.post([PING], 2)
        assert (response.status, response.headers["retry-after"]) == (429, "1")
        assert "answered with" not in caplog.text  # a slow handler would fill the log
        await client.clock.advance(20)
        assert (await socket.post([PING], 2)).status == 204
        await until_idle()
        ids = [json.loads((await socket.stream.receive()).data).get("id") for _ in range(7)]
        assert ids == list(range(1, 8))


async def test_sizes_of_messages_and_bodies() -> None:
    app = App(options=Options(max_message_size=100_000))
    app.route("/live", Open(), fallback=True)
    async with TestClient(app) as client, fallback_peer(client) as peer:
        assert (await peer.ask("publish", topic="t", data='"' * 45_000))["type"] == "ok"
        assert (await peer.ws.post_body(b"[" + b" " * 300_000 + b"]")).status == 413
        too_large = json.dumps({"number": peer.ws.number + 1, "messages": ["ä" * 50_001]}, ensure_ascii=False)
        assert (await peer.ws.post_body(too_large.encode())).status == 204
        assert await peer.ws.end() == {"code": 1009, "reason": "the message is larger than 100000 bytes"}


async def test_a_client_that_reads_slowly() -> None:
    app = fallback_app(Open(), options=Options(max_outbox=100_000))
    async with TestClient(app) as client, fallback_peer(client) as peer:
        await peer.ask("subscribe", topic="t")
        peer.ws.stream.pause_reading()
        for _ in range(40):
            app.topic("t").broadcast("x" * 10_000)
            await until_idle()
        peer.ws.stream.resume_reading()
        assert await peer.ws.end() == {"code": 1013, "reason": "reading too slowly"}
        await until_idle()
        assert app.stats().limits["max_outbox"] == 1


async def test_a_client_that_does_not_connect() -> None:
    async with TestClient(fallback_app(Open()), clock=VirtualClock()) as client, fallback_socket(client) as socket:
        await client.clock.advance(15)
        assert (await socket.end())["code"] == 1008


async def test_an_idle_client_and_keepalives() -> None:
    app = fallback_app(Open(), options=Options(idle_timeout=100))
    async with TestClient(app, clock=VirtualClock()) as client, fallback_peer(client) as peer:
        for _ in range(3):
            await client.clock.advance(60)
            peer.send_object({"type": "ping"})
            assert await peer.receive() == {"type": "pong"}
        assert peer.ws.stream.comments >= 10
        await client.clock.advance(110)
        assert (await peer.ws.end())["code"] == 1000


# -- hostile requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"\xff",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"number":1}',
        b'{"number":0,"messages":[]}',
        b'{"number":-1,"messages":[]}',
        b'{"number":1.0,"messages":[]}',
        b'{"number":true,"messages":[]}',
        b'{"number":1e400,"messages":[]}',
        b'{"number":9007199254740992,"messages":[]}',
        b'{"number":"1","messages":[]}',
        b'{"number":1,"messages":{}}',
        b'{"number":1,"messages":"x"}',
        b'{"number":1,"messages":[1]}',
        b'{"number":1,"messages":[null]}',
        b'{"number":1,"messages":["\\ud800"]}',
        b'{"number":1,"messages":[{"base64":"x"}]}',
        b'{"number":1,"messages":[{"base64":1}]}',
        b'{"number":1,"messages":[{}]}',
        b'{"number":1,"messages":[[]]}',
        b'{"number":1,"messages":[' + b",".join([b'"x"'] * 1001) + b"]}",
        b'{"number":1,"messages":[],"close":1006}',
        b'{"number":1,"messages":[],"close":"1000"}',
        b'{"number":1,"messages":[],"close":5000}',
    ],
)
async def test_bodies_that_are_no_batch(body: bytes) -> None:
    async with TestClient(fallback_app(Open())) as client, fallback_peer(client) as peer:
        assert (await peer.ws.post_body(body)).status == 400
        assert (await peer.ask("subscribe", topic="t"))["type"] == "ok"


async def test_requests_without_one_id() -> None:
    async with TestClient(fallback_app(Open())) as client, fallback_socket(client) as socket:
        body = json.dumps({"number": 1, "messages": []})
        for headers in ([], [("Pywsapp-Stream", socket.id)] * 2):
            status = (await client.post("/live", body=body, headers=headers)).status
            assert status == (400 if headers else 405)


async def test_bytes_behind_the_request_end_the_stream() -> None:
    async with TestClient(fallback_app(Open())) as client, fallback_socket(client) as socket:
        for _ in range(5):
            socket.stream._peer.transport.write(b"x" * 20_000)
        await socket.stream.assert_ended()


async def test_a_refusal_keeps_its_class_and_is_not_changed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pywsapp")
    refusal = OverLimit(503, {"Retry-After": "3"}, "busy")

    class Busy(Open):
        def on_handshake(self, request: Request) -> Any:
            raise refusal

    async with TestClient(fallback_app(Busy())) as client:
        for _ in range(2):
            response = await client.get("/live", headers={**accept(), "Origin": "http://localhost"})
            assert response.status == 503
            assert response.headers.getlist("access-control-allow-origin") == ["http://localhost"]
    assert refusal.headers == (("Retry-After", "3"),)
    assert "answered with" not in caplog.text  # it is logged as the refusals of limits are
