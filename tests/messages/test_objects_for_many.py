"""Objects for many connections: on topics, to users and by `broadcast`; each connection gets them in its codec."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.serving import serving
from support.typed import Join, Login, Point, Say, Talk

from pywsapp import App, AsyncPublisher, Connection, MessageComponent, Publication, broadcast
from pywsapp.brokers.envelope import Envelope, decode_envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec

pytestmark = pytest.mark.anyio
JOINED = {"type": "join", "room": "a"}


class Counting(MessagePackCodec):
    """Counts how often it encodes."""

    encoded = 0

    def encode(self, value: Any) -> bytes:
        self.encoded += 1
        return super().encode(value)


class Room(MessageComponent):
    """Subscribes every connection, and tells it so."""

    def __init__(self) -> None:
        self.conns: list[Connection] = []

    async def on_open(self, conn: Connection) -> None:
        self.conns.append(conn)
        await conn.subscribe("room")
        conn.send("ready")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        assert conn.app is not None
        await conn.app.topic("room").recover(conn, str(message) or None)


class House:
    """An App with a room for clients of each codec."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.counting = Counting()
        self.codecs: dict[str, Codec | None] = {
            "json": JsonCodec(),
            "msgpack": self.counting,
            "cbor": CborCodec(),
            "protobuf": ProtobufCodec(),
            "raw": None,
        }
        self.room = Room()
        self.app = App("*", 0, broker=broker, authenticate=lambda request: "ana")
        for name, codec in self.codecs.items():
            self.app.route(f"/{name}", self.room, allowed_origins=["*"], codec=codec)

    async def clients(self, stack: AsyncExitStack, *names: str) -> list[Talk]:
        server = await stack.enter_async_context(serving(self.app))
        clients = []
        for name in names:
            client = await stack.enter_async_context(server.client(f"/{name}"))
            codec = self.codecs[name]
            clients.append(Talk(client, None if isinstance(codec, ProtobufCodec) else codec))
            assert await client.message() == "ready"
        return clients


ALL = ("json", "msgpack", "msgpack", "cbor", "protobuf", "raw")


async def test_each_connection_gets_a_broadcast_in_its_codec() -> None:
    house = House()
    async with AsyncExitStack() as stack:
        clients = await house.clients(stack, *ALL)
        house.app.topic("room").broadcast(Join("a"))
        house.app.topic("room").broadcast(JOINED, exclude=house.room.conns[0])
        house.app.topic("room").broadcast(Join("a"), eligible=house.room.conns[1:3])
        house.app.users["ana"].send(Join("a"))
        broadcast(house.room.conns, Join("a"))
        house.app.topic("room").broadcast("text")
        assert [await client.receive() for client in clients for _ in range(3)] == [JOINED] * 18
        for client in clients[1:]:
            assert await client.receive() == JOINED
        for client in clients[1:3]:
            assert await client.receive() == JOINED
        for client in clients:
            assert await client.client.message() == "text"
        assert house.counting.encoded == 5  # once for each object, however many connections get it


async def test_other_processes_get_objects_too() -> None:
    broker = MemoryBroker()
    here, there = House(broker), House(broker)
    heard: list[Any] = []
    there.app.on_broadcast("room")(lambda topic, message: heard.append(message))
    async with AsyncExitStack() as stack:
        await here.clients(stack)
        clients = await there.clients(stack, *ALL)
        await here.app.topic("room").broadcast(Say("Zürich", 3))
        await here.app.users["ana"].send(Login(name="Ana"))
        for client in clients:
            assert await client.receive() == {"type": "say", "text": "Zürich", "times": 3}
            assert await client.receive() == {"type": "login", "name": "Ana"}
        assert there.counting.encoded == 2
        assert heard == ['{"type":"say","text":"Zürich","times":3}']


async def test_another_program_publishes_objects() -> None:
    broker = MemoryBroker()
    house = House(broker)
    async with AsyncExitStack() as stack:
        clients = await house.clients(stack, "json", "msgpack", "raw")
        async with AsyncPublisher(broker) as publisher:
            await publisher.publish("room", Join("a"))
            with pytest.raises(TypeError):
                await publisher.publish("room", 5)  # type: ignore[arg-type]
        for client in clients:
            assert await client.receive() == JOINED


@pytest.mark.parametrize("with_broker", [False, True])
async def test_a_history_keeps_objects(with_broker: bool) -> None:
    house = House(MemoryBroker() if with_broker else None)
    house.app.history("room")
    async with AsyncExitStack() as stack:
        clients = await house.clients(stack, "json", "msgpack", "raw")
        await house.app.topic("room").broadcast(Point(1, 2))
        for client in clients:
            received = await client.receive()
            assert (received["topic"], received["message"]) == ("room", {"x": 1, "y": 2})
        house.room.conns[1].unsubscribe("room")
        await clients[1].client.send("")
        assert (await clients[1].receive())["message"] == {"x": 1, "y": 2}


async def test_a_wrap_of_an_application_can_return_an_object() -> None:
    def wrap(publication: Publication) -> dict[str, object]:
        return {"at": publication.position, "text": publication.message}

    house = House()
    house.app.history("room", wrap=wrap)
    async with AsyncExitStack() as stack:
        clients = await house.clients(stack, "json", "cbor")
        await house.app.topic("room").broadcast("hello")
        for client in clients:
            assert (await client.receive())["text"] == "hello"


@pytest.mark.once
def test_the_envelope_says_that_its_text_is_an_object() -> None:
    house = House()
    seen: list[Any] = []
    house.app.on_broadcast("*")(lambda topic, message: seen.append(message))
    house.app.topic("room").broadcast({"a": 1})
    data = encode_envelope(Envelope("room", seen[0], "me"))
    assert json.loads(data) == {"v": 1, "topic": "room", "from": "me", "object": True, "text": '{"a":1}'}
    again = decode_envelope(data, "room")
    assert type(again.message) is type(seen[0])
    assert type(decode_envelope(data.replace(b"true", b'"x"'), "room").message) is str


async def test_text_that_only_claims_to_be_an_object_is_delivered_as_text() -> None:
    broker = MemoryBroker()
    house = House(broker)
    house.app.history("kept")
    async with AsyncExitStack() as stack:
        clients = await house.clients(stack, "json", "msgpack")
        data = b'{"v":1,"topic":"room","from":"other","object":true,"text":"{]"}'
        house.app.topics.receive("room", data, None)
        for client in clients:
            assert await client.client.message() == "{]"


@pytest.mark.once
@pytest.mark.parametrize("value", [object(), {"a": object()}])
def test_what_has_no_form_in_json_cannot_be_broadcast(value: Any) -> None:
    with pytest.raises(TypeError):
        App().topic("room").broadcast(value)
    with pytest.raises(TypeError):
        App().users["ana"].send(value)
