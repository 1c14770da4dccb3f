"""A component of topics: its hooks, what the developer does wrong, and what is around it."""

from __future__ import annotations

import datetime
from typing import Any

import anyio
import pytest
from google.protobuf.source_context_pb2 import SourceContext
from support.serving import GUARD, Recorder
from support.topics_peer import JSON, MSGPACK, Open, TopicsPeer, app_of, passing_time, peer_of, talking

from pywsapp import (
    App,
    CallError,
    ConfigurationError,
    Connection,
    HandshakeError,
    InvalidCredentials,
    MessageComponent,
    Options,
    RateLimit,
    Topic,
    TopicComponent,
    TopicError,
    in_thread,
    on,
    rpc,
)
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec
from pywsapp.testing import FakeConnection, TestClient, VirtualClock, two_nodes

pytestmark = pytest.mark.anyio
FILE = SourceContext(file_name="a.proto")
DAY = datetime.datetime(2026, 11, 30, tzinfo=datetime.timezone.utc)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def component_with(**attributes: Any) -> type[TopicComponent]:
    return type("Rooms", (Open,), attributes)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"on_message": lambda self, conn, message: None}, "Rooms.on_message is never called: .* use on_publish"),
        ({"on_invalid": lambda self, conn, error: None}, "Rooms.on_invalid is never called"),
        ({"subprotocols": ["chat"]}, "Rooms.subprotocols is never called"),
        ({"on_publsh": lambda self, conn, topic, message: None}, "did you mean on_publish"),
        ({"on_calls": lambda self, conn, method, params: None}, "did you mean on_call"),
        ({"authenticate_tokens": lambda self, token: None}, "did you mean authenticate_token"),
        ({"on_publish": lambda self, conn, topic: None}, "Rooms.on_publish"),
        ({"on_track": lambda self, conn, meta: None}, "Rooms.on_track"),
        ({"on_call": "x"}, "Rooms.on_call must be a method"),
        ({"authenticate_token": lambda self: None}, "Rooms.authenticate_token"),
        ({"join": on("join")(lambda self, conn, message: None)}, "Rooms has a method with @on"),
    ],
)
def test_mistakes_are_found_when_the_component_is_routed(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        App().route("/", component_with(**attributes)())


@pytest.mark.parametrize(
    "settings", [{"codec": JsonCodec()}, {"subprotocols": ["chat"]}], ids=["codec", "subprotocols"]
)
@pytest.mark.parametrize(
    "component", [Open(), Open, RateLimit(Open(), messages_per_second=1)], ids=["object", "class", "middleware"]
)
def test_a_route_does_not_choose_the_codec(component: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="leave codec and subprotocols out"):
        App().route("/", component, **settings)
    App(codec=JsonCodec()).route("/", component)


def test_on_publish_is_no_hook_of_other_components(caplog: pytest.LogCaptureFixture) -> None:
    kind = type("Chat", (MessageComponent,), {"on_publish": lambda self: None})
    App().route("/", kind())
    assert "Chat.on_publish is never called" in caplog.text


def test_hooks_can_be_called_in_a_test() -> None:
    class Rooms(Open):
        def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
            return [topic.name, message]

    component = Rooms()
    conn = FakeConnection(component=component)
    assert component.on_publish(conn, conn.fake_app.topic("t"), 1) == ["t", 1]
    with pytest.raises(ConfigurationError, match="test it with TestClient"):
        component.on_message(conn, "x")


# -- hooks -------------------------------------------------------------------------------------------------------------


class Recording(Open, Recorder):
    """Records the calls of its hooks."""

    def on_open(self, conn: Connection) -> None:
        self.record("open", conn.user)

    async def on_close(self, conn: Connection) -> None:
        self.record("close", conn.close_code)

    def on_subscribe(self, conn: Connection, topic: Topic) -> None:
        self.record("subscribe", topic.name)
        if topic.name == "full":
            raise TopicError("the room is full")
        if topic.name == "closed":
            raise CallError("closed", "the room is closed")

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        self.record("unsubscribe", topic.name)

    @in_thread
    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        if message == "fail":
            raise RuntimeError("fail")
        if message == "expired":
            raise InvalidCredentials("expired")
        return message

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.record("error", str(exc))
        return super().on_error(conn, exc)


async def test_the_order_of_hooks() -> None:
    component = Recording()
    async with TestClient(app_of(component)) as client:
        async with peer_of(client, connects=False) as peer:
            assert component.calls == [], "on_open is called when the client has connected"
            await peer.connect()
            await peer.ask("subscribe", topic="a")
            assert await peer.ask("subscribe", topic="full") == {
                "type": "error",
                "code": "not_allowed",
                "message": "the room is full",
            }
            assert await peer.fails("subscribe", topic="closed") == "closed"
            await peer.ask("subscribe", topic="b")
            await peer.ask("unsubscribe", topic="b")
        await component.until(lambda: ("unsubscribe", "a") in component.calls)
    assert component.calls == [
        ("open", None),
        ("subscribe", "a"),
        ("subscribe", "full"),
        ("subscribe", "closed"),
        ("subscribe", "b"),
        ("unsubscribe", "b"),
        ("close", 1000),
        ("unsubscribe", "a"),
    ]


async def test_a_client_that_never_connects_is_none_for_the_component() -> None:
    component = Recording()
    async with TestClient(app_of(component)) as client, peer_of(client, connects=False):
        pass
    assert component.calls == []


async def test_a_hook_that_fails_leaves_the_connection_open() -> None:
    component = Recording()
    async with TestClient(app_of(component), raise_handler_errors=False) as client, peer_of(client) as peer:
        assert await peer.fails("publish", topic="t", data="fail") == "internal_error"
        assert ("error", "fail") in component.calls
        assert await peer.ask("publish", topic="t", data=1) == {"type": "ok"}
        assert await peer.fails("publish", topic="t", data="expired") == "unauthenticated"
        await peer.ws.assert_closed(4401)


async def test_a_failing_on_open_closes_the_connection() -> None:
    class Failing(Open):
        def on_open(self, conn: Connection) -> None:
            raise ValueError("no")

    async with (
        TestClient(app_of(Failing()), raise_handler_errors=False) as client,
        peer_of(client, connects=False) as a,
    ):
        assert await a.fails("connect") == "internal_error"
        await a.ws.assert_closed(1011)


async def test_a_slow_hook_holds_requests_back_but_no_ping() -> None:
    class Slow(Open):
        def __init__(self) -> None:
            self.goes_on = anyio.Event()
            self.published: list[Any] = []

        async def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
            if message == 1:
                await self.goes_on.wait()
            self.published.append(message)
            return message

    component = Slow()
    async with talking(component) as peer:
        ids = [peer.send("publish", topic="t", data=n) for n in (1, 2)]
        peer.send_object({"type": "ping"})
        assert await peer.receive() == {"type": "pong"}
        assert component.published == []
        component.goes_on.set()
        for request_id in ids:
            assert await peer.reply(request_id) == {"type": "ok"}
        assert component.published == [1, 2]


async def test_the_server_ends_a_subscription() -> None:
    class Banning(Open):
        def __init__(self) -> None:
            self.banned: set[str] = set()

        def authorize(self, conn: Connection, action: str, topic: str) -> bool:
            return action not in self.banned

    component = Banning()
    async with TestClient(app_of(component)) as client, peer_of(client) as a, peer_of(client) as b:
        await a.ask("subscribe", topic="room:1")
        await b.ask("subscribe", topic="room:1", presence=True)
        component.banned.add("presence")
        for conn in client.app.topic("room:1"):
            await conn.reauthorize()
        ended = {
            "type": "unsubscribed",
            "topic": "room:1",
            "code": "not_allowed",
            "message": "the server has ended the subscription",
        }
        assert await b.next() == ended
        await a.ws.assert_silent()
        component.banned.add("subscribe")
        for conn in client.app.topic("room:1"):
            await conn.reauthorize()
        assert await a.next() == ended
        assert await a.fails("unsubscribe", topic="room:1") == "not_subscribed"


async def test_messages_to_a_connection_and_to_a_user() -> None:
    class Welcome(Open):
        def on_open(self, conn: Connection) -> None:
            conn.send({"hello": conn.user})
            conn.send(b"\1")
            conn.send("text")

    app = app_of(Welcome(), authenticate=lambda request: "ana")
    async with TestClient(app) as client, peer_of(client) as peer, peer_of(client, MSGPACK) as other:
        assert peer.got == [
            {"type": "message", "data": {"hello": "ana"}},
            {"type": "message", "base64": "AQ=="},
            {"type": "message", "data": "text"},
        ]
        app.users["ana"].send("to the user")
        assert await peer.receive() == {"type": "message", "data": "to the user"}
        other.got.clear()
        assert await other.receive() == {"type": "message", "data": "to the user"}


# -- how a connection ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reconnect"), [(1000, False), (1008, False), (3503, False), (1012, 0), (1013, 5), (1011, 1), (4000, 1)]
)
async def test_the_last_message_says_whether_to_come_back(code: int, reconnect: Any) -> None:
    class Closing(Open):
        def on_call(self, conn: Connection, method: str, params: Any) -> None:
            conn.close(code, "enough")

    async with talking(Closing()) as peer:
        peer.send("call", method="close")
        assert await peer.receive() == {
            "type": "disconnect",
            "code": code,
            "reason": "enough",
            "reconnect": reconnect,
        }
        await peer.ws.assert_closed(code, "enough")


