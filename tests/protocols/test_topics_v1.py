"""What a client of `pywsapp.topics.v1` asks for, and gets."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from google.protobuf.source_context_pb2 import SourceContext
from support.serving import GUARD
from support.topics_peer import JSON, MSGPACK, Open, app_of, passing_time, peer_of, talking

from pywsapp import (
    App,
    CallError,
    Connection,
    MessageComponent,
    NotAuthorized,
    Options,
    PreparedMessage,
    Topic,
    TopicComponent,
    broadcast,
    rpc,
)
from pywsapp.testing import TestClient, VirtualClock, two_nodes

pytestmark = pytest.mark.anyio
both_codecs = pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])


class Rooms(Open):
    """Refuses or fails as the message says."""

    @rpc
    def add(self, conn: Connection, a: int, b: int = 1) -> int:
        return a + b

    @rpc("later")
    async def wait(self, conn: Connection) -> str:
        await anyio.lowlevel.checkpoint()
        return "now"

    async def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        if message == "rude":
            raise CallError("rude", "be nice")
        if message == "forbidden":
            raise NotAuthorized("publish", topic.name)
        if message == "nothing":
            return None
        return {"by": conn.id, "text": message} if message == "wrap" else message

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        if method == "echo":
            return params
        return super().on_call(conn, method, params)


@both_codecs
async def test_the_way_of_a_message(subprotocol: str) -> None:
    async with TestClient(app_of(Rooms())) as client, peer_of(client, subprotocol) as a, peer_of(client) as b:
        assert await a.ask("subscribe", topic="t") == {"type": "ok", "topic": "t"}
        assert await b.ask("publish", topic="t", data={"n": [1, None]}) == {"type": "ok"}
        assert await a.next() == {"type": "message", "topic": "t", "data": {"n": [1, None]}}
        value: Any
        for value in ("text", 5, 1.5, True, [1, "2"], {}):
            assert await b.ask("publish", topic="t", data=value) == {"type": "ok"}
            assert await a.next() == {"type": "message", "topic": "t", "data": value}
        assert await a.ask("unsubscribe", topic="t") == {"type": "ok"}
        assert await b.ask("publish", topic="t", data=1) == {"type": "ok"}
        await a.ws.assert_silent()


async def test_bytes_are_base64_in_json_and_binary_in_message_pack() -> None:
    async with TestClient(app_of(Rooms())) as client, peer_of(client) as a, peer_of(client, MSGPACK) as b:
        await a.ask("subscribe", topic="t")
        await b.ask("subscribe", topic="t")
        for peer, field, value in ((a, "base64", "AP8="), (b, "data", b"\0\xff")):
            assert await peer.ask("publish", topic="t", **{field: value}) == {"type": "ok"}
            assert await a.next() == {"type": "message", "topic": "t", "base64": "AP8="}
            assert await b.next() == {"type": "message", "topic": "t", "data": b"\0\xff"}


async def test_recovery_and_lost_messages() -> None:
    async with TestClient(app_of(Rooms())) as client, peer_of(client) as a:
        first = await a.ask("subscribe", topic="room:1")
        epoch = first["position"].removeprefix("0-")
        for n in range(1, 4):
            await a.ask("publish", topic="room:1", data=n)
        expected = [{"type": "message", "topic": "room:1", "position": f"{n}-{epoch}", "data": n} for n in (1, 2, 3)]
        assert a.got == expected
        async with peer_of(client) as b:
            reply = await b.ask("subscribe", topic="room:1", since=f"1-{epoch}")
            assert reply == {"type": "ok", "topic": "room:1", "position": f"3-{epoch}", "complete": True}
            assert b.got == expected[1:]
        async with peer_of(client) as b:
            await b.ask("subscribe", topic="room:1", since=None)
            assert b.got == expected
        for n in range(4, 9):
            await a.ask("publish", topic="room:1", data=n)
        async with peer_of(client) as b:
            reply = await b.ask("subscribe", topic="room:1", since=f"1-{epoch}")
            assert reply == {"type": "ok", "topic": "room:1", "position": f"8-{epoch}", "complete": False}
            assert b.got[0] == {"type": "lost", "topic": "room:1", "position": f"3-{epoch}"}
            assert [message["data"] for message in b.got[1:]] == [4, 5, 6, 7, 8]
            await a.ask("publish", topic="room:1", data=9)
            assert (await b.receive())["data"] == 9


async def test_a_position_says_from_where_a_new_subscriber_has_everything() -> None:
    async with TestClient(app_of(Rooms())) as client, peer_of(client) as a, peer_of(client) as b:
        await a.ask("publish", topic="room:1", data=1)
        position = (await b.ask("subscribe", topic="room:1"))["position"]
        assert position.startswith("1-")
        await a.ask("publish", topic="room:1", data=2)
        await b.ask("unsubscribe", topic="room:1")
        reply = await b.ask("subscribe", topic="room:1", since=position)
        assert (reply["complete"], [message["data"] for message in b.got]) == (True, [2, 2])


async def test_a_key_publishes_once_and_for_one_client_only() -> None:
    async with TestClient(app_of(Rooms())) as client, peer_of(client) as reader:
        for name in ("t", "room:1"):
            await reader.ask("subscribe", topic=name)
            async with peer_of(client, connects=False) as a, peer_of(client) as b:
                await a.connect(session="secret-of-the-client")
                for peer, text in ((a, "a"), (a, "again"), (b, "b"), (b, "again")):
                    assert await peer.ask("publish", topic=name, data=text, key="k") == {"type": "ok"}
            async with peer_of(client, connects=False) as a:
                await a.connect(session="secret-of-the-client")
                assert await a.ask("publish", topic=name, data="after a reconnect", key="k") == {"type": "ok"}
                assert await a.ask("publish", topic=name, data="another", key="l") == {"type": "ok"}
            assert [(await reader.next())["data"] for _ in range(3)] == ["a", "b", "another"]


class Slow(Open):
    """Accepts one message for each text, as a slow mode does."""

    def __init__(self) -> None:
        self.texts: list[Any] = []

    async def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        if message in self.texts:
            raise CallError("slow", "one message at a time")
        self.texts.append(message)
        return None if message == "nothing" else message


@pytest.mark.parametrize("topic", ["t", "room:1"], ids=["no-history", "history"])
async def test_a_repeated_message_is_accepted_without_a_second_call(topic: str) -> None:
    async with two_nodes(lambda: app_of(Slow())) as (one, _), TestClient(app_of(Slow())) as alone:
        for client in (one, alone):
            for text in ("hello", "nothing"):
                for _ in range(2):
                    async with peer_of(client, connects=False) as peer:
                        await peer.connect(session="secret-of-the-client")
                        assert await peer.ask("publish", topic=topic, data=text, key=text) == {"type": "ok"}
                async with peer_of(client) as other:
                    assert await other.fails("publish", topic=topic, data=text, key=text) == "slow"
                    assert await other.fails("publish", topic=topic, data=text, key=text) == "slow"


async def test_a_key_belongs_to_the_user() -> None:
    app = App("localhost", 8080, authenticate=lambda request: request.cookies.get("user"))
    app.route("/live", Rooms())
    async with TestClient(app) as client, peer_of(client, cookies={"user": "ana"}) as a:
        await a.ask("subscribe", topic="t")
        async with peer_of(client, cookies={"user": "ana"}, connects=False) as b:
            assert (await b.connect())["user"] == "ana"
            await a.ask("publish", topic="t", data=1, key="k")
            await b.ask("publish", topic="t", data=2, key="k")
        async with peer_of(client, cookies={"user": "ben"}, connects=False) as b:
            await b.connect(session="a-session-of-the-client")
            await b.ask("publish", topic="t", data=3, key="k")
        assert [(await a.next())["data"] for _ in range(2)] == [1, 3]


async def test_presence() -> None:
    async with TestClient(app_of(Rooms())) as client, peer_of(client, connects=False) as a, peer_of(client) as b:
        name = (await a.connect())["client"]
        reply = await a.ask("subscribe", topic="room:1", presence=True, track={"n": 1})
        assert reply["present"] == {name: {"n": 1}}
        assert (await b.ask("subscribe", topic="room:1", presence=True))["present"] == {name: {"n": 1}}
        await a.ask("track", topic="room:1", meta=2)
        assert await b.next() == {"type": "presence", "topic": "room:1", "joined": {}, "left": [], "changed": {name: 2}}
        await a.ask("untrack", topic="room:1")
        assert await b.next() == {"type": "presence", "topic": "room:1", "joined": {}, "left": [name], "changed": {}}
        await a.ask("track", topic="room:1", meta=None)
        assert (await b.next())["joined"] == {name: None}
        await b.ask("unsubscribe", topic="room:1")
        await a.ask("untrack", topic="room:1")
        await a.next()
        await b.ws.assert_silent()


async def test_presence_is_that_of_the_user() -> None:
    app = app_of(Rooms(), authenticate=lambda request: request.cookies.get("user"))
    async with TestClient(app) as client, peer_of(client, cookies={"user": "ana"}) as a:
        async with peer_of(client, cookies={"user": "ana"}) as b:
            await b.ask("subscribe", topic="room:1", track={})
            assert (await a.ask("subscribe", topic="room:1", presence=True, track={}))["present"] == {"ana": {}}
        await a.ws.assert_silent(0.2)
        assert a.got == []


async def test_calls() -> None:
    async with talking(Rooms()) as peer:
        assert await peer.ask("call", method="add", params={"a": 1, "b": 2}) == {"type": "ok", "result": 3}
        assert await peer.ask("call", method="add", params=[4]) == {"type": "ok", "result": 5}
        assert await peer.ask("call", method="later") == {"type": "ok", "result": "now"}
        assert await peer.ask("call", method="echo", params=[1]) == {"type": "ok", "result": [1]}
        assert await peer.fails("call", method="add") == "invalid_params"
        assert await peer.fails("call", method="add", params={"a": "1"}) == "invalid_params"
        assert await peer.fails("call", method="nothing") == "unknown_method"


async def test_requests_without_an_id_have_no_reply() -> None:
    async with talking(Rooms()) as peer:
        await peer.ask("subscribe", topic="t")
        peer.send_object({"type": "call", "method": "nothing"})
        peer.send_object({"type": "publish", "topic": "no", "data": 1})
        peer.send_object({"type": "publish", "topic": "t", "data": 2})
        assert await peer.ask("unsubscribe", topic="t") == {"type": "ok"}
        assert peer.got == [{"type": "message", "topic": "t", "data": 2}]


async def test_what_hooks_say() -> None:
    async with talking(Rooms()) as peer:
        await peer.ask("subscribe", topic="t")
        assert await peer.ask("publish", topic="t", data="rude") == {
            "type": "error",
            "code": "rude",
            "message": "be nice",
        }
        assert await peer.fails("publish", topic="t", data="forbidden") == "not_allowed"
        assert await peer.ask("publish", topic="t", data="nothing") == {"type": "ok"}
        await peer.ask("publish", topic="t", data="wrap")
        assert [message["data"]["text"] for message in peer.got] == ["wrap"]


#: Fields of `subscribe`, with the action that must be allowed for them.
NEEDS: dict[tuple[tuple[str, Any], ...], str] = {
    (): "subscribe",
    (("since", None),): "history",
    (("presence", True),): "presence",
    (("track", 1),): "presence",
}
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"type": "subscribe", "topic": "no"}, "not_allowed"),
    ({"type": "subscribe", "topic": "t", "since": None}, "no_history"),
    ({"type": "subscribe", "topic": "t", "presence": True}, "no_presence"),
    ({"type": "subscribe", "topic": "t", "track": 1}, "no_presence"),
    ({"type": "subscribe", "topic": "room:1", "since": "17"}, "invalid_position"),
    ({"type": "subscribe", "topic": "room:1", "track": "x" * 5000}, "invalid_message"),
    ({"type": "subscribe", "topic": "no spaces"}, "invalid_topic"),
    ({"type": "subscribe", "topic": "$pywsapp:users"}, "invalid_topic"),
    ({"type": "unsubscribe", "topic": "t"}, "not_subscribed"),
    ({"type": "track", "topic": "room:1", "meta": 1}, "not_subscribed"),
    ({"type": "untrack", "topic": "room:1"}, "not_subscribed"),
    ({"type": "publish", "topic": "no", "data": 1}, "not_allowed"),
    ({"type": "publish", "topic": "", "data": 1}, "invalid_topic"),
    ({"type": "connect"}, "already_connected"),
    ({"type": "nothing"}, "unknown_type"),
    ({"type": "refresh", "token": "x"}, "invalid_message"),
]


async def test_errors() -> None:
    async with talking(Rooms()) as peer:
        for request, code in ERRORS:
            assert await peer.fails(**request) == code
        for name in ("t", "room:1"):
            assert (await peer.ask("subscribe", topic=name))["type"] == "ok", "nothing was subscribed"


async def test_a_subscription_that_fails_at_its_presence_is_undone() -> None:
    async with talking(Rooms()) as peer:
        assert await peer.fails("subscribe", topic="room:1", track="x" * 5000) == "invalid_message"
        assert await peer.fails("unsubscribe", topic="room:1") == "not_subscribed"


async def test_a_topic_is_subscribed_once_and_not_too_many() -> None:
    async with talking(Rooms(), options=Options(max_topics=2)) as peer:
        await peer.ask("subscribe", topic="a")
        assert await peer.fails("subscribe", topic="a") == "already_subscribed"
        await peer.ask("subscribe", topic="b")
        assert await peer.fails("subscribe", topic="c") == "too_many_topics"
        await peer.ask("unsubscribe", topic="a")
        assert (await peer.ask("subscribe", topic="c"))["type"] == "ok"


async def test_nothing_is_allowed_without_authorize() -> None:
    async with talking(TopicComponent()) as peer:
        for fields in NEEDS:
            assert await peer.fails("subscribe", topic="room:1", **dict(fields)) == "not_allowed"
        assert await peer.fails("publish", topic="room:1", data=1) == "not_allowed"


async def test_each_action_needs_its_permission() -> None:
    class Some(TopicComponent):
        missing = ""

        def authorize(self, conn: Connection, asked: str, topic: str) -> bool | None:
            return None if asked == self.missing else True

    component = Some()
    async with TestClient(app_of(component)) as client:
        for fields, action in NEEDS.items():
            component.missing = action
            async with peer_of(client) as peer:
                assert await peer.fails("subscribe", topic="room:1", **dict(fields)) == "not_allowed"
                assert (await peer.ask("subscribe", topic="room:1"))["type"] == "ok" or action == "subscribe"


async def test_two_nodes_share_topics_history_and_presence() -> None:
    clock = VirtualClock()  # a node waits for the users of others for a short time
    nodes = two_nodes(lambda: app_of(Rooms()), clock=clock)
    async with nodes as (one, two), peer_of(one) as a, peer_of(two, MSGPACK) as b:
        async with passing_time(clock):
            await a.ask("subscribe", topic="room:1", track={"name": "a"})
            present = (await b.ask("subscribe", topic="room:1", since=None, presence=True))["present"]
        assert list(present.values()) == [{"name": "a"}]
        ids = [a.send("publish", topic="room:1", data=n, key=f"k{n % 3}") for n in range(5)]
        for request_id in ids:
            assert await a.reply(request_id) == {"type": "ok"}
        with anyio.fail_after(GUARD):
            assert [(await b.next())["data"] for _ in range(3)] == [0, 1, 2]
        assert [message["data"] for message in a.got] == [0, 1, 2]
        async with peer_of(two) as c:
            await c.ask("subscribe", topic="room:1", since=a.got[0]["position"])
            assert [message["data"] for message in c.got] == [1, 2]


class Subscribing(MessageComponent):
    def on_open(self, conn: Connection) -> None:
        conn.subscribe("t")


@pytest.mark.parametrize(
    "message", [{"a": 1}, "text", PreparedMessage("text"), SourceContext(file_name="a")], ids=range(4)
)
async def test_a_broadcast_to_connections_is_a_message_of_the_protocol(message: Any) -> None:
    app = app_of(Open())
    app.route("/plain", Subscribing())
    async with TestClient(app) as client, peer_of(client) as peer, peer_of(client, MSGPACK) as other:
        await peer.ask("subscribe", topic="t")
        await other.ask("subscribe", topic="t")
        async with client.connect("/plain") as plain:
            broadcast(app.topic("t"), message)
            data = "text" if isinstance(message, (str, PreparedMessage)) else message
            data = {"fileName": "a"} if isinstance(data, SourceContext) else data
            received = await plain.receive()
            assert received == data or json.loads(received) == data
        for one in (peer, other):
            await one.ask("unsubscribe", topic="t")
            assert one.got == [{"type": "message", "data": data}]
