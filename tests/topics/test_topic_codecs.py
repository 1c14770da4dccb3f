"""Topics with a codec of their own: objects are encoded once, and each other codec gets its form once."""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from google.protobuf.source_context_pb2 import SourceContext
from google.protobuf.timestamp_pb2 import Timestamp
from support.object_rooms import ALL, CodecRooms, Counting
from support.services import Redis
from support.topic_rooms import take
from support.typed import Join, Talk

from pywsapp import App, AsyncPublisher, Publication, Publisher, broadcast
from pywsapp.brokers.base import Broker
from pywsapp.brokers.envelope import Envelope, decode_envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.urls import broker_for
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec
from pywsapp.exceptions import ConfigurationError

pytestmark = [pytest.mark.anyio, pytest.mark.once]
JOINED = {"type": "join", "room": "a"}
FILE = SourceContext(file_name="a.proto")
FILE_MAPPING = {"fileName": "a.proto"}


class Text(Codec):
    """A codec of an application whose messages are text."""

    name = "reversed"

    def encode(self, value: Any) -> str:
        return json.dumps(value)[::-1]

    def decode(self, message: str | bytes) -> Any:
        return json.loads(str(message)[::-1])


def rooms_with(codec: Codec, broker: Broker | None = None, kind: Any = None) -> CodecRooms:
    rooms = CodecRooms(broker, kind)
    rooms.app.topic_codec("room", codec)
    return rooms


async def take_bytes(talk: Talk) -> str | bytes:
    return await talk.client.message()


# -- in one process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [CborCodec(), JsonCodec("orjson"), Text()], ids=["cbor", "json", "own"])
async def test_each_connection_gets_an_object_in_its_codec(codec: Codec) -> None:
    rooms = rooms_with(codec)
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, *ALL)
        rooms.app.topic("room").broadcast(JOINED)
        rooms.app.topic("room").broadcast(JOINED, eligible=rooms.room.conns)
        for client in clients:
            assert [await client.receive(), await client.receive()] == [JOINED] * 2
        assert rooms.counting.encoded == 2  # once for each object, however many connections get it


async def test_connections_with_the_codec_of_the_topic_get_its_bytes() -> None:
    codec = Counting()
    rooms = rooms_with(codec)
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, *ALL)
        await rooms.app.topic("room").broadcast(Join("a"))
        for client in clients:
            assert await client.receive() == JOINED
        assert (codec.encoded, rooms.counting.encoded) == (1, 0)


async def test_text_and_bytes_stay_as_they_are() -> None:
    rooms = rooms_with(MessagePackCodec(), MemoryBroker())
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "json", "msgpack", "raw")
        await rooms.app.topic("room").broadcast("text")
        await rooms.app.topic("room").broadcast(b"bytes")
        for client in clients:
            assert [await take_bytes(client), await take_bytes(client)] == ["text", b"bytes"]


async def test_what_json_cannot_express_is_sent_as_the_topic_carries_it(caplog: pytest.LogCaptureFixture) -> None:
    value = {"a": {1: b"x", (2, 3): None}}
    rooms = rooms_with(CborCodec())
    with caplog.at_level(logging.DEBUG, logger="pywsapp"):
        async with AsyncExitStack() as stack:
            clients = await rooms.clients(stack, "cbor", "raw", "json")
            await rooms.app.topic("room").broadcast(value)
            for client in clients:
                assert await take_bytes(client) == CborCodec().encode(value)
    assert "has no form for an object, so clients get it as the topic carries it" in caplog.text


async def test_a_listener_gets_the_object_as_the_topic_carries_it() -> None:
    heard: list[Any] = []
    rooms = rooms_with(MessagePackCodec())
    rooms.app.on_broadcast("room")(lambda topic, message: heard.append(message))
    await rooms.app.topic("room").broadcast(JOINED)
    assert heard == [MessagePackCodec().encode(JOINED)]


# -- between processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_redis", [False, True], ids=["memory", "redis"])
async def test_a_broker_carries_the_bytes_of_the_topic(with_redis: bool, redis: Redis) -> None:
    memory = MemoryBroker()
    brokers = [broker_for(redis.url) for _ in range(3)] if with_redis else [memory] * 3
    here, there = rooms_with(Counting(), brokers[0]), rooms_with(codec := Counting(), brokers[1])
    heard: list[Any] = []
    there.app.on_broadcast("room")(lambda topic, message: heard.append(message))
    async with AsyncExitStack() as stack:
        await here.clients(stack)
        clients = await there.clients(stack, *ALL)
        await here.app.topic("room").broadcast(JOINED)
        for client in clients:
            assert await client.receive() == JOINED
        assert brokers[2] is not None
        async with AsyncPublisher(brokers[2]) as publisher:
            publisher.topic_codec("room", MessagePackCodec())
            await publisher.publish("room", JOINED)
            await publisher.publish("other", JOINED)
        for client in clients:
            assert await client.receive() == JOINED
        assert heard == [MessagePackCodec().encode(JOINED)] * 2
        assert (codec.encoded, there.counting.encoded) == (0, 0)


