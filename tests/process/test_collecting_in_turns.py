"""The numbers of an App with many connections do not block the event loop."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from pywsapp import App, EchoServer, MessageComponent
from pywsapp._process import collecting
from pywsapp.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.once]


async def test_other_tasks_run_while_connections_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_A_PART", 1)
    monkeypatch.setattr(collecting, "_TURN_SECONDS", 0)
    app = App(metrics=True)
    app.route("/echo", EchoServer())
    turns, looked = 0, list[Any]()

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with TestClient(app) as client, AsyncExitStack() as opened, anyio.create_task_group() as tasks:
        for _ in range(5):
            await opened.enter_async_context(client.connect("/echo"))
        before = app.stats()
        tasks.start_soon(count)
        turns = 0
        found = await app._runner.stats_in_turns(lambda some: looked.append((turns, len(some))))
        tasks.cancel_scope.cancel()
    assert [size for _, size in looked] == [1] * 5
    assert looked[-1][0] > looked[0][0]
    assert found.routes["/echo"].open_connections == 5
    assert (found.outbox_bytes, found.slow_connections) == (before.outbox_bytes, before.slow_connections)


class Rooms(MessageComponent):
    def on_message(self, conn: Any, message: Any) -> None:
        change, name = message[0], message[1:]
        if change == "+":
            conn.subscribe(name)
        else:
            conn.unsubscribe(name)
        conn.send(str(conn.app.topics.stats.subscriptions))


async def test_subscriptions_are_counted_as_they_come_and_go() -> None:
    app = App()
    app.route("/rooms", Rooms())
    async with TestClient(app) as client, client.connect("/rooms") as ana:
        async with client.connect("/rooms") as ben:
            for conn, message, count in (
                (ana, "+room:1", "1"),
                (ana, "+room:1", "1"),
                (ben, "+room:1", "2"),
                (ben, "+room:2", "3"),
                (ana, "-room:1", "2"),
                (ana, "-room:1", "2"),
            ):
                conn.send(message)
                assert await conn.receive() == count
        ana.send("+room:3")
        assert await ana.receive() == "1"