async def test_a_user_that_is_disconnected_does_not_come_back() -> None:
    app = app_of(Open(), authenticate=lambda request: "ana")
    async with TestClient(app) as client, peer_of(client) as peer:
        await app.users["ana"].disconnect()
        found = await peer.receive()
        assert (found["type"], found["code"], found["reconnect"]) == ("disconnect", 3503, False)


async def test_a_server_that_drains_says_so() -> None:
    app = app_of(Open())
    async with TestClient(app) as client:
        opened = client.connect("/live", subprotocols=[JSON])
        ws = await opened.__aenter__()
        peer = TopicsPeer(ws)
        await peer.connect()
    assert (await peer.receive())["type"] == "disconnect"


async def test_a_slow_reader_gets_the_last_message_too() -> None:
    async with talking(Open(), options=Options(max_outbox=70_000)) as peer:
        await peer.ask("subscribe", topic="t")
        topic = peer.ws._client.app.topic("t")
        for _ in range(10):
            topic.broadcast("x" * 60_000)
        with anyio.fail_after(GUARD):
            while (found := await peer.receive())["type"] == "message":
                pass
        assert (found["type"], found["code"], found["reconnect"]) == ("disconnect", 1013, 5)


# -- the handshake, and middleware -------------------------------------------------------------------------------------


