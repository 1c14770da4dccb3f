"""Topics in one process: subscribing, broadcasting, and that nothing is left at the end."""

from __future__ import annotations

import gc
import logging
import weakref
import zlib
from contextlib import suppress
from typing import Any

import anyio
import pytest
from support.serving import GUARD, Client, close_frame
from support.topic_rooms import Rooms, running

from pywsapp import App, Connection, Options, PreparedMessage, Topic
from pywsapp._protocol.deflate import compress_shared
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Deflate

pytestmark = pytest.mark.anyio


async def test_subscribing_and_unsubscribing() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        (ana, ana_conn), (_, ben_conn) = await rooms.connect(clients), await rooms.connect(clients, topic=None)
        topic = rooms.topic()
        assert ana_conn in topic
        assert topic.has(ana_conn)
        assert ben_conn not in topic
        assert not topic.has(ben_conn)
        assert len(topic) == 1
        assert list(topic) == [ana_conn]
        topic.add(ben_conn)
        topic.add(ben_conn)
        assert list(topic) == [ana_conn, ben_conn]
        assert ben_conn.topics == (topic,)
        await topic.add(ben_conn)
        rooms.topic("u").add(ben_conn)
        assert list(ben_conn.topics) == [topic, rooms.topic("u")]
        topic.remove(ana_conn)
        topic.remove(ana_conn)
        assert list(topic) == [ben_conn]
        assert ana_conn.topics == ()
        assert rooms.app.topics.active() == [topic, rooms.topic("u")]
        assert rooms.said("subscribe", "unsubscribe") == [
            ("subscribe", "t"),
            ("subscribe", "t"),
            ("subscribe", "u"),
            ("unsubscribe", "t"),
        ]
        assert repr(topic) == "<Topic 't' with 1 subscribers here>"
        await ana.close()


async def test_an_empty_topic_is_true() -> None:
    topic = App().topic("t")
    assert topic
    assert len(topic) == 0
    assert list(topic) == []


async def test_exclude_and_eligible() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        pairs = [await rooms.connect(clients) for _ in range(3)]
        conns = [conn for _, conn in pairs]
        _, other = await rooms.connect(clients, topic=None)
        topic = rooms.topic()
        await topic.broadcast("all")
        topic.broadcast(b"bytes")
        topic.broadcast(PreparedMessage("prepared"))
        topic.broadcast("not 0", exclude=conns[0])
        topic.broadcast("not 0 and 1", exclude=conns[:2])
        topic.broadcast("not 1", (conn for conn in conns[1:2]))
        topic.broadcast("not the other", exclude=[other])
        topic.broadcast("only 1", eligible=conns[1])
        topic.broadcast("only 1 and 2", eligible=[*conns[1:], other, conns[1]])
        topic.broadcast("only 2", conns[1], conns[1:])
        topic.broadcast("none", eligible=[])
        topic.broadcast("the end")
        wanted = [
            ["not 1"],
            ["not 0", "only 1", "only 1 and 2"],
            ["not 0", "not 0 and 1", "not 1", "only 1 and 2", "only 2"],
        ]
        for (client, _), some in zip(pairs, wanted, strict=True):
            got = [await client.message() for _ in range(len(some) + 5)]
            assert got[:3] == ["all", b"bytes", "prepared"]
            assert sorted(map(str, got[3:])) == sorted([*some, "not the other", "the end"])


