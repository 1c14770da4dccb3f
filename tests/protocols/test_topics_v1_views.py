"""Filters of a subscription, and slow clients that get only the newest messages."""

from __future__ import annotations

import datetime
import gc
import json
import socket
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD, serving
from support.topics_peer import JSON, MSGPACK, Open, TopicsPeer, app_of, peer_of, talking

from pywsapp import App, ConfigurationError, Options
from pywsapp._messages.objects import ObjectText
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec
from pywsapp.protocols.topics_v1.form import TopicsV1Form
from pywsapp.protocols.views import MAX_WAITING, Filter, Filtered
from pywsapp.testing import TestClient

pytestmark = pytest.mark.anyio
DAY = datetime.datetime(2026, 11, 30, tzinfo=datetime.timezone.utc)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Filterable(Open):
    filter_fields = ("kind", "level")


async def numbers(peer: TopicsPeer, name: str = "t") -> list[Any]:
    """Return the numbers of the messages that a client has got."""
    await peer.ask("unsubscribe", topic=name)
    return [message["data"]["n"] if isinstance(message.get("data"), dict) else message for message in peer.got]


# -- filters -----------------------------------------------------------------------------------------------------------

MESSAGES: list[Any] = [
    {"n": 0, "kind": "a", "level": 1},
    {"n": 1, "kind": "b", "level": 1},
    {"n": 2, "kind": "a", "level": True},
    {"n": 3, "kind": None, "level": 1.0},
    {"n": 4},
    {"n": 5, "kind": ["a"], "level": 2},
    "kind",
    b"kind",
    ["kind"],
]


@pytest.mark.parametrize("name", ["t", "room:1"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": ["a"]}, [0, 2]),
        ({"kind": ["a", "b"], "level": [1]}, [0, 1]),
        ({"kind": [None]}, [3]),
        ({"level": [True]}, [2]),
        ({"level": [1]}, [0, 1, 3]),
        ({"kind": ["c"]}, []),
    ],
    ids=range(6),
)
async def test_a_client_gets_what_matches_its_filter(name: str, fields: Any, expected: list[int]) -> None:
    async with TestClient(app_of(Filterable())) as client, peer_of(client) as peer, peer_of(client, MSGPACK) as other:
        await peer.ask("subscribe", topic=name, filter=fields)
        await other.ask("subscribe", topic=name, filter=fields)
        async with peer_of(client) as everything:
            await everything.ask("subscribe", topic=name)
            for message in MESSAGES:
                client.app.topic(name).broadcast(message if not isinstance(message, list) else {"list": message})
            await everything.ask("unsubscribe", topic=name)
            assert len(everything.got) == len(MESSAGES)
        assert await numbers(peer, name) == await numbers(other, name) == expected


async def test_a_recovery_leaves_out_what_does_not_match() -> None:
    async with talking(Filterable()) as peer:
        for n in range(7):
            await peer.ask("publish", topic="room:1", data={"n": n, "kind": "ab"[n % 2]})
        reply = await peer.ask("subscribe", topic="room:1", since=None, filter={"kind": ["a"]})
        assert (reply["position"][:2], reply["complete"]) == ("7-", True)
        epoch = reply["position"][2:]
        assert await numbers(peer, "room:1") == [2, 4, 6]
        peer.got.clear()
        reply = await peer.ask("subscribe", topic="room:1", since=f"1-{epoch}", filter={"kind": ["a"]})
        assert peer.got[0] == {"type": "lost", "topic": "room:1", "position": f"2-{epoch}"}


@pytest.mark.parametrize("codec", [CborCodec(), MessagePackCodec()], ids=["cbor", "msgpack"])
@pytest.mark.parametrize("value", [b"a", DAY, {1: 1, "b": 2}, {(1, 2): 3}], ids=["bytes", "date", "keys", "tuple"])
async def test_values_that_json_does_not_have(codec: Codec, value: Any) -> None:
    app = app_of(Filterable())
    app.topic_codec("t", codec)
    async with TestClient(app) as client, peer_of(client) as peer, peer_of(client) as newest, peer_of(client) as other:
        await peer.ask("subscribe", topic="t", filter={"kind": [json.loads(JsonCodec().encode(DAY)), "a"]})
        await newest.ask("subscribe", topic="t", newest="kind")
        await other.ask("subscribe", topic="t")
        app.topic("t").broadcast({"n": 0, "kind": value})
        app.topic("t").broadcast({"n": 1, "kind": "a"})
        assert await numbers(peer, "t") == ([0, 1] if value is DAY else [1])
        for everything in (newest, other):
            await everything.ask("unsubscribe", topic="t")
            assert len(everything.got) == 2