async def test_the_subprotocol_chooses_the_codec() -> None:
    async with TestClient(app_of(Open())) as client:
        async with peer_of(client, None) as peer:
            assert peer.ws.subprotocol is None
            assert (await peer.ask("subscribe", topic="t"))["type"] == "ok"
        async with client.connect("/live", subprotocols=["other", MSGPACK]) as ws:
            assert ws.subprotocol == MSGPACK
        with pytest.raises(HandshakeError) as refused:
            async with client.connect("/live", subprotocols=["other"]):
                pass
        assert (refused.value.status, JSON in str(refused.value)) == (400, True)


async def test_components_for_each_connection_and_middleware() -> None:
    class Counting(Open):
        def __init__(self) -> None:
            self.count = 0

        @rpc
        def add(self, conn: Connection) -> int:
            self.count += 1
            return self.count

    app = App("localhost", 8080)
    app.route("/live", RateLimit(Counting, messages_per_second=1000))
    async with TestClient(app) as client, peer_of(client) as a, peer_of(client) as b:
        for peer in (a, b):
            await peer.ask("subscribe", topic="t")
            assert await peer.ask("call", method="add") == {"type": "ok", "result": 1}


async def test_plain_subscribers_get_what_they_got_before() -> None:
    class Plain(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            await conn.subscribe("t")
            await conn.subscribe("room:1")

    app = app_of(Open())
    app.route("/plain", Plain())
    async with TestClient(app) as client, client.connect("/plain") as ws, peer_of(client) as peer:
        for name in ("t", "room:1"):
            await peer.ask("subscribe", topic=name)
        await peer.ask("publish", topic="t", data={"n": 1})
        assert await ws.receive_json() == {"n": 1}
        await peer.ask("publish", topic="room:1", data={"n": 2})
        kept = await ws.receive_json()
        assert (kept["topic"], kept["message"]) == ("room:1", {"n": 2})
        assert [message["data"] for message in peer.got] == [{"n": 1}, {"n": 2}]
        await peer.ask("unsubscribe", topic="t")
        app.topic("t").broadcast("text")
        assert await ws.receive() == "text"


class Dating(Open):
    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        return FILE if message == "file" else {"day": DAY} if message == "day" else message


@pytest.mark.parametrize("name", ["t", "room:1"])
@pytest.mark.parametrize(
    ("codec", "sent", "seen", "carried"),
    [
        (ProtobufCodec(SourceContext), "file", {"fileName": "a.proto"}, "protobuf"),
        (ProtobufCodec(SourceContext), {"a": 1}, {"a": 1}, None),
        (CborCodec(), "day", {"day": "2026-11-30T00:00:00Z"}, "cbor"),
        (MessagePackCodec(), [5], [5], "msgpack"),
        (MessagePackCodec(), "text", "text", None),
    ],
    ids=range(5),
)
async def test_a_client_publishes_on_a_topic_with_a_codec(
    name: str, codec: Codec, sent: Any, seen: Any, carried: str | None
) -> None:
    app, codecs = app_of(Dating()), []
    app.topic_codec(name, codec)
    app.on_broadcast(name)(lambda topic, message: codecs.append(getattr(message, "codec", None)))
    async with TestClient(app) as client, peer_of(client) as peer:
        await peer.ask("subscribe", topic=name)
        assert (await peer.ask("publish", topic=name, data=sent))["type"] == "ok"
        assert (await peer.next())["data"] == seen
    assert [None if found is None else found.name for found in codecs] == [carried]


@pytest.mark.parametrize("codec", [None, MessagePackCodec()], ids=["json", "msgpack"])
async def test_a_client_cannot_publish_what_others_cannot_read(codec: Codec | None) -> None:
    app = app_of(Open())
    if codec is not None:
        app.topic_codec("t", codec)
    async with TestClient(app) as client, peer_of(client, MSGPACK) as peer:
        await peer.ask("subscribe", topic="t")
        assert await peer.fails("publish", topic="t", data={None: 1}) == "invalid_message"
        assert (await peer.ask("publish", topic="t", data={"a": b"x"}))["type"] == "ok"


class Naming(Open):
    """Everyone present in a topic has a name of its own."""

    async def on_track(self, conn: Connection, topic: Topic, meta: Any) -> Any:
        if meta == "refuse":
            raise CallError("bad_name", "choose another name")
        if meta == "huge":
            return "x" * 5000
        return f"{meta} {len(topic.present())}"


async def test_on_track_decides_what_others_see() -> None:
    async with talking(Naming()) as peer:
        error = await peer.ask("subscribe", topic="room:1", track="refuse")
        assert error == {"type": "error", "code": "bad_name", "message": "choose another name"}
        assert await peer.fails("unsubscribe", topic="room:1") == "not_subscribed"
        reply = await peer.ask("subscribe", topic="room:1", presence=True, track="ana")
        assert list(reply["present"].values()) == ["ana 0"]
        await peer.ask("track", topic="room:1", meta="ben")
        assert list((await peer.next())["changed"].values()) == ["ben 1"]
        assert await peer.fails("track", topic="room:1", meta="refuse") == "bad_name"
        assert await peer.fails("track", topic="room:1", meta="huge") == "invalid_message"
        await peer.ask("unsubscribe", topic="room:1")
        assert list((await peer.ask("subscribe", topic="room:1", presence=True))["present"]) == []


async def test_on_track_knows_the_users_of_other_processes() -> None:
    clock = VirtualClock()  # a node waits for the users of others for a short time
    async with two_nodes(lambda: app_of(Naming()), clock=clock) as (one, two), peer_of(one) as a, peer_of(two) as b:
        async with passing_time(clock):
            await a.ask("subscribe", topic="room:1", track="ana")
            present = (await b.ask("subscribe", topic="room:1", presence=True, track="ben"))["present"]
        assert sorted(present.values()) == ["ana 0", "ben 1"]