async def test_an_invalid_broadcast_is_not_sent() -> None:
    topic = App().topic("t")
    with pytest.raises(TypeError, match="None is no message"):
        topic.broadcast(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="UTF-8"):
        topic.broadcast("\ud800")
    with pytest.raises(TypeError):
        topic.broadcast("x", exclude=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        topic.broadcast("x", eligible=5)  # type: ignore[arg-type]


async def end(how: str, client: Client, conn: Connection, rooms: Rooms) -> None:
    """End a connection in one of many ways."""
    if how == "reset":
        await client.reset()
    elif how == "abort":
        conn.abort()
    elif how == "cancel":
        rooms.server.cancel()
    elif how == "protocol":
        await client.stream.send(b"\xff\xff")
    elif how == "crash":
        await client.send("crash")
    elif how == "our close":
        conn.close(4000)
    elif how == "drain":
        rooms.server.stop()
    if how != "reset":
        await client.stream.send(close_frame())
        await client.read_to_end()


@pytest.mark.parametrize("how", ["close", "reset", "our close", "abort", "crash", "protocol", "drain", "cancel"])
@pytest.mark.parametrize("slow", [False, True], ids=["def", "async"])
async def test_a_connection_that_ends_unsubscribes_after_on_close(how: str, slow: bool) -> None:
    class Some(Rooms):
        def on_message(self, conn: Connection, message: Any) -> Any:
            raise LookupError(message)

        def on_error(self, conn: Connection, exc: Exception) -> Any:
            conn.close(1011)

        def on_close(self, conn: Connection) -> Any:
            return self.linger(conn) if slow else super().on_close(conn)

        async def linger(self, conn: Connection) -> None:
            await anyio.lowlevel.checkpoint()
            super().on_close(conn)

    rooms = Some()
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients)
        rooms.topic("u").add(conn)
        with suppress(anyio.BrokenResourceError):
            await end(how, client, conn, rooms)
        await rooms.until_called("unsubscribe", 2)
        assert rooms.calls[-3:] == [("close", "t", "u"), ("unsubscribe", "t"), ("unsubscribe", "u")]
        assert conn.topics == ()
        assert not rooms.app.topics.active()
        rooms.topic().add(conn)
        await rooms.topic().add(conn)
        assert conn not in rooms.topic(), "it is closed"


async def test_on_close_can_unsubscribe_and_broadcast() -> None:
    class Polite(Rooms):
        def on_close(self, conn: Connection) -> None:
            for topic in conn.topics:
                topic.broadcast("bye", exclude=conn)
                topic.remove(conn)
                topic.add(conn)

    rooms = Polite()
    async with running(rooms) as clients:
        (ana, _), (ben, _) = await rooms.connect(clients), await rooms.connect(clients)
        await ben.close()
        assert await ana.message() == "bye"
        assert rooms.said("unsubscribe") == [("unsubscribe", "t")]
        assert len(rooms.topic()) == 1


@pytest.mark.parametrize("slow_error", [False, True], ids=["def", "async"])
@pytest.mark.parametrize("slow_close", [False, True], ids=["close", "async-close"])
async def test_an_exception_of_on_unsubscribe_at_the_end_goes_to_on_error(slow_error: bool, slow_close: bool) -> None:
    class Failing(Rooms):
        def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            super().on_unsubscribe(conn, topic)
            raise LookupError(topic.name)

        def on_error(self, conn: Connection, exc: Exception) -> Any:
            return self.write_down(exc) if slow_error else self.record("error", str(exc))

        async def write_down(self, exc: Exception) -> None:
            await anyio.lowlevel.checkpoint()
            self.record("error", str(exc))

        def on_close(self, conn: Connection) -> Any:
            return anyio.lowlevel.checkpoint() if slow_close else None

    rooms = Failing()
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients)
        rooms.topic("u").add(conn)
        await client.close()
        await rooms.until_called("error", 2)
        assert rooms.said("unsubscribe") == [("unsubscribe", "t"), ("unsubscribe", "u")]
        assert rooms.said("error") == [("error", "t"), ("error", "u")]
        assert not rooms.app.topics.active()


async def test_an_exception_of_on_unsubscribe_before_the_end_goes_to_the_caller_of_remove() -> None:
    class Failing(Rooms):
        def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            raise LookupError(topic.name)

    rooms = Failing()
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients)
        with pytest.raises(LookupError):
            rooms.topic().remove(conn)
        assert conn not in rooms.topic()
        assert conn.topics == ()


# -- costs -------------------------------------------------------------------------------------------------------------


async def test_a_topic_is_one_object_as_long_as_it_is_referenced() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        assert rooms.topic() is rooms.topic()
        _, conn = await rooms.connect(clients, "held")
        held = weakref.ref(rooms.topic("held"))
        idle = weakref.ref(rooms.topic("idle"))
        gc.collect()
        assert idle() is None
        assert held() is rooms.topic("held")
        rooms.topic("held").remove(conn)
        gc.collect()
        assert held() is None
        assert not rooms.app.topics.active()
        assert not len(rooms.app.topics._topics)


