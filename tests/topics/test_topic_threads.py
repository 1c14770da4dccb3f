"""A topic belongs to the thread of the event loop; a call from another thread raises and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.serving import TEXT, frame
from support.wire import peer_of, running

from pywsapp import App, ConfigurationError, Connection, MessageComponent, Topic

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[Topic, Connection], Any]] = {
    "add": lambda topic, conn: topic.add(conn),
    "remove": lambda topic, conn: topic.remove(conn),
    "track": lambda topic, conn: topic.track(conn, "ana"),
    "untrack": lambda topic, conn: topic.untrack(conn),
    "broadcast": lambda topic, conn: topic.broadcast("x"),
    "broadcast to some": lambda topic, conn: topic.broadcast("x", eligible=[conn]),
    "recover": lambda topic, conn: topic.recover(conn, None).send(None),
}


class Rooms(MessageComponent):
    def __init__(self) -> None:
        self.conns: list[Connection] = []

    def on_message(self, conn: Connection, message: Any) -> None:
        self.conns.append(conn)
        conn.send("seen")


def make_app() -> tuple[App, Rooms, list[Any]]:
    app, rooms = App("*", 0, broker="memory"), Rooms()
    app.route("/", rooms)
    seen: list[Any] = []
    app.on_broadcast("*")(lambda topic, message: seen.append(message))
    app.on_presence("*")(lambda topic, diff: None)
    return app, rooms, seen


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_another_thread_raises_and_does_nothing(name: str) -> None:
    app, rooms, seen = make_app()
    async with running(app), peer_of(app) as peer:
        await peer.open(trailing=frame(TEXT))
        await peer.frame()
        (conn,) = rooms.conns
        topic = app.topic("room:1")
        call = name.split()[0]
        with pytest.raises(ConfigurationError) as raised:
            await anyio.to_thread.run_sync(CALLS[name], topic, conn)
        assert str(raised.value) == (
            f"topic.{call} was called from another thread than the event loop's: "
            f"write anyio.from_thread.run_sync(topic.{call}, ...); in a thread that anyio did not start, "
            "also pass it a token, which anyio.lowlevel.current_token() returns in the event loop"
        )
        assert (len(topic), seen) == (0, [])


async def test_a_thread_of_the_program_does_what_the_message_says() -> None:
    app, _, seen = make_app()
    async with running(app):
        token, topic = anyio.lowlevel.current_token(), app.topic("room:1")

        def program() -> None:
            anyio.from_thread.run_sync(topic.broadcast, "hello", token=token)

        thread = threading.Thread(target=program)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        assert seen == ["hello"]


@pytest.mark.parametrize("call", ["stop", "start_soon"])
async def test_an_app_is_not_used_from_another_thread(call: str) -> None:
    app, _, _ = make_app()
    arguments = [app.stop] if call == "stop" else [app.start_soon, anyio.sleep, 0]
    async with running(app):
        with pytest.raises(ConfigurationError, match=rf"^app\.{call} was called from another thread"):
            await anyio.to_thread.run_sync(*arguments)
        assert app.urls
