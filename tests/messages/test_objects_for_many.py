"""Objects for many connections: on topics, to users and by `broadcast`; each connection gets them in its codec."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from support.object_rooms import ALL, CodecRooms
from support.typed import Join, Login, Point, Say

from pywsapp import App, AsyncPublisher, Publication, broadcast
from pywsapp.brokers.envelope import Envelope, decode_envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio
JOINED = {"type": "join", "room": "a"}
LIST = [1, {"text": "Zürich"}, None]


async def test_each_connection_gets_a_broadcast_in_its_codec() -> None:
    rooms = CodecRooms()
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, *ALL)
        rooms.app.topic("room").broadcast(Join("a"))
        rooms.app.topic("room").broadcast(JOINED, exclude=rooms.room.conns[0])
        rooms.app.topic("room").broadcast(Join("a"), eligible=rooms.room.conns[1:3])
        rooms.app.users["ana"].send(Join("a"))
        broadcast(rooms.room.conns, Join("a"))
        rooms.app.topic("room").broadcast("text")
        assert [await client.receive() for client in clients for _ in range(3)] == [JOINED] * 18
        for client in clients[1:]:
            assert await client.receive() == JOINED
        for client in clients[1:3]:
            assert await client.receive() == JOINED
        for client in clients:
            assert await client.client.message() == "text"
        assert rooms.counting.encoded == 5  # once for each object, however many connections get it


@pytest.mark.parametrize("value", [LIST, [], (1, 2), 21.5, 0, True, False])
async def test_lists_and_numbers_are_objects(value: Any) -> None:
    rooms = CodecRooms()
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "json", "msgpack", "raw")
        rooms.app.topic("room").broadcast(value)
        rooms.app.users["ana"].send(value)
        broadcast(rooms.room.conns, value)
        for conn in rooms.room.conns[:2]:
            conn.send(value)
        expected = json.loads(json.dumps(value))
        for client in clients:
            for _ in range(3 if client is clients[2] else 4):
                received = await client.receive()
                assert (received, type(received)) == (expected, type(expected))


async def test_none_is_no_message() -> None:
    rooms = CodecRooms()
    nothing: Any = None
    async with AsyncExitStack() as stack:
        (client,) = await rooms.clients(stack, "json")
        for send in (
            rooms.app.topic("room").broadcast,
            rooms.app.users["ana"].send,
            rooms.room.conns[0].send,
            lambda message: broadcast(rooms.room.conns, message),
            lambda message: rooms.app.topic("room").broadcast(message, eligible=rooms.room.conns),
        ):
            with pytest.raises(TypeError, match="None is no message"):
                send(nothing)
        rooms.app.topic("room").broadcast(LIST)
        assert await client.receive() == LIST


async def test_other_processes_get_objects_too() -> None:
    broker = MemoryBroker()
    here, there = CodecRooms(broker), CodecRooms(broker)
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
    rooms = CodecRooms(broker)
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "json", "msgpack", "raw")
        async with AsyncPublisher(broker) as publisher:
            await publisher.publish("room", Join("a"))
            await publisher.publish("room", LIST)
            with pytest.raises(TypeError, match="None is no message"):
                await publisher.publish("room", None)  # type: ignore[arg-type]
        for client in clients:
            assert [await client.receive(), await client.receive()] == [JOINED, LIST]


@pytest.mark.parametrize("with_broker", [False, True])
async def test_a_history_keeps_objects(with_broker: bool) -> None:
    rooms = CodecRooms(MemoryBroker() if with_broker else None)
    rooms.app.history("room")
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "json", "msgpack", "raw")
        await rooms.app.topic("room").broadcast(Point(1, 2))
        for client in clients:
            received = await client.receive()
            assert (received["topic"], received["message"]) == ("room", {"x": 1, "y": 2})
        rooms.room.conns[1].unsubscribe("room")
        await clients[1].client.send("")
        assert (await clients[1].receive())["message"] == {"x": 1, "y": 2}


async def test_a_wrap_of_an_application_can_return_an_object() -> None:
    def wrap(publication: Publication) -> dict[str, object]:
        return {"at": publication.position, "text": publication.message}

    rooms = CodecRooms()
    rooms.app.history("room", wrap=wrap)
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "json", "cbor")
        await rooms.app.topic("room").broadcast("hello")
        for client in clients:
            assert (await client.receive())["text"] == "hello"


@pytest.mark.once
def test_the_envelope_says_that_its_text_is_an_object() -> None:
    rooms = CodecRooms()
    seen: list[Any] = []
    rooms.app.on_broadcast("*")(lambda topic, message: seen.append(message))
    rooms.app.topic("room").broadcast({"a": 1})
    data = encode_envelope(Envelope("room", seen[0], "me"))
    assert json.loads(data) == {"v": 1, "topic": "room", "from": "me", "object": True, "text": '{"a":1}'}
    again = decode_envelope(data, "room")
    assert type(again.message) is type(seen[0])
    assert type(decode_envelope(data.replace(b"true", b"1"), "room").message) is str


async def test_text_that_only_claims_to_be_an_object_is_delivered_as_text() -> None:
    broker = MemoryBroker()
    rooms = CodecRooms(broker)
    rooms.app.history("kept")
    async with AsyncExitStack() as stack:
        clients = await rooms.clients(stack, "json", "msgpack")
        data = b'{"v":1,"topic":"room","from":"other","object":true,"text":"{]"}'
        rooms.app.topics.receive("room", data, None)
        for client in clients:
            assert await client.client.message() == "{]"


@pytest.mark.once
@pytest.mark.parametrize("value", [object(), {"a": object()}])
def test_what_has_no_form_in_json_cannot_be_broadcast(value: Any) -> None:
    with pytest.raises(TypeError):
        App().topic("room").broadcast(value)
    with pytest.raises(TypeError):
        App().users["ana"].send(value)
