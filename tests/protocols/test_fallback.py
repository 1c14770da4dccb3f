"""The fallback for networks that block WebSockets: events down, POST requests up, in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.fallback_peer import UNKNOWN_STREAM, fallback_app, fallback_peer, fallback_socket, refused
from support.topics_peer import MSGPACK, Open, app_of, peer_of

from pywsapp import App, Connection, ConnectionClosed, HandshakeError, MessageComponent
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import TestClient, until_idle

pytestmark = pytest.mark.anyio


class Recording(Open):
    """Records the calls that it gets, and how connections have ended."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.ends: list[tuple[int | None, str, bool]] = []
        self.conns: list[Connection] = []

    def on_open(self, conn: Connection) -> None:
        self.conns.append(conn)

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        self.calls.append(method)
        return conn.user

    def on_close(self, conn: Connection) -> None:
        self.ends.append((conn.close_code, conn.close_reason, conn.was_clean))


@pytest.mark.parametrize("subprotocol", ["pywsapp.topics.v1", MSGPACK])
async def test_messages_in_both_directions(subprotocol: str) -> None:
    async with (
        TestClient(fallback_app(Open())) as client,
        fallback_peer(client, subprotocol=subprotocol) as peer,
        peer_of(client) as other,
    ):
        assert (await peer.ask("subscribe", topic="room:1", since=None))["complete"]
        await other.ask("publish", topic="room:1", data="über")
        found = await peer.next()
        assert (found["data"], found["topic"]) == ("über", "room:1")
        await other.ask("subscribe", topic="plain")
        assert await peer.ask("publish", topic="plain", data={"key": 1}, key="k1") == {"type": "ok"}
        assert (await other.next())["data"] == {"key": 1}
        peer.send_object({"type": "ping"})
        assert await peer.receive() == {"type": "pong"}


async def test_the_stream_is_not_buffered_or_cached() -> None:
    async with TestClient(fallback_app(Open())) as client, fallback_socket(client) as socket:
        headers = socket.stream.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert "content-length" not in headers


async def test_order_and_repeated_batches() -> None:
    component = Recording()
    async with TestClient(fallback_app(component)) as client, fallback_peer(client) as peer:
        socket = peer.ws
        calls = [json.dumps({"type": "call", "method": str(number)}) for number in range(6)]
        assert (await socket.post(calls[:3])).status == 204
        assert (await socket.post(calls[:3], socket.number)).status == 204  # the answer was lost
        assert (await socket.post(calls[5:], socket.number + 2)).status == 409
        assert (await socket.post(calls[3:])).status == 204
        assert (await socket.post(calls[:1], 1)).status == 204
        await until_idle()
        assert component.calls == list("012345")


async def test_a_stream_that_is_unknown_or_gone() -> None:
    async with TestClient(fallback_app(Open())) as client:
        async with fallback_socket(client) as socket:
            first = socket.id
            for stream in (UNKNOWN_STREAM, "", "x", first[:-1], first + "x", f"{first.partition('.')[0]}.", "ä"):
                assert (await socket.post_body({"number": 1, "messages": []}, stream=stream)).status == 404
        async with fallback_socket(client) as socket:
            assert (await socket.post_body({"number": 1, "messages": []}, stream=first)).status == 404
            assert (await socket.post_body({"number": 1, "messages": []})).status == 204
        assert not client.app.topics.fallback._holders


async def test_the_client_closes() -> None:
    component = Recording()
    async with TestClient(fallback_app(component)) as client, fallback_peer(client) as peer:
        call = json.dumps({"type": "call", "method": "last"})
        assert (await peer.ws.post([call], close=1000)).status == 204
        await peer.ws.stream.assert_ended()
        await until_idle()
        assert component.calls == ["last"]
        assert component.ends == [(1000, "", True)]


async def test_the_server_closes() -> None:
    component = Recording()
    async with TestClient(fallback_app(component)) as client, fallback_peer(client) as peer:
        component.conns[0].close(4001, 'a "reason"\n')
        assert (await peer.receive())["type"] == "disconnect"
        assert await peer.ws.end() == {"code": 4001, "reason": 'a "reason"\n'}
        assert (await peer.ws.post([])).status == 404
        await until_idle()
        assert component.ends == [(4001, 'a "reason"\n', True)]


async def test_the_connection_is_lost() -> None:
    component = Recording()
    async with TestClient(fallback_app(component)) as client:
        async with fallback_peer(client) as peer:
            await peer.ask("subscribe", topic="plain")
        await until_idle()
        assert component.ends == [(1006, "connection lost", False)]
        assert client.app.stats().open_connections == 0


async def test_the_drain_tells_the_client_to_come_back() -> None:
    app = fallback_app(Open())
    async with TestClient(app) as client, fallback_peer(client) as peer:
        app.stop()
        assert (await peer.receive())["type"] == "disconnect"
        with pytest.raises(ConnectionClosed):
            await peer.receive()
        assert peer.ws.ended["code"] == 1012


async def test_routes_without_the_fallback() -> None:
    app = app_of(Open())
    app.route("/text", MessageComponent())
    async with TestClient(app) as client:
        assert await refused(client) == 406
        assert await refused(client, "/text") == 406
        assert await refused(client, "/nowhere") == 404
        response = await client.post("/live", headers={"Pywsapp-Stream": UNKNOWN_STREAM}, body="{}")
        assert response.status == 405
        with pytest.raises(HandshakeError):  # as before: what other requests get
            async with client.events("/live"):
                pass


@pytest.mark.parametrize("component", [MessageComponent(), MessageComponent, lambda: Open()])
def test_the_fallback_is_for_topic_components(component: Any) -> None:
    with pytest.raises(ConfigurationError, match="fallback=True is for a TopicComponent"):
        App().route("/live", component, fallback=True)


async def test_a_class_and_middleware_have_the_fallback() -> None:
    app = App()
    app.route("/live", Open, fallback=True)
    async with TestClient(app) as client, fallback_peer(client) as peer:
        assert (await peer.ask("subscribe", topic="t"))["type"] == "ok"


async def test_fallback_connections_count_for_their_route() -> None:
    app = fallback_app(Open(), metrics=True)
    async with TestClient(app) as client:
        async with fallback_peer(client) as peer:
            await peer.ask("subscribe", topic="plain")
            stats = app.stats()
            route = stats.routes["/live"]
            assert (stats.handshakes, route.handshakes, route.open_connections) == (1, 1, 1)
            assert (route.messages_received, route.messages_sent) == (2, 2)
            before = route.bytes_received
            assert before > 0
            assert route.bytes_sent > 0
            messages = [json.dumps({"type": "ping"}), '{"type": "ping", "text": "ü"}']
            await peer.ws.post(messages)
            await until_idle()
            route = app.stats().routes["/live"]
            assert route.messages_received == 4
            assert route.bytes_received - before == sum(len(message.encode()) for message in messages)
            assert route.handler_seconds.number == 4  # type: ignore[union-attr]
        await until_idle()
        route = app.stats().routes["/live"]
        assert (route.open_connections, route.closed) == (0, {"1006": 1})
