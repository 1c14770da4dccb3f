"""A client of `pywsapp.topics.v1` in memory, which checks every message of the server against the schema."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import msgspec

from pywsapp import App, Connection, TopicComponent
from pywsapp.testing import TestClient, VirtualClock
from support.json_schema import Schema

SCHEMA_FILE = Path(__file__).parent.parent.parent / "docs" / "reference" / "topics-v1.schema.json"
SCHEMA = Schema(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
JSON, MSGPACK = "pywsapp.topics.v1", "pywsapp.topics.v1.msgpack"


class Open(TopicComponent):
    """Allows everything on topics whose name does not begin with `no`."""

    def authorize(self, conn: Connection, action: str, topic: str) -> bool:
        return not topic.startswith("no")


class TopicsPeer:
    """One client.

    Args:
        ws: its connection, a `TestWebSocket` or a `FallbackSocket`.

    Attributes:
        got: the messages that came while a reply was awaited, without the replies.
    """

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.got: list[dict[str, Any]] = []
        self._ids = count(1)

    def send(self, type: str, **fields: Any) -> int:
        """Send a request, and return its id."""
        request_id = next(self._ids)
        self.send_object({"type": type, "id": request_id, **fields})
        return request_id

    def send_object(self, value: Any) -> None:
        if self.ws.subprotocol == MSGPACK:
            self.ws.send(msgspec.msgpack.encode(value))
        else:
            self.ws.send_json(value)

    async def receive(self) -> dict[str, Any]:
        """Wait for the next message of the server."""
        message = await self.ws.receive()
        found: dict[str, Any] = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
        assert isinstance(message, bytes) == (self.ws.subprotocol == MSGPACK)
        assert SCHEMA.accepts("server", found), found
        return found

    async def reply(self, request_id: int) -> dict[str, Any]:
        """Wait for the reply to a request; its id is left out."""
        while (found := await self.receive()).get("id") != request_id:
            self.got.append(found)
        del found["id"]
        return found

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a request, and wait for its reply."""
        return await self.reply(self.send(type, **fields))

    async def fails(self, type: str, **fields: Any) -> str:
        """Send a request that fails, and return the code of the error."""
        found = await self.ask(type, **fields)
        assert found["type"] == "error", found
        code: str = found["code"]
        return code

    async def next(self) -> dict[str, Any]:
        """Return the next message that is no reply."""
        return self.got.pop(0) if self.got else await self.receive()

    async def connect(self, **fields: Any) -> dict[str, Any]:
        found = await self.ask("connect", **fields)
        assert found["type"] == "ok", found
        return found


def app_of(component: TopicComponent, route: dict[str, Any] | None = None, **settings: Any) -> App:
    """Return an App with the component at /live, and histories and presence for the topics `room:*`.

    Args:
        component: the component.
        route: further arguments of its route.
        settings: those of the App.
    """
    app = App("localhost", 8080, **settings)
    app.route("/live", component, **route or {})
    app.history("room:*", size=5, seconds=300)
    app.presence("room:*")
    return app


@asynccontextmanager
async def peer_of(
    client: TestClient, subprotocol: str | None = JSON, *, connects: bool = True, **handshake: Any
) -> AsyncIterator[TopicsPeer]:
    """Open a connection to /live for the time of a block."""
    offered = [] if subprotocol is None else [subprotocol]
    async with client.connect("/live", subprotocols=offered, **handshake) as ws:
        peer = TopicsPeer(ws)
        if connects:
            await peer.connect()
        yield peer


@asynccontextmanager
async def passing_time(clock: VirtualClock) -> AsyncIterator[None]:
    """Let the time of a clock pass during a block; whatever the machine does, nothing comes late by this clock."""

    async def advance() -> None:
        while True:
            await clock.advance(0.1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(advance)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def talking(
    component: TopicComponent, *, subprotocol: str | None = JSON, **settings: Any
) -> AsyncIterator[TopicsPeer]:
    """Run a component, and connect one client to it, for the time of a block."""
    async with TestClient(app_of(component, **settings)) as client, peer_of(client) as peer:
        yield peer
