"""`two_nodes` and `AppServer`: Apps that share a broker, and an App on a real port."""

from __future__ import annotations

from typing import Any

import pytest

from pywsapp import App, Connection, EchoServer, MessageComponent, connect
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing import AppServer, two_nodes

pytestmark = pytest.mark.anyio


class Room(MessageComponent):
    async def on_open(self, conn: Connection) -> None:
        await conn.subscribe("room")
        conn.send("subscribed")

    def on_message(self, conn: Connection, message: Any) -> None:
        assert conn.app is not None
        conn.app.topic("room").broadcast(message)


def make_app() -> App:
    app = App()
    app.route("/", Room())
    return app


async def test_a_message_reaches_the_other_node() -> None:
    async with two_nodes(make_app) as (a, b), a.connect("/") as ana, b.connect("/") as bob:
        assert a.app is not b.app
        for ws in ana, bob:
            assert await ws.receive() == "subscribed"
        ana.send("hello")
        assert await bob.receive() == await ana.receive() == "hello"


async def test_an_app_on_a_real_port() -> None:
    app = App()
    app.route("/echo", EchoServer())
    server = AppServer(app)
    with pytest.raises(ConfigurationError, match="write `async with AppServer"):
        _ = server.url
    async with server:
        assert server.url == f"http://localhost:{server.port}"
        async with connect(server.ws_url + "/echo") as conn:
            await conn.send("hello")
            assert await conn.receive() == "hello"
