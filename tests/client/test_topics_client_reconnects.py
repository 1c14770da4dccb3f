"""A client of topics whose connections are lost: nothing is missing, nothing is doubled, and it ends when it must."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from support.services import free_port
from support.serving import GUARD
from support.topics_server import Private, Rooms, TopicsServer, serving_topics
from support.waiting import until_blocked

from pywsapp import (
    Backoff,
    BrokerUnavailable,
    CallError,
    ConfigurationError,
    Connection,
    ConnectionClosed,
    HandshakeError,
    MessagesLost,
    PresenceDiff,
    QueueFull,
    Refuse,
    TopicsClient,
    TopicSubscription,
    connect_topics,
)

pytestmark = pytest.mark.anyio
MESSAGES, DROPS, TOGETHER = 1000, 20, 20


class Dropping(Rooms):
    """Breaks all connections while it publishes some of the messages, so that their `ok` is lost."""

    drops = 0

    def on_publish(self, conn: Connection, topic: Any, message: Any) -> Any:
        if self.drops < DROPS and message % (MESSAGES // DROPS) == 25:
            self.drops += 1
            self.drop_all()
        return super().on_publish(conn, topic, message)


async def test_a_thousand_messages_over_twenty_losses() -> None:
    """A client publishes 20 messages at a time, and two subscribers get all of them once, and in one order."""
    received: dict[str, list[int]] = {"same": [], "other": []}

    async def collect(name: str, subscription: TopicSubscription[int]) -> None:
        while len(received[name]) < MESSAGES:
            received[name].append((await subscription.receive(timeout=GUARD)).data)

    async with (
        serving_topics(Dropping()) as server,
        server.client() as one,
        server.client() as two,
        one.subscribe("room:1") as same,
        two.subscribe("room:1") as other,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, "same", same)
            tasks.start_soon(collect, "other", other)
            for first in range(0, MESSAGES, TOGETHER):
                async with anyio.create_task_group() as publishing:
                    for number in range(first, first + TOGETHER):
                        publishing.start_soon(one.publish, "room:1", number)
        await one.call("add", {"a": 1, "b": 1})
        for subscription in (same, other):
            with pytest.raises(TimeoutError):
                await subscription.receive(timeout=0)
    assert received["same"] == received["other"]
    assert sorted(received["same"]) == list(range(MESSAGES))
    assert [number // TOGETHER for number in received["same"]] == [n // TOGETHER for n in range(MESSAGES)]
    assert server.rooms.opened >= 2 + DROPS
    assert server.rooms.published == MESSAGES, "a message that was sent again calls on_publish once"


# -- what waits while the client is away -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def away(**arguments: Any) -> AsyncIterator[tuple[int, TopicsClient]]:
    """Connect a client, and stop the server; the block gets its port."""
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        async with serving_topics(port=port) as server:
            backoff = Backoff(base=0.01, cap=0.05)
            topics = await stack.enter_async_context(connect_topics(server.url, backoff=backoff, **arguments))
            topics._driver._rules._uniform = lambda low, high: 0.01
        yield port, topics


async def test_messages_published_while_the_client_is_away() -> None:
    async with away(max_queue=2) as (port, topics), anyio.create_task_group() as tasks:
        tasks.start_soon(topics.publish, "room:1", 1)
        await anyio.lowlevel.checkpoint()
        await until_blocked()
        tasks.start_soon(topics.publish, "room:1", 2)
        await until_blocked()
        with pytest.raises(QueueFull, match="2 requests wait"):
            await topics.publish("room:1", 3)
        assert str(topics.state) in ("waiting", "connecting")
        async with serving_topics(port=port), topics.subscribe("room:1", since=None) as subscription:
            assert [(await subscription.receive(timeout=GUARD)).data for _ in range(2)] == [1, 2]
            assert topics.state == "open"


async def test_a_server_that_has_lost_its_history() -> None:
    port, lost = free_port(), list[str | None]()

    async def reload(position: str | None) -> None:
        lost.append(position)
        await anyio.lowlevel.checkpoint()

    async with contextlib.AsyncExitStack() as stack:
        async with serving_topics(port=port) as server:
            topics = await stack.enter_async_context(connect_topics(server.url, backoff=Backoff(base=0.01)))
            topics._driver._rules._uniform = lambda low, high: 0.01
            loud = await stack.enter_async_context(topics.subscribe("room:1"))
            quiet = await stack.enter_async_context(topics.subscribe("room:2", on_lost=reload))
            for topic in "room:1", "room:2":
                await topics.publish(topic, "before")
            assert [(await one.receive()).data for one in (loud, quiet)] == ["before", "before"]
        async with serving_topics(port=port):
            with pytest.raises(MessagesLost, match="'room:1'") as missing:
                await loud.receive(timeout=GUARD)
            assert missing.value.topic == "room:1"
            for topic in "room:1", "room:2":
                await topics.publish(topic, "after")
            assert [(await one.receive(timeout=GUARD)).data for one in (loud, quiet)] == ["after", "after"]
            assert len(lost) == 1


async def test_a_position_whose_messages_are_not_kept_any_more() -> None:
    async with serving_topics(size=3) as server, server.client() as topics:
        async with topics.subscribe("room:1") as subscription:
            position = subscription.position
        for number in range(6):
            await topics.publish("room:1", number)
        async with topics.subscribe("room:1", since=position) as subscription:
            with pytest.raises(MessagesLost) as lost:
                await subscription.receive()
            assert subscription.position == lost.value.position
            assert [(await subscription.receive()).data for _ in range(3)] == [3, 4, 5]


async def test_a_call_without_a_reply_fails() -> None:
    async with serving_topics() as server, server.client() as topics:
        with pytest.raises(ConnectionClosed, match="before the reply came"):
            await topics.call("drop")
        assert await topics.call("add", {"a": 1, "b": 1}) == 2


async def test_subscriptions_keep_their_filter_and_presence() -> None:
    async with serving_topics() as server, server.client() as ana, server.client() as ben:
        options: Any = {"presence": True, "track": 1, "filter": {"kind": ["tea"]}}
        async with ana.subscribe("room:1", **options) as subscription, ben.subscribe("room:1", track=2) as of_ben:
            changes = subscription.presence_changes()
            while len(subscription.present) < 2:
                await anext(changes)
            before = {ana.id, ben.id}
            server.rooms.drop_all()
            await of_ben.track(3)
            await ben.publish("room:1", {"kind": "milk"})
            await ben.publish("room:1", {"kind": "tea"})
            assert (await subscription.receive()).data == {"kind": "tea"}
            seen: set[str] = set()
            while not {ana.id, ben.id} <= set(subscription.present) or subscription.present[str(ben.id)] != 3:
                seen |= set((await anext(changes)).left)
            assert subscription.present == {ana.id: 1, ben.id: 3}
            assert seen <= before
            assert isinstance(await anext(aiter(subscription.presence_changes())), PresenceDiff)


async def test_messages_that_the_broker_could_not_take_are_repeated_in_their_order() -> None:
    came: list[int] = []
    called: list[int] = []
    at_first_pause: list[int] = []

    class Unlucky(Rooms):
        def on_publish(self, conn: Connection, topic: Any, message: Any) -> Any:
            came.append(message)
            if len(came) <= 3:
                raise BrokerUnavailable("not now")
            return message

    async def publish(topics: TopicsClient, number: int) -> None:
        called.append(number)
        await topics.publish("room:1", number)

    async with (
        serving_topics(Unlucky()) as server,
        server.client() as topics,
        server.client() as other,
        topics.subscribe("room:1") as subscription,
    ):

        async def note() -> None:
            await other.call("add", {"a": 1, "b": 1})  # what was sent before has come
            at_first_pause.extend([] if at_first_pause else came)

        server.time.during = note
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(publish, topics, number)
        assert [(await subscription.receive()).data for _ in range(3)] == called
    assert came == called * 2
    assert at_first_pause.count(called[0]) == 1, "nothing is sent again before the pause"


# -- when it comes back ------------------------------------------------------------------------------------------------


async def come_back(server: TopicsServer, topics: TopicsClient, code: int) -> float:
    """Close all connections; return the pause of the client, which is as long as it can be."""
    server.rooms.drop_all(code)
    opened = server.rooms.opened
    while server.rooms.opened == opened:
        with contextlib.suppress(ConnectionClosed):
            await topics.call("add", {"a": 1, "b": 1})
    return server.time.pauses[-1]


async def test_it_comes_back_as_the_server_orders() -> None:
    async with serving_topics() as server, server.client() as topics:
        pauses = [await come_back(server, topics, code) for code in (1001, 1012, 1013, 3000, 4000)]
        assert pauses == [6, 5, 10, 6, 6]


async def test_the_pauses_after_losses_grow() -> None:
    async with serving_topics() as server, server.client() as topics:
        assert [await come_back(server, topics, 1006) for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]
        server.time.now += 100
        assert await come_back(server, topics, 1006) == 0.5


async def test_it_does_not_come_back() -> None:
    for code in (1000, 1008, 3503):
        async with serving_topics() as server, server.client() as topics:
            async with topics.subscribe("room:1") as subscription:
                server.rooms.drop_all(code, "enough")
                with pytest.raises(ConnectionClosed, match="enough") as closed:
                    await subscription.receive()
                assert (closed.value.code, closed.value.reason) == (code, "enough")
            with pytest.raises(ConnectionClosed, match=r"closed permanently: .*enough"):
                await topics.publish("room:1", 1)
            assert topics.state == "closed"
            assert isinstance(topics.reason, ConnectionClosed)
            assert server.rooms.opened == 1


async def test_the_first_connection_is_refused() -> None:
    class Guarded(Rooms):
        status = 403

        def on_handshake(self, request: Any) -> None:
            raise Refuse(self.status)

    async with serving_topics(Guarded()) as server:
        for status in (401, 403, 404, 410):
            Guarded.status = status
            with pytest.raises(HandshakeError) as refused:
                async with server.client(token="a"):
                    pass
            assert refused.value.status == status
    assert server.time.pauses == []
    with pytest.raises(OSError, match=r"[Cc]onnect"):
        async with connect_topics(server.url, backoff=Backoff(max_attempts=1)):
            pass


async def test_a_pause_can_be_ended() -> None:
    async with serving_topics() as server:
        topics = connect_topics(server.url)
        async with topics:
            topics._driver._rules._uniform = lambda low, high: 1000
            states = topics.states()
            assert await anext(states) == "open"
            server.rooms.drop_all()
            assert await anext(states) == "waiting"
            assert isinstance(topics.reason, ConnectionClosed)
            await until_blocked()
            topics.reconnect()
            while await anext(states) != "open":
                pass
            assert topics.reason is None


# -- tokens ------------------------------------------------------------------------------------------------------------


class Tokens:
    """Makes tokens, one after the other; an exception is raised."""

    def __init__(self, *made: Any) -> None:
        self.made = list(made)

    async def __call__(self) -> Any:
        await anyio.lowlevel.checkpoint()
        token = self.made.pop(0)
        if isinstance(token, Exception):
            raise token
        return token


async def test_an_expired_token_is_replaced() -> None:
    rooms, tokens = Private(), Tokens("ana 60", OSError("the login server is away"), "ana 70")
    async with serving_topics(rooms) as server, server.client(token=tokens) as topics:
        await come_back(server, topics, 4401)
        assert (rooms.tokens, topics.user, tokens.made) == (["ana 60", "ana 70"], "ana", [])


async def test_a_token_that_is_refused_is_replaced_once() -> None:
    rooms = Private()
    async with serving_topics(rooms) as server:
        async with server.client(token=Tokens("bad", "ana 60")) as topics:
            assert topics.user == "ana"
        for token, tried in ((Tokens("bad", "worse", "unused 60"), ["bad", "worse"]), ("bad", ["bad"]), (None, [])):
            rooms.tokens.clear()
            with pytest.raises((CallError, ConnectionClosed), match=r"unauthenticated|4401"):
                async with server.client(token=token):
                    pass
            assert rooms.tokens == tried


async def test_the_token_function_fails() -> None:
    rooms = Private()
    async with serving_topics(rooms) as server:
        with pytest.raises(ZeroDivisionError):
            async with server.client(token=Tokens(ZeroDivisionError())):
                pass
        with pytest.raises(ConfigurationError, match="must return a str or None"):
            async with server.client(token=lambda: 5):
                pass
        async with server.client(token=Tokens("ana 60", ZeroDivisionError())) as topics:
            states = topics.states()
            rooms.drop_all()
            while await anext(states) != "closed":
                pass
            with pytest.raises(ConnectionClosed, match="closed permanently"):
                await topics.call("add", {"a": 1, "b": 1})
            assert isinstance(topics.reason, ZeroDivisionError)
