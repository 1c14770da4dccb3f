"""Clients that break the protocol, or want too much."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.topics_peer import MSGPACK, SCHEMA, Open, app_of, peer_of, talking

from pywsapp import Connection, Options, Topic
from pywsapp.protocols.errors import RequestError
from pywsapp.protocols.topics_v1.messages import read_request
from pywsapp.testing import TestClient, two_nodes

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    "message", ["{", "[]", "5", '{"type": 5}', '{"type": "subscribe"}', '{"id": 1}', b"\0", "[" * 9000]
)
async def test_what_is_no_message_of_the_protocol(message: Any) -> None:
    async with talking(Open(), options=Options(max_invalid_messages=3)) as peer:
        for _ in range(2):
            peer.ws.send(message)
            found = await peer.receive()
            assert (found["type"], found["code"]) == ("error", "invalid_message")
        assert (await peer.ask("subscribe", topic="t"))["type"] == "ok"
        peer.ws.send(message)
        assert (await peer.receive())["code"] == "invalid_message"
        assert (await peer.receive())["type"] == "disconnect"
        await peer.ws.assert_closed(1007)


async def test_invalid_message_pack() -> None:
    async with TestClient(app_of(Open())) as client, peer_of(client, MSGPACK) as peer:
        for message in (b"\xc1", b"\x80", "text"):
            peer.ws.send(message)
            assert (await peer.receive())["code"] == "invalid_message"


async def test_nothing_but_connect_comes_first() -> None:
    async with TestClient(app_of(Open())) as client, peer_of(client, connects=False) as peer:
        for _ in range(9):
            assert await peer.fails("subscribe", topic="t") == "not_connected"
        await peer.connect()


async def test_too_large_messages() -> None:
    async with talking(Open(), options=Options(max_message_size=1000)) as peer:
        peer.send("publish", topic="t", data="x" * 1000)
        await peer.ws.assert_closed(1009)


@pytest.mark.parametrize("depth", [100, 400, 900, 100_000])
async def test_deep_data_is_published_or_refused(depth: int) -> None:
    async with talking(Open()) as peer:
        await peer.ask("subscribe", topic="t")
        peer.ws.send(f'{{"id":9,"type":"publish","topic":"t","data":{"[" * depth}1{"]" * depth}}}')
        types: set[str] = set()
        while not types & {"ok", "error"}:
            found = json.loads(await peer.ws.receive())
            types.add(found["type"])
        assert types in ({"message", "ok"}, {"error"})
        assert depth > 100 or types == {"message", "ok"}
        assert (await peer.ask("publish", topic="t", data=1))["type"] == "ok"


async def test_values_that_a_codec_does_not_have() -> None:
    async with TestClient(app_of(Open())) as client, peer_of(client) as text, peer_of(client, MSGPACK) as binary:
        for peer in (text, binary):
            await peer.ask("subscribe", topic="room:1", presence=True)
        huge = 10**400
        assert await text.ask("publish", topic="room:1", data=[huge]) == {"type": "ok"}
        assert (text.got.pop()["data"], (await binary.next())["data"]) == ([huge], [str(huge)])
        assert await binary.fails("publish", topic="room:1", data={None: 1}) == "invalid_message"
        assert await binary.ask("publish", topic="room:1", data=[b"x", float("nan")]) == {"type": "ok"}
        assert (await text.next())["data"] == ["eA==", None]
        await binary.next()
        assert await binary.fails("track", topic="room:1", meta=b"x") == "invalid_message"
        assert await text.ask("track", topic="room:1", meta=[huge]) == {"type": "ok"}
        assert list((await binary.next())["joined"].values()) == [[str(huge)]]


async def test_requests_while_a_subscription_waits_for_the_broker() -> None:
    """An id is in use until the reply, and a subscription that was ended meanwhile sends nothing twice."""
    async with two_nodes(lambda: app_of(Open())) as (one, two), peer_of(one) as peer, peer_of(two) as other:
        for n in range(3):
            await other.ask("publish", topic="room:1", data=n)
        for number, kind in ((101, "subscribe"), (102, "unsubscribe"), (103, "subscribe")):
            fields = {"since": None} if kind == "subscribe" else {}
            peer.send_object({"type": kind, "id": number, "topic": "room:1", **fields})
        peer.send_object({"type": "subscribe", "id": 103, "topic": "room:2"})
        replies: dict[Any, str] = {}
        received = []
        while len(replies) < 4:
            found = await peer.receive()
            if found["type"] == "message":
                received.append(found["data"])
            else:
                replies[found.get("id")] = found.get("code", "ok")
        assert replies == {101: "not_subscribed", 102: "ok", 103: "ok", None: "invalid_message"}
        assert received == [0, 1, 2]


async def test_a_client_that_does_not_wait_is_slowed_down() -> None:
    class Slow(Open):
        def __init__(self) -> None:
            self.goes_on = anyio.Event()

        async def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
            await self.goes_on.wait()
            return message

    component = Slow()
    async with talking(component, options=Options(max_queue=4)) as peer:
        ids = [peer.send("publish", topic="t", data=n) for n in range(50)]
        await peer.ws.assert_silent()
        component.goes_on.set()
        for request_id in ids:
            assert await peer.reply(request_id) == {"type": "ok"}


async def test_a_subscription_that_ends_while_it_recovers() -> None:
    """Unsubscribing ends a recovery, and subscribing again begins a new one, with nothing twice."""
    app = app_of(Open(), options=Options(high_water=1000, max_outbox=10_000_000))
    async with TestClient(app) as client, peer_of(client) as peer:
        for n in range(5):
            await peer.ask("publish", topic="room:1", data=f"{n}" + "x" * 100_000)
        first = peer.send("subscribe", topic="room:1", since=None)
        second = peer.send("unsubscribe", topic="room:1")
        third = peer.send("subscribe", topic="room:1", since=None)
        replies: dict[int, str] = {}
        received: list[str] = []
        while len(replies) < 3:
            found = await peer.receive()
            if "id" in found:
                replies[found["id"]] = found["type"] if found["type"] == "ok" else found["code"]
            else:
                received.append(found["data"][0])
        assert replies[third] == replies[second] == "ok"
        assert replies[first] in ("ok", "not_subscribed")
        assert received[-5:] == ["0", "1", "2", "3", "4"]
        assert len(received) <= 10


# -- the schema --------------------------------------------------------------------------------------------------------

#: Values of each field, the valid ones first. Names of topics and positions are checked after the schema.
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "topic": (["room:1"], [5, None, []]),
    "since": ([None, "17-ab"], [5, True, {}]),
    "presence": ([True, False], [1, "true", None]),
    "track": ([None, 1, {}], []),
    "filter": ([{"a": [1, "x", None]}, {"a": [0.5], "b": [True]}], [None, {}, {"a": []}, {"a": [[]]}, {"a": 1}, []]),
    "newest": ([True, "a"], [False, "", None, 1, "x" * 101]),
    "meta": ([None, "x"], []),
    "data": ([0, "", False, []], [None]),
    "base64": (["", "AA==", "AAA=", "AAAA"], ["A", "AA=", "A A=", "AA==A", None, 5]),
    "key": (["k", "a.b:c-d_E" * 3], ["", "x" * 33, "a b", 5, None]),
    "method": (["m", "x" * 100], ["", "x" * 101, None]),
    "params": ([{}, []], [None, "x", 1]),
    "token": (["t", "x" * 8192], ["", "x" * 8193, None]),
    "session": (["a" * 16, "a~" * 32], ["a" * 15, "a" * 65, " " * 20, None]),
}
KINDS = {
    "connect": ["token", "session"],
    "subscribe": ["topic", "since", "presence", "track", "filter", "newest"],
    "unsubscribe": ["topic"],
    "track": ["topic", "meta"],
    "untrack": ["topic"],
    "publish": ["topic", "data", "base64", "key"],
    "call": ["method", "params"],
    "refresh": ["token"],
    "nothing": ["topic"],
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Return a request with at most one or two faults."""
    kind = draw(st.sampled_from(list(KINDS)))
    value: dict[str, Any] = {"type": kind, "unknown": 1}
    number = draw(st.sampled_from([1, 1, 1, 1, 2**53 - 1, 0, -1, 2**53, 1.0, "1", None, True, ...]))
    if number is not ...:
        value["id"] = number
    for name in KINDS[kind]:
        valid, invalid = FIELDS[name]
        choice = draw(st.integers(0, 9))
        if choice < 6:
            value[name] = draw(st.sampled_from(valid))
        elif choice == 9 and invalid:
            value[name] = draw(st.sampled_from(invalid))
    return value