class Odd(Codec):
    """A codec of an application that reads what other codecs cannot write, or nothing at all."""

    name = "odd"

    def __init__(self, decoded: Any) -> None:
        self._decoded = decoded

    def encode(self, value: Any) -> str:
        return JsonCodec().encode(value)

    def decode(self, message: str | bytes) -> Any:
        if self._decoded is None:
            raise KeyError(message)
        return self._decoded


@pytest.mark.parametrize("decoded", [None, {"kind": {2**70}}], ids=["nothing", "number"])
async def test_objects_of_an_odd_codec(decoded: Any) -> None:
    app = app_of(Filterable())
    app.topic_codec("t", Odd(decoded))
    async with TestClient(app) as client, peer_of(client, MSGPACK) as peer, peer_of(client, MSGPACK) as other:
        await peer.ask("subscribe", topic="t", filter={"kind": ["a"]})
        await other.ask("subscribe", topic="t")
        app.topic("t").broadcast({"kind": "a"})
        assert (await other.next())["data"] == '{"kind":"a"}'
        assert await numbers(peer, "t") == []


@pytest.mark.parametrize("name", ["t", "room:1"])
async def test_a_form_that_fails_takes_nothing_from_others(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Filter, content: Any) -> bool:
        raise KeyError(content)

    monkeypatch.setattr(Filter, "matches", fail)
    app = app_of(Filterable())
    client = TestClient(app, raise_handler_errors=False)
    async with client, peer_of(client) as peer, peer_of(client) as other:
        await peer.ask("subscribe", topic=name, filter={"kind": ["a"]})
        await other.ask("subscribe", topic=name)
        app.topic(name).broadcast("text")
        assert (await other.next())["data"] == "text"
        assert await numbers(peer, name) == []
        reply = await peer.ask("subscribe", topic="room:1", since=None, filter={"kind": ["a"]})
        assert reply["type"] == "ok"
    assert "has no form for some of its subscribers" in caplog.text


def test_views_keep_no_message() -> None:
    form = TopicsV1Form(JsonCodec())
    views = [Filtered(form, Filter({"kind": [kind]}, ["kind"])) for kind in "ab"]
    content = ObjectText('{"kind":"a"}')
    assert [view.prepare_once("t", None, content) is None for view in views] == [False, True]
    kept = weakref.ref(content)
    del content
    views[0].prepare_once("u", None, ObjectText('{"kind":"a"}'))
    gc.collect()
    assert kept() is None


async def test_a_broadcast_to_some_subscribers() -> None:
    app = app_of(Filterable())
    async with TestClient(app) as client, peer_of(client) as peer, peer_of(client, MSGPACK) as other:
        await peer.ask("subscribe", topic="t", filter={"kind": ["a"]})
        await other.ask("subscribe", topic="t")
        for kind in "ba":
            app.topic("t").broadcast({"kind": kind}, eligible=list(app.topic("t")))
        app.topic("t").broadcast({"kind": "a"}, eligible=list(app.topic("t")), exclude=list(app.topic("t")))
        for one, kinds in ((peer, "a"), (other, "ba")):
            await one.ask("unsubscribe", topic="t")
            assert one.got == [{"type": "message", "topic": "t", "data": {"kind": kind}} for kind in kinds]


async def test_a_filter_that_the_component_does_not_allow() -> None:
    async with talking(Filterable()) as peer:
        assert await peer.fails("subscribe", topic="t", filter={"other": [1]}) == "filter_not_allowed"
        assert await peer.fails("subscribe", topic="t", filter={}) == "invalid_message"
        assert (await peer.ask("subscribe", topic="t"))["type"] == "ok"
    async with talking(Open()) as peer:
        assert await peer.fails("subscribe", topic="t", filter={"kind": ["a"]}) == "filter_not_allowed"


def test_the_fields_of_filters_are_a_list() -> None:
    with pytest.raises(ConfigurationError, match=r"Rooms\.filter_fields is a list of texts"):
        App().route("/", type("Rooms", (Open,), {"filter_fields": "kind"}))


async def test_equal_filters_are_one_group() -> None:
    async with TestClient(app_of(Filterable())) as client, peer_of(client) as a, peer_of(client) as b:
        await a.ask("subscribe", topic="t", filter={"kind": ["a", "b"]})
        await b.ask("subscribe", topic="t", filter={"kind": ["b", "a"]})
        groups = client.app.topic("t")._groups
        assert groups is not None
        assert [len(members) for members in groups.by_form.values()] == [0, 2]
        await a.ask("unsubscribe", topic="t")
        await a.ask("subscribe", topic="t", filter={"kind": ["c"]})
        assert [len(members) for members in groups.by_form.values()] == [0, 1, 1]
        await a.ask("unsubscribe", topic="t")
        assert [len(members) for members in groups.by_form.values()] == [0, 1]
        await b.ask("unsubscribe", topic="t")
        assert client.app.topic("t")._groups is None


