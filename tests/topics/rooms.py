"""A component for tests of topics: clients say what it does, and it writes down what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from serving import Client, Recorder, Serving, serving

from pywsapp import App, Connection, Topic
from pywsapp.topics.broker import Broker


class Rooms(Recorder):
    """An app with a component that clients tell to "join room:1", "leave room:1" or "say room:1 hello"."""

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
        self.note("close", *(topic.name for topic in conn.topics))

    def on_subscribe(self, conn: Connection, topic: Topic) -> Any:
        self.note("subscribe", topic.name)

    def on_unsubscribe(self, conn: Connection, topic: Topic) -> None:
        self.note("unsubscribe", topic.name)

    def on_error(self, conn: Connection, exc: Exception) -> Any:
        self.note("error", str(exc))

    def said(self, *names: str) -> list[tuple[Any, ...]]:
        """Give the calls of some names."""
        return [call for call in self.calls if call[0] in names]

    async def connect(
        self, stack: AsyncExitStack, topic: str | None = "t", **options: Any
    ) -> tuple[Client, Connection]:
        """Connect a client, and let it join a topic."""
        count = len(self.conns)
        client = await stack.enter_async_context(self.server.client(**options))
        await self.until(lambda: len(self.conns) > count)
        if topic is not None:
            await self.topic(topic).add(self.conns[-1])
        return client, self.conns[-1]


@asynccontextmanager
async def running(*rooms: Rooms) -> AsyncIterator[AsyncExitStack]:
    """Run apps, and give what holds their clients."""
    async with AsyncExitStack() as servers:
        for one in rooms:
            one.server = await servers.enter_async_context(serving(one.app))
        async with AsyncExitStack() as clients:
            yield clients
