"""A component for tests of topics: clients command it, and it records the calls of its hooks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pywsapp import App, BrokerUnavailable, Connection, Options, Topic, TopicError
from pywsapp._topic_actions import TopicAction
from pywsapp.brokers.base import Broker
from support.serving import Client, Recorder, Serving, serving


class Rooms(Recorder):
    """An app with a component that clients command by "join room:1", "leave room:1" or "say room:1 hello"."""

    def __init__(self, broker: Broker | None = None, **settings: Any) -> None:
        super().__init__()
        self.app = App(port=0, broker=broker, **settings)
        self.app.route("/", self)
        self.server: Serving

    def topic(self, name: str = "t") -> Topic:
        return self.app.topic(name)

    def on_message(self, conn: Connection, message: Any) -> Any:
        command, name, *rest = message.split(" ", 2)
        topic = self.app.topic(name)
        if command == "join":
            return topic.add(conn)
        if command == "say":
            topic.broadcast(rest[0], exclude=conn)
        else:
            topic.remove(conn)
        return None

    def on_close(self, conn: Connection) -> Any:
        self.record("close", *(topic.name for topic in conn.topics))

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        self.record("subscribe", topic.name)

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        self.record("unsubscribe", topic.name)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.record("error", str(exc))

    def said(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the calls of some hooks."""
        return [call for call in self.calls if call[0] in names]

    async def connect(
        self, stack: AsyncExitStack, topic: str | None = "t", **options: Any
    ) -> tuple[Client, Connection]:
        """Connect a client and subscribe it to a topic."""
        count = len(self.conns)
        client = await stack.enter_async_context(self.server.client(**options))
        await self.until(lambda: len(self.conns) > count)
        if topic is not None:
            await self.topic(topic).add(self.conns[-1])
        return client, self.conns[-1]


@asynccontextmanager
async def running(*rooms: Rooms) -> AsyncIterator[AsyncExitStack]:
    """Run apps and yield a stack for their clients."""
    async with AsyncExitStack() as servers:
        for one in rooms:
            one.server = await servers.enter_async_context(serving(one.app))
        async with AsyncExitStack() as clients:
            yield clients


class Recovering(Rooms):
    """Rooms whose clients send their position: "17-5f3c", or "new"."""

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        options: Options | None = None,
        broker_key: bytes | None = None,
        **history: Any,
    ) -> None:
        super().__init__(broker, options=options, broker_key=broker_key)
        self.app.history("t", **history)

    async def on_message(self, conn: Connection, message: Any) -> None:
        try:
            recovery = await self.topic().recover(conn, None if message == "new" else message)
        except (BrokerUnavailable, TopicError) as exc:
            conn.send(json.dumps({"error": type(exc).__name__}))
        else:
            conn.send(json.dumps({"recovered": recovery.complete, "position": recovery.position}))


async def note_answer(conn: Connection, action: TopicAction, answers: list[Any]) -> None:
    """Ask whether a connection may do something with the topic "t"; append the answer."""
    answers.append(await conn.may(action, "t"))


async def expect(client: Client, *messages: str | bytes) -> None:
    assert [await client.message() for _ in messages] == list(messages)


async def take(client: Client, number: int = 1) -> list[Any]:
    return [json.loads(await client.message()) for _ in range(number)]


async def recover(client: Client, since: str = "new") -> tuple[list[Any], dict[str, Any]]:
    """Recover; return the missed messages and the answer."""
    await client.send(since)
    missed: list[Any] = []
    while True:
        (message,) = await take(client)
        if "topic" not in message:
            return missed, message
        missed.append(message)