# -- the newest messages -----------------------------------------------------------------------------------------------


def at_once(app: App, name: str, count: int, **fields: Any) -> None:
    """Broadcast messages in one turn, which fill the outbox of a client after the second one."""
    for n in range(count):
        app.topic(name).broadcast({"n": n, "half": n % 2, "text": "x" * 600, **fields})


SLOW = Options(high_water=1000)


@pytest.mark.parametrize("name", ["t", "room:1"])
@pytest.mark.parametrize(("newest", "expected"), [(True, [0, 1, 9]), ("half", [0, 1, 8, 9]), ("none", [0, 1, 9])])
async def test_a_slow_client_gets_the_newest_messages(name: str, newest: Any, expected: list[int]) -> None:
    app = app_of(Open(), options=SLOW)
    async with TestClient(app) as client, peer_of(client) as peer, peer_of(client) as other:
        await peer.ask("subscribe", topic=name, newest=newest)
        await other.ask("subscribe", topic=name)
        at_once(app, name, 10)
        received = [(await peer.next())["data"]["n"] for _ in expected]
        assert received == expected
        assert await numbers(other, name) == list(range(10))
        at_once(app, name, 2)
        assert [(await peer.next())["data"]["n"] for _ in range(2)] == [0, 1], "it gets all of them again"


async def test_a_newer_message_waits_behind_older_ones_of_others() -> None:
    app = app_of(Open(), options=SLOW)
    async with TestClient(app) as client, peer_of(client) as peer:
        await peer.ask("subscribe", topic="t", newest="key")
        for n, key in enumerate("--aba"):
            app.topic("t").broadcast({"n": n, "key": key, "text": "x" * 600})
        assert [(await peer.next())["data"]["n"] for _ in range(4)] == [0, 1, 3, 4]


async def test_what_waits_is_dropped_when_the_client_unsubscribes() -> None:
    app = app_of(Open(), options=SLOW)
    async with TestClient(app) as client, peer_of(client) as peer:
        await peer.ask("subscribe", topic="t", newest=True)
        await peer.ask("subscribe", topic="u", newest=True)
        [conn] = app.topic("t")
        at_once(app, "t", 10)
        at_once(app, "u", 3)
        app.topic("t").remove(conn)
        messages: list[dict[str, Any]] = []
        with anyio.fail_after(GUARD):
            while len(messages) < 4:
                messages.append(await peer.next())
        shown = [(message["type"], message.get("topic"), message.get("data", {}).get("n")) for message in messages]
        assert sorted(map(str, shown)) == sorted(
            map(str, [("message", "t", 0), ("message", "t", 1), ("unsubscribed", "t", None), ("message", "u", 2)])
        )


@pytest.mark.parametrize("limit", ["messages", "bytes"])
async def test_too_much_that_waits_is_left_to_the_slow_consumer(limit: str) -> None:
    options = Options(high_water=1000, max_outbox=100_000 if limit == "bytes" else 50_000_000)
    app = app_of(Open(), options=options)
    async with TestClient(app) as client, peer_of(client) as peer:
        await peer.ask("subscribe", topic="t", newest="n")
        at_once(app, "t", 300 if limit == "bytes" else MAX_WAITING + 10)
        if limit == "bytes":
            await peer.ws.assert_closed(1013)
        else:
            assert [(await peer.next())["data"]["n"] for _ in range(MAX_WAITING + 10)] == list(range(MAX_WAITING + 10))


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the kernel has no such option")
async def test_few_messages_wait_in_the_kernel_for_a_client_that_does_not_read() -> None:
    app = app_of(Open(), options=SLOW)
    app.rebind(port=0)
    async with serving(app) as server, server.client("/live", headers=f"Sec-WebSocket-Protocol: {JSON}\r\n") as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        subscribe = {"type": "subscribe", "id": 2, "topic": "t", "newest": True}
        await client.send('{"type": "connect", "id": 1}', json.dumps(subscribe))
        assert [json.loads(await client.message())["type"] for _ in range(2)] == ["ok", "ok"]
        for n in range(1000):
            app.topic("t").broadcast({"n": n, "text": "x" * 600})
            await anyio.lowlevel.checkpoint()
        received = [-1]
        while received[-1] < 999:
            received.append(json.loads(await client.message())["data"]["n"])
        assert len(received) < 300  # about 64 KiB are in the buffer of the client


async def test_filter_and_last_together() -> None:
    app = app_of(Filterable(), options=SLOW)
    async with TestClient(app) as client, peer_of(client) as peer:
        await peer.ask("subscribe", topic="t", newest=True, filter={"kind": ["a"]})
        for n in range(10):
            app.topic("t").broadcast({"n": n, "kind": "ab"[n % 2], "text": "x" * 600})
        assert [(await peer.next())["data"]["n"] for _ in range(3)] == [0, 2, 8]
