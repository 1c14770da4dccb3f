"""A server of topics in the process of the test, for clients on real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from pywsapp import (
    Accept,
    App,
    CallError,
    Connection,
    InvalidCredentials,
    MessageComponent,
    Request,
    Topic,
    TopicComponent,
    TopicsClient,
    connect_topics,
    rpc,
)
from pywsapp.auth import Authenticated
from support.fake_time import FakeTime
from support.serving import GUARD
from support.wire import running

ABORT = 1006


class Rooms(TopicComponent):
    """Allows everything on topics whose name does not begin with `closed:`.

    Attributes:
        connections: the open connections.
        opened: how many there were so far.
        published: the number of messages that `on_publish` has seen, those that were sent twice included.
    """

    filter_fields = ("kind",)

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.opened = 0
        self.published = 0

    def authorize(self, conn: Connection, action: str, topic: str) -> bool:
        return not topic.startswith("closed:")

    def on_open(self, conn: Connection) -> None:
        self.opened += 1
        self.connections.add(conn)

    def on_close(self, conn: Connection) -> None:
        self.connections.discard(conn)

    def on_publish(self, conn: Connection, topic: Topic, message: Any) -> Any:
        self.published += 1
        if message == "refuse":
            raise CallError("impolite", "say something else")
        return message

    @rpc
    def add(self, conn: Connection, a: int, b: int) -> int:
        return a + b

    @rpc
    def greet(self, conn: Connection) -> str:
        conn.send({"hello": "you"})
        return "done"

    @rpc
    async def drop(self, conn: Connection) -> None:
        self.drop_all()

    def drop_all(self, code: int = ABORT, reason: str = "dropped") -> None:
        """Break all connections, or close them with a code."""
        for conn in list(self.connections):
            if code == ABORT:
                conn.abort()
            else:
                conn.close(code, reason)


class Private(Rooms):
    """Takes tokens such as `ana 60`, a user and the seconds until the token expires.

    Attributes:
        tokens: those that came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []

    def authenticate_token(self, token: str) -> Authenticated:
        self.tokens.append(token)
        user, _, seconds = token.partition(" ")
        if not seconds:
            raise InvalidCredentials("no seconds")
        return Authenticated(user, time.time() + float(seconds), user)


class TopicsServer:
    """The server of a test.

    Args:
        app: the App.
        rooms: its component at /live.

    Attributes:
        time: the clock of the clients.
    """

    def __init__(self, app: App, rooms: Any) -> None:
        self.app = app
        self.rooms = rooms
        self.time = FakeTime()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.app.port}/live"

    def client(self, **arguments: Any) -> TopicsClient:
        """Return a client whose pauses pass at once."""
        return self.time.use_for_topics(connect_topics(self.url, **arguments))


@asynccontextmanager
async def serving_topics(
    rooms: Any = None, *, port: int = 0, size: int = 2000, **settings: Any
) -> AsyncIterator[TopicsServer]:
    """Run a server whose topics `room:*` have a history and presence."""
    app = App("*", port, **settings)
    rooms = rooms or Rooms()
    app.route("/live", rooms, allowed_origins=["*"])
    app.history("room:*", size=size, seconds=300)
    app.on_presence("room:*")(lambda topic, diff: None)
    async with running(app):
        with anyio.fail_after(GUARD):
            yield TopicsServer(app, rooms)


class Script(MessageComponent):
    """A server that answers as the test says, whatever the protocol allows.

    Args:
        answer: called with a connection and what a client has sent; by default it accepts `connect` and says `ok`.

    Attributes:
        got: what clients have sent.
        connections: all connections so far.
    """

    def __init__(self, answer: Callable[[Connection, dict[str, Any]], object] | None = None) -> None:
        self.got: list[dict[str, Any]] = []
        self.connections: list[Connection] = []
        self._answer = answer

    def on_handshake(self, request: Request) -> Accept:
        return Accept(subprotocol="pywsapp.topics.v1")

    def on_open(self, conn: Connection) -> None:
        self.connections.append(conn)

    def on_message(self, conn: Connection, message: Any) -> None:
        fields = json.loads(message)
        self.got.append(fields)
        if self._answer is None or self._answer(conn, fields) is None:
            ok = {"type": "ok", "id": fields["id"]}
            send(conn, ok | ({"client": "c1", "ping": 20} if fields["type"] == "connect" else {}))


def send(conn: Connection, fields: Any) -> None:
    """Send a JSON message."""
    conn.send(json.dumps(fields))
