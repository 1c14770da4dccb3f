"""Topics belong to the thread of the event loop while their app runs; a call from another thread says what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from support.serving import Recorder, serving

from pywsapp import App, ConfigurationError, Connection, Topic

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[Topic, Connection], Any]] = {
    "add": lambda topic, conn: topic.add(conn),
    "remove": lambda topic, conn: topic.remove(conn),
    "broadcast": lambda topic, conn: topic.broadcast("x"),
    "broadcast to one": lambda topic, conn: topic.broadcast("x", eligible=conn),
    "track": lambda topic, conn: topic.track(conn, "ana"),
    "untrack": lambda topic, conn: topic.untrack(conn),
    "recover": lambda topic, conn: topic.recover(conn, None).send(None),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_another_thread_raises(name: str) -> None:
    app, component = App("*", 0), Recorder()
    app.route("/", component, allowed_origins=["*"])
    app.on_presence("*")(lambda topic, diff: None)
    topic = app.topic("room:1")
    async with serving(app) as server, server.client() as client:
        await client.send("hello")
        await component.until_called("message")
        conn = component.conns[0]
        with pytest.raises(ConfigurationError, match=r"topic\.\w+ was called .* anyio\.from_thread\.run_sync\(topic"):
            await anyio.to_thread.run_sync(CALLS[name], topic, conn)
        assert conn not in topic
        await topic.add(conn)
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(topic.broadcast, "through anyio"))
        assert await client.message() == "through anyio"


def test_topics_can_be_used_in_any_thread_before_the_app_runs() -> None:
    App("*", 0).topic("room:1").broadcast("nobody is there")
