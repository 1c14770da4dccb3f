"""An App in a program that runs asyncio itself: `asyncio.run(main())`, where anyio does not know which loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import uvloop

from pywsapp import App, Connection, MessageComponent, connect
from pywsapp.testing import TestClient

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Answers(MessageComponent):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await asyncio.sleep(0)
        conn.send(message)


async def on_a_socket(app: App) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(app.serve)
        async with connect(f"ws://localhost:{app.port}/") as conn:
            await conn.send("hello")
            assert await conn.receive() == "hello"
        app.stop()


async def in_memory(app: App) -> None:
    async with TestClient(app) as client, client.connect("/") as ws:
        ws.send("hello")
        assert await ws.receive() == "hello"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("use", [on_a_socket, in_memory], ids=["socket", "memory"])
def test_an_async_handler_runs(loop: str, use: Callable[[App], Any]) -> None:
    app = App(port=0)
    app.route("/", Answers())
    event_loop = LOOPS[loop]()
    try:
        event_loop.run_until_complete(asyncio.wait_for(use(app), 20))
        event_loop.run_until_complete(event_loop.shutdown_asyncgens())
    finally:
        event_loop.close()
