"""`on_subscribe` is called before a connection subscribes: a def, an async def or a middleware can refuse it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from support.serving import CLOSE, close_frame, serving
from support.topic_rooms import Rooms, running
from support.waiting import until_blocked

from pywsapp import App, ComponentMiddleware, Connection, MessageComponent, Options, Topic, TopicError

pytestmark = pytest.mark.anyio


class Asked(Rooms):
    """A component whose `on_subscribe` is a function of the test, def or async def."""

    ask: Callable[[Connection], Any]

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        return self.ask(conn)


def refuse(conn: Connection) -> None:
    raise TopicError("not you")


async def refuse_later(conn: Connection) -> None:
    await anyio.lowlevel.checkpoint()
    refuse(conn)


async def close_later(conn: Connection) -> None:
    await anyio.lowlevel.checkpoint()
    conn.close()


@pytest.mark.parametrize("ask", [refuse, refuse_later])
async def test_a_connection_that_on_subscribe_refuses_is_not_subscribed(ask: Callable[[Connection], Any]) -> None:
    rooms = Asked()
    rooms.ask = ask
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        with pytest.raises(TopicError, match="not you"):
            await rooms.topic().add(conn)
        await client.send("join t")
        await rooms.until_called("error")
        assert rooms.said("error") == [("error", "not you")]
        assert conn not in rooms.topic()
        assert conn.topics == ()
        await client.close()
        assert not rooms.said("unsubscribe")


@pytest.mark.parametrize("ask", [lambda conn: conn.close(), lambda conn: conn.abort(), close_later], ids="123")
async def test_a_connection_that_on_subscribe_closes_is_not_subscribed(ask: Callable[[Connection], Any]) -> None:
    rooms = Asked()
    rooms.ask = lambda conn: ask(conn) if ask is close_later else ask(conn) and None
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        await rooms.topic().add(conn)
        assert conn not in rooms.topic()
        assert conn.topics == ()
        with suppress(anyio.BrokenResourceError):
            await client.stream.send(close_frame())
        await client.read_to_end()


async def test_an_async_on_subscribe_runs_when_add_is_awaited() -> None:
    rooms = Asked()
    allowed = anyio.Event()
    rooms.ask = lambda conn: allowed.wait()
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        await client.send("join t", "join t", "say t hello")
        await until_blocked()
        assert conn not in rooms.topic()
        allowed.set()
        other, _ = await rooms.connect(clients)
        await client.send("say t again")
        assert await other.message() == "again"
        assert conn in rooms.topic()


@pytest.mark.parametrize("meanwhile", ["closes", "subscribes"])
async def test_a_connection_that_closes_or_subscribes_during_an_async_on_subscribe(meanwhile: str) -> None:
    rooms = Asked()
    allowed, thinking = anyio.Event(), anyio.Event()

    async def think(conn: Connection) -> None:
        thinking.set()
        await allowed.wait()

    rooms.ask = think
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients, topic=None)
        topic = rooms.topic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(topic._add_when_allowed, conn, think(conn))
            await thinking.wait()
            if meanwhile == "closes":
                await client.close()
                await rooms.until_called("close")
            else:
                rooms.ask = lambda conn: None
                topic.add(conn)
            allowed.set()
        assert (conn in topic) == (meanwhile == "subscribes")
        assert conn.topics == ((topic,) if meanwhile == "subscribes" else ())
        assert len(topic) == len(conn.topics)


async def test_the_number_of_topics_of_a_connection_is_bounded() -> None:
    rooms = Rooms(options=Options(max_topics=2))
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients)
        rooms.topic("u").add(conn)
        with pytest.raises(TopicError, match="at most 2 topics"):
            rooms.topic("v").add(conn)
        assert conn not in rooms.topic("v")
        assert [topic.name for topic in rooms.app.topics.active()] == ["t", "u"]
        rooms.topic("t").add(conn)
        rooms.topic("t").remove(conn)
        rooms.topic("v").add(conn)
        assert [topic.name for topic in conn.topics] == ["u", "v"]


async def test_topics_that_wait_for_on_subscribe_count(caplog: pytest.LogCaptureFixture) -> None:
    rooms = Asked(options=Options(max_topics=3))
    allowed = anyio.Event()
    asked: list[Connection] = []

    async def think(conn: Connection) -> None:
        asked.append(conn)
        await allowed.wait()

    rooms.ask = think
    failures: list[str] = []
    async with running(rooms) as clients:
        _, conn = await rooms.connect(clients, topic=None)

        async def add(number: int) -> None:
            try:
                await rooms.topic(f"t{number}").add(conn)
            except TopicError as exc:
                failures.append(str(exc))

        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(add, number)
            await until_blocked()
            assert len(asked) == 3, "the others are refused before the component is asked"
            assert len(failures) == 997
            allowed.set()
        assert len(conn.topics) == 3
        with pytest.raises(TopicError, match="at most 3 topics"):
            rooms.topic("more").add(conn)
        waiting = rooms.topic("later")
        conn.topics[0].remove(conn)
        late = waiting.add(conn)  # there is room now
        rooms.ask = lambda conn: None
        rooms.topic("first").add(conn)
        with pytest.raises(TopicError, match="at most 3 topics"):
            await late
        assert rooms.app.stats().limits["max_topics"] == 999
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("refused a topic above Options.max_topics: <Connection ")


async def test_middleware_passes_the_hooks_on_and_can_refuse() -> None:
    class Guard(ComponentMiddleware):
        def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
            if topic.name.startswith("secret"):
                raise TopicError("members only")
            return super().on_subscribe(conn, topic)

    rooms = Rooms()
    rooms.app = App(port=0)
    rooms.app.route("/", ComponentMiddleware(Guard(rooms)))
    async with running(rooms) as clients:
        client, conn = await rooms.connect(clients)
        with pytest.raises(TopicError, match="members only"):
            rooms.topic("secret").add(conn)
        await client.close()
        await rooms.until_called("unsubscribe")
        assert rooms.said("subscribe", "unsubscribe", "close") == [
            ("subscribe", "t"),
            ("close", "t"),
            ("unsubscribe", "t"),
        ]


class Unguarded(MessageComponent):
    """A component that does not catch the exceptions of topics."""

    def __init__(self) -> None:
        self.app = App("*", 0)
        self.app.route("/", self, allowed_origins=["*"])

    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.app.topic(message).add(conn)

    def on_subscribe(self, conn: Connection, topic: Topic) -> None:
        if topic.name == "secret":
            raise TopicError("ü" * 200)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no spaces", "'no spaces' cannot be the name of a topic: whitespace, control"), ("secret", "ü" * 61)],
)
async def test_a_client_that_cannot_subscribe_gets_the_reason(
    name: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Unguarded().app) as server, server.client() as client:
        await client.send(name)
        opcode, payload = await client.receive()
        assert (opcode, payload[:2], payload[2:].decode()[: len(reason)]) == (CLOSE, b"\x03\xf0", reason)
        assert len(payload) <= 125
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