@pytest.mark.parametrize("with_redis", [False, True], ids=["memory", "redis"])
async def test_a_history_keeps_the_bytes_of_the_topic(with_redis: bool, redis: Redis) -> None:
    rooms = rooms_with(MessagePackCodec(), broker_for(redis.url) if with_redis else None)
    rooms.app.history("room")
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, *ALL)
        await rooms.app.topic("room").broadcast(JOINED)
        for client in clients:
            received = await client.receive()
            assert (received["topic"], received["message"]) == ("room", JOINED)
        kept = await rooms.app.topics.history.read_missed("room", None, 1000)
        assert json.loads(kept.messages[-1][1])["object"] == "msgpack"
        for number in (1, 5):
            rooms.room.conns[number].unsubscribe("room")
            await clients[number].client.send("")
            assert (await clients[number].receive())["message"] == JOINED


async def test_a_wrap_can_return_the_message_as_it_is() -> None:
    seen: list[Publication] = []

    def wrap(publication: Publication) -> Any:
        seen.append(publication)
        return publication.message

    rooms = rooms_with(MessagePackCodec())
    rooms.app.history("room", wrap=wrap)
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, *ALL)
        await rooms.app.topic("room").broadcast(JOINED)
        for client in clients:
            assert await client.receive() == JOINED
    assert seen[0].message == MessagePackCodec().encode(JOINED)


async def test_messages_from_before_the_topic_had_its_codec_are_read() -> None:
    """The codec changes while other processes run, or a history has older messages."""
    broker = MemoryBroker()
    old, new = CodecRooms(broker), rooms_with(MessagePackCodec(), broker)
    async with AsyncExitStack() as stack:
        old_clients, new_clients = await old.clients(stack, *ALL), await new.clients(stack, *ALL)
        await old.app.topic("room").broadcast(JOINED)
        await new.app.topic("room").broadcast(JOINED)
        for client in [*old_clients, *new_clients]:
            assert [await client.receive(), await client.receive()] == [JOINED] * 2


@pytest.mark.parametrize(
    ("codec", "reason"),
    [
        (b'"reversed"', "its object has the codec 'reversed', which this topic does not have here"),
        (b'"protobuf"', "its object has the codec 'protobuf', which this topic does not have here"),
        (b'"json"', "its object has the codec 'json', but is binary"),
    ],
)
async def test_an_object_in_an_unknown_codec_is_dropped(
    codec: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    rooms = rooms_with(MessagePackCodec(), MemoryBroker())
    async with AsyncExitStack() as stack:
        (client,) = await rooms.clients(stack, "msgpack")
        data = encode_envelope(Envelope("room", b"\x01", "another"))
        rooms.app.topics.receive("room", data.replace(b'"base64"', b'"object":%s,"base64"' % codec), None)
        rooms.app.topics.receive("room", data, None)
        assert await take_bytes(client) == b"\x01"
    assert rooms.app.topics.stats.dropped == 1
    assert reason in caplog.text


async def test_one_object_in_a_codec_that_is_not_installed_does_not_lock_a_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_installed(name: str) -> Codec:
        raise ConfigurationError(f"the codec {name!r} is not installed")

    broker = MemoryBroker()
    old, new = rooms_with(CborCodec(), broker), CodecRooms(broker)
    for rooms in (old, new):
        rooms.app.history("room")
    async with AsyncExitStack() as stack:
        await old.clients(stack, "json")
        await old.app.topic("room").broadcast(JOINED)
        await old.app.topic("room").broadcast("text")
        monkeypatch.setattr("pywsapp.topics.topic_codecs.codec_named", not_installed)
        (client,) = await new.clients(stack, "json")
        new.app.topic("room").remove(new.room.conns[0])
        recovery = await new.app.topic("room").recover(new.room.conns[0], None)
        assert (recovery.complete, recovery.messages) == (False, 1)
        assert [message.get("message") for message in await take(client.client, 2)] == [None, "text"]


async def test_bytes_that_only_claim_to_be_an_object_are_delivered_as_they_are() -> None:
    rooms = rooms_with(MessagePackCodec(), MemoryBroker())
    rooms.app.history("kept")
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, *ALL)
        data = b'{"v":1,"topic":"room","from":"other","object":"cbor","base64":"/w=="}'
        rooms.app.topics.receive("room", data, None)
        for client in clients:
            assert await take_bytes(client) == b"\xff"


