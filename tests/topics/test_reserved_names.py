"""Neither a client nor an application can use the topics on which processes talk to each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import pytest
from support.topic_bench import Bench, until
from support.topic_rooms import Rooms, expect, running

from pywsapp import App, AsyncPublisher, ConfigurationError, Publisher, TopicError
from pywsapp.brokers.base import Position
from pywsapp.brokers.envelope import Envelope, encode_envelope
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.topics.presence.events import ALIVE_TOPIC

pytestmark = pytest.mark.anyio

RESERVED = pytest.mark.parametrize("name", [ALIVE_TOPIC, "$pywsapp:anything"])


@RESERVED
async def test_a_client_cannot_join_leave_or_say_anything_there(name: str) -> None:
    broker = Bench()
    rooms = Rooms(broker)
    rooms.app.on_presence("t")(lambda topic, diff: None)
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients)
        for command in (f"join {name}", f"leave {name}", f"say {name} hello"):
            await client.send(command)
        for call in (conn.subscribe, conn.unsubscribe):
            with pytest.raises(TopicError, match="reserved"):
                call(name)
        await rooms.until(lambda: len(rooms.said("error")) == 3)
        assert all("reserved" in call[1] for call in rooms.said("error"))
        assert broker.subscribed == {"t", ALIVE_TOPIC}, "the process still hears the others"
        assert not any(
            message.topic == name and b"hello" in message.data for batch in broker.batches for message in batch
        )


@RESERVED
@pytest.mark.parametrize(
    "use",
    [
        lambda app, name: app.topic(name),
        lambda app, name: app.history(name),
        lambda app, name: app.on_broadcast(name)(lambda topic, message: None),
        lambda app, name: app.on_presence(name)(lambda topic, diff: None),
        lambda app, name: Publisher(MemoryBroker()).history(name),
        lambda app, name: AsyncPublisher(MemoryBroker()).history(name),
    ],
    ids=["topic", "history", "on_broadcast", "on_presence", "publisher", "async publisher"],
)
async def test_an_application_cannot_name_them(name: str, use: Callable[[App, str], Any]) -> None:
    with pytest.raises((TopicError, ConfigurationError), match="reserved"):
        use(App(), name)


@RESERVED
async def test_a_publisher_cannot_publish_there(name: str) -> None:
    async with AsyncPublisher(MemoryBroker()) as publisher:
        with pytest.raises(TopicError, match="reserved"):
            await publisher.publish(name, "x")


async def test_a_pattern_for_all_topics_does_not_include_them() -> None:
    broker = Bench()
    rooms, heard = Rooms(broker), list[str]()
    rooms.app.history("*")
    rooms.app.on_presence("*")(lambda topic, diff: None)
    rooms.app.on_broadcast("*")(lambda topic, message: heard.append(topic.name))
    async with running(rooms) as clients:
        client, _ = await rooms.connect(clients)
        data = encode_envelope(Envelope(ALIVE_TOPIC, "x", "another"))
        for connection in broker.connections:
            connection.deliver(ALIVE_TOPIC, data, None)
            connection.deliver(ALIVE_TOPIC, data, Position("a", 1))
            connection.deliver("$pywsapp:anything", data, None)
        await rooms.topic().broadcast("hello")
        await until(lambda: heard)
        assert "hello" in str(await client.message())
        assert heard == ["t"]


async def test_the_others_are_heard_whatever_clients_ask_for() -> None:
    broker = Bench()
    one, two = Rooms(broker), Rooms(broker)
    for rooms in (one, two):
        rooms.app.on_presence("t")(lambda topic, diff: None)
    async with running(one, two) as clients:
        client, _ = await one.connect(clients)
        for command in ("join", "leave"):
            await client.send(f"{command} {ALIVE_TOPIC}")
        await one.until(lambda: len(one.said("error")) == 2)
        view = one.app.topics.presence._view
        view._last_event.clear()
        two.app.topics.presence._view.connected()  # the next tick sends `alive`
        await until(lambda: two.app.topics.codec.origin in view._last_event)
        await one.topic().broadcast("x")
        await expect(client, "x")
        await anyio.lowlevel.checkpoint()
