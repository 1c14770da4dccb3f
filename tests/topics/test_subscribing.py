"""The awaitable of `Topic.add` need not be awaited."""

from __future__ import annotations

import gc

import pytest
from support.serving import serving

from pywsapp import App, Connection, MessageComponent
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["plain:1", "history:1", "presence:1", "both:1"])
async def test_add_need_not_be_awaited(name: str) -> None:
    app = App(port=0, broker=MemoryBroker())
    for pattern in ("history:*", "both:*"):
        app.history(pattern)
    for pattern in ("presence:*", "both:*"):
        app.on_presence(pattern)(lambda topic, diff: None)

    class Hasty(MessageComponent):
        def on_open(self, conn: Connection) -> None:
            app.topic(name).add(conn)
            conn.send("added")

    app.route("/", Hasty())
    async with serving(app) as server, server.client() as one, server.client() as other:
        assert [await one.message(), await other.message()] == ["added", "added"]
        assert len(app.topic(name)) == 2
        gc.collect()  # a coroutine that was never awaited says so now