def test_the_envelope_names_the_codec() -> None:
    data = App().topics.codec.encode("t", MessagePackCodec().encode(JOINED))
    assert "object" not in json.loads(data)
    app, seen = App(), []
    app.topic_codec("*", MessagePackCodec())
    app.on_broadcast("*")(lambda topic, message: seen.append(message))
    app.topic("room").broadcast({"a": 1})
    data = encode_envelope(Envelope("room", seen[0], "me"))
    assert json.loads(data) == {"v": 1, "topic": "room", "from": "me", "object": "msgpack", "base64": "gaFhAQ=="}
    again = decode_envelope(data, "room").message
    assert (type(again), again) == (type(seen[0]), seen[0])


# -- Protocol Buffers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_redis", [False, True], ids=["memory", "redis"])
async def test_objects_of_generated_classes_reach_all_connections(with_redis: bool, redis: Redis) -> None:
    memory, codec = MemoryBroker(), ProtobufCodec(SourceContext)
    brokers = [broker_for(redis.url), broker_for(redis.url)] if with_redis else [memory, memory]
    here, there = (rooms_with(codec, broker, SourceContext) for broker in brokers)
    async with AsyncExitStack() as stack:
        clients = [*await here.clients(stack, *ALL), *await there.clients(stack, *ALL)]
        await here.app.topic("room").broadcast(FILE)
        broadcast(here.room.conns + there.room.conns, FILE)
        for client in clients:
            assert [await client.receive(), await client.receive()] == [FILE_MAPPING] * 2


async def test_connections_with_protobuf_get_the_bytes() -> None:
    rooms = rooms_with(ProtobufCodec(SourceContext))
    rooms.app.history("room", wrap=lambda publication: Timestamp(seconds=int(publication.position.split("-")[0])))
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "protobuf", "json")
        await rooms.app.topic("room").broadcast(FILE)
        assert await take_bytes(clients[0]) == Timestamp(seconds=1).SerializeToString()
        assert await take_bytes(clients[1]) == '"1970-01-01T00:00:01Z"'


async def test_the_default_wrap_sends_json_to_connections_with_protobuf() -> None:
    rooms = rooms_with(ProtobufCodec(SourceContext))
    rooms.app.history("room")
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "protobuf", "json")
        await rooms.app.topic("room").broadcast(FILE)
        for client in clients:
            (received,) = await take(client.client)
            assert received["message"] == FILE_MAPPING


def test_a_topic_without_a_class_carries_no_objects_of_generated_classes() -> None:
    app = App(authenticate=lambda request: "ana")
    match = r"broadcast it on a topic of app.topic_codec\(pattern, ProtobufCodec\(SourceContext\)\)"
    with pytest.raises(TypeError, match=match):
        app.topic("room").broadcast(FILE)
    with pytest.raises(TypeError, match=match):
        app.users["ana"].send(FILE)
    app.topic_codec("files", ProtobufCodec(SourceContext))
    with pytest.raises(TypeError, match="of that class only, not Timestamp"):
        app.topic("files").broadcast(Timestamp())
    with pytest.raises(TypeError, match="objects of generated classes, not dict"):
        app.topic("files").broadcast({})


# -- declaring ---------------------------------------------------------------------------------------------------------


def test_the_first_pattern_that_matches_applies() -> None:
    app, inner = App(), App()
    app.topic_codec("room:a", CborCodec())
    inner.topic_codec("room:*", MessagePackCodec())
    topic = inner.topic("room:b")
    app.mount("/inner", inner)
    codecs = [app.topic(name).codec for name in ("room:a", "room:b", "other")]
    assert [None if codec is None else codec.name for codec in codecs] == ["cbor", "msgpack", None]
    assert app.topic("room:b") is topic


@pytest.mark.parametrize(
    ("codec", "match"),
    [
        (MessagePackCodec, "an object such as MessagePackCodec"),
        ([MessagePackCodec()], "an object such as MessagePackCodec"),
        ("msgpack", "an object such as MessagePackCodec"),
        (ProtobufCodec(), r"of its objects: ProtobufCodec\(MyClass\)"),
    ],
)
def test_mistakes_raise(codec: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        App().topic_codec("room", codec)
    with pytest.raises(ConfigurationError, match=match):
        Publisher("redis://localhost").topic_codec("room", codec)


def test_a_topic_in_use_keeps_its_codec() -> None:
    app = App()
    topic = app.topic("room")
    with pytest.raises(ConfigurationError, match=r"App\.topic_codec must be called before"):
        app.topic_codec("*", MessagePackCodec())
    assert topic.codec is None


async def test_a_publisher_without_an_event_loop(redis: Redis) -> None:
    rooms = rooms_with(MessagePackCodec(), broker_for(redis.url))
    heard: list[Any] = []
    rooms.app.on_broadcast("room")(lambda topic, message: heard.append(message))
    async with AsyncExitStack() as stack:
        (client,) = await rooms.clients(stack, "json")
        with Publisher(redis.url) as publisher:
            publisher.topic_codec("room", MessagePackCodec())
            publisher.publish("room", JOINED)
        assert await client.receive() == JOINED
    assert heard == [MessagePackCodec().encode(JOINED)]
