"""Servers and clients in programs that start the event loop by `asyncio.run`, which tells anyio nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from support.serving import GUARD

from pywsapp import App, Connection, MessageComponent, Options, connect
from pywsapp.testing import TestClient

RUNS = [asyncio.run, uvloop.run]
Body = Callable[[str], Awaitable[None]]


class Slow(MessageComponent):
    """Its handler suspends, so a callback of the transport starts a task for it."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        await asyncio.sleep(0)
        conn.send(message)


async def serve(body: Body) -> None:
    app, serving = App("127.0.0.1", 0), asyncio.Event()

    class Status:
        def started(self, value: object = None) -> None:
            serving.set()

    app.route("/", Slow(), allowed_origins=["*"])
    task = asyncio.create_task(app.serve(task_status=Status()))
    await asyncio.wait_for(serving.wait(), GUARD)
    await asyncio.wait_for(body(f"ws://127.0.0.1:{app.port}/"), GUARD)
    app.stop()
    await asyncio.wait_for(task, GUARD)


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "uvloop"])
def test_an_async_handler_of_a_server(run: Callable[[Any], None]) -> None:
    async def body(url: str) -> None:
        async with connect(url) as conn:
            conn.send("hello")
            assert await conn.receive() == "hello"

    run(serve(body))


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "uvloop"])
def test_the_full_queue_of_a_client(run: Callable[[Any], None]) -> None:
    async def body(url: str) -> None:
        async with connect(url, options=Options(max_queue=2)) as conn:
            for number in range(100):
                conn.send(str(number))
            assert [await conn.receive() for _ in range(100)] == [str(number) for number in range(100)]

    run(serve(body))


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "uvloop"])
def test_an_async_handler_in_memory(run: Callable[[Any], None]) -> None:
    async def use() -> None:
        app = App()
        app.route("/", Slow())
        async with TestClient(app) as client, client.connect("/") as ws:
            ws.send("hello")
            assert await ws.receive() == "hello"

    async def main() -> None:
        await asyncio.wait_for(use(), GUARD)

    run(main())
