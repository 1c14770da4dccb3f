"""What a connection knows of its application: its topics, and the state that the handshake prepared."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import Pipe, Recorder, serving

from pywsapp import App, ConfigurationError, Connection, MessageComponent, Request, TopicError

pytestmark = pytest.mark.anyio


class Rooms(Recorder):
    """Joins the room that a message names, and says to it who came; it needs no global."""

    def on_handshake(self, request: Request) -> None:
        assert request.app is not None
        request.state.name = request.query_params.get("name", "nobody")

    def on_message(self, conn: Connection, message: Any) -> None:
        assert conn.app is not None
        if message == "leave":
            conn.unsubscribe(conn.topics[0].name)
            conn.send("left")
            return
        conn.subscribe(message)
        conn.app.topic(message).broadcast(f"{conn.state.name} joined {message}")


async def test_a_component_needs_no_global() -> None:
    app, rooms = App("*", 0), Rooms()
    app.route("/", rooms, allowed_origins=["*"])
    async with serving(app) as server, server.client("/?name=Ana") as ana, server.client("/?name=Bo") as bo:
        await ana.send("room:1")
        assert await ana.message() == "Ana joined room:1"
        await bo.send("room:1")
        assert [await ana.message(), await bo.message()] == ["Bo joined room:1"] * 2
        await ana.send("leave")
        assert await ana.message() == "left"
        assert len(app.topic("room:1")) == 1
        assert rooms.conns[0].app is app
        assert rooms.conns[0].topics == ()


async def test_subscribing_can_be_awaited() -> None:
    class Awaiting(MessageComponent):
        async def on_open(self, conn: Connection) -> None:
            await conn.subscribe("news")
            conn.send(", ".join(topic.name for topic in conn.topics))

    app = App("*", 0)
    app.route("/", Awaiting, allowed_origins=["*"])
    async with serving(app) as server, server.client() as client:
        assert await client.message() == "news"


async def test_a_wrong_name_raises() -> None:
    app, component = App("*", 0), Recorder()
    app.route("/", component, allowed_origins=["*"])
    async with serving(app) as server, server.client():
        await component.until_called("open")
        for call in (component.conns[0].subscribe, component.conns[0].unsubscribe):
            with pytest.raises(TopicError):
                call("two words")
        component.conns[0].unsubscribe("never-subscribed")


def test_without_an_app_subscribing_says_what_is_missing() -> None:
    conn = Pipe(Recorder()).conn
    assert conn.app is None
    with pytest.raises(ConfigurationError, match=r"conn\.subscribe needs an App"):
        conn.subscribe("room:1")