def test_the_schema_accepts_each_value_that_the_server_accepts() -> None:
    for kind, names in KINDS.items():
        valid = {"type": kind, "id": 1} | {name: FIELDS[name][0][0] for name in names if name != "base64"}
        check_request(valid)
        for name in names:
            others = {key: value for key, value in valid.items() if not (name == "base64" and key == "data")}
            check_request({key: value for key, value in valid.items() if key != name})
            for value in [*FIELDS[name][0], *FIELDS[name][1]]:
                check_request({**others, name: value})


@settings(max_examples=200, deadline=None)
@given(requests())
@example({"type": 5, "id": 1})
@example({"id": 1})
def test_the_schema_accepts_what_the_server_accepts(value: dict[str, Any]) -> None:
    check_request(value)


def check_request(value: dict[str, Any]) -> None:
    try:
        read_request(value)
    except RequestError:
        assert not SCHEMA.accepts("client", value)
    else:
        assert SCHEMA.accepts("client", value)


@pytest.mark.parametrize("meta", [{None: 1}, {True: 2, 1.5: {3: 4}}], ids=["none", "numbers"])
async def test_no_meta_hides_other_users(meta: Any) -> None:
    async with TestClient(app_of(Open())) as client, peer_of(client) as viewer, peer_of(client, MSGPACK) as hostile:
        await viewer.ask("subscribe", topic="room:1", presence=True)
        await hostile.ask("subscribe", topic="room:1", track=meta)
        async with peer_of(client) as user:
            await user.ask("subscribe", topic="room:1", track="user")
            joined: dict[str, Any] = {}
            while "user" not in joined.values():
                joined |= (await viewer.next())["joined"]
            assert json.loads(json.dumps(meta)) in joined.values()
        async with peer_of(client) as newcomer:
            reply = await newcomer.ask("subscribe", topic="room:1", presence=True)
            assert json.loads(json.dumps(meta)) in reply["present"].values()


@pytest.mark.parametrize("meta", [float("nan"), b"bytes", {(1, 2): 3}], ids=["nan", "bytes", "tuple"])
async def test_a_meta_without_a_form_in_json(meta: Any) -> None:
    async with TestClient(app_of(Open())) as client, peer_of(client, MSGPACK) as peer:
        assert await peer.fails("subscribe", topic="room:1", track=meta) == "invalid_message"