async def test_topics_without_subscribers_cost_nothing() -> None:
    app = App()
    for number in range(1000):
        app.topic(f"t:{number}").broadcast("x")
    gc.collect()
    assert not len(app.topics._topics)


class NotWalked(dict[Any, Any]):
    """A dict that cannot be iterated over."""

    def __iter__(self) -> Any:
        raise AssertionError("this costs what all subscribers do")

    keys = values = items = __iter__


async def test_subscribing_costs_the_same_with_many_subscribers() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        pairs = [await rooms.connect(clients) for _ in range(5)]
        topic = rooms.topic()
        topic._subscribers = NotWalked(topic._subscribers)
        await rooms.connect(clients)
        for client, _ in pairs:
            await client.close()
        await rooms.until_called("unsubscribe", 5)
        assert len(topic) == 1
        assert not rooms.said("error")


async def test_a_message_is_encoded_once_for_each_wire_format(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = []

    def compressing(*arguments: Any) -> bytes:
        compressed.append(arguments)
        return compress_shared(*arguments)

    rooms = Rooms(options=Options(deflate=Deflate()))
    async with running(rooms) as clients:
        plain = [(await rooms.connect(clients))[0] for _ in range(3)]
        headers = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        deflated = [(await rooms.connect(clients, headers=headers))[0] for _ in range(3)]
        monkeypatch.setattr("pywsapp._protocol.prepared.compress_shared", compressing)
        rooms.topic().broadcast("hello " * 500)
        for client in plain:
            assert await client.message() == "hello " * 500
        for client in deflated:
            with anyio.fail_after(GUARD):
                data = await client.stream.receive()
            assert data[0] == 0xC1
            assert zlib.decompressobj(-15).decompress(data[2:] + b"\0\0\xff\xff") == b"hello " * 500
        assert len(compressed) == 1


# -- handlers that change what is walked over --------------------------------------------------------------------------


async def test_subscribers_can_change_during_an_iteration() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        conns = [(await rooms.connect(clients))[1] for _ in range(4)]
        topic = rooms.topic()
        for conn in topic:
            topic.remove(conn)
            topic.add(conn)
        assert list(topic) == conns
        for conn in topic:
            topic.remove(conn)
        assert not len(topic)
        topic.broadcast("to none")


async def test_hooks_can_broadcast_and_change_topics() -> None:
    class Lively(Rooms):
        def on_subscribe(self, conn: Connection, topic: Topic) -> None:
            topic.broadcast("one subscribes")

        def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
            topic.broadcast("one unsubscribed")
            for other in topic:
                topic.remove(other)

    rooms = Lively()
    async with running(rooms) as clients:
        pairs = [await rooms.connect(clients) for _ in range(3)]
        rooms.topic().remove(pairs[0][1])
        assert not len(rooms.topic())
        assert not rooms.app.topics.active()
        for (client, _), number in zip(pairs, (2, 2, 2), strict=True):
            messages = [await client.message() for _ in range(number)]
            assert set(messages) <= {"one subscribes", "one unsubscribed"}


async def test_a_client_that_reads_too_slowly_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rooms = Rooms(options=Options(max_outbox=10_000, high_water=5_000))
    async with running(rooms) as clients:
        slow, slow_conn = await rooms.connect(clients)
        quick, _ = await rooms.connect(clients)
        topic, count = rooms.topic(), 0
        while slow_conn.is_open:
            topic.broadcast(bytes(9_000))
            assert len(await quick.message()) == 9_000
            count += 1
        topic.broadcast("the end")
        assert await quick.message() == "the end"
        await slow.stream.aclose()
        await rooms.until_called("unsubscribe")
        assert len(topic) == 1


async def test_topics_are_empty_when_the_app_has_stopped() -> None:
    rooms = Rooms()
    async with running(rooms) as clients:
        pairs = [await rooms.connect(clients) for _ in range(2)]
        rooms.server.stop()
        for client, _ in pairs:
            await client.close()
        await rooms.server.ended.wait()
        assert rooms.names().count("unsubscribe") == 2
        assert not rooms.app.topics.active()
