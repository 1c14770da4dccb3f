"""What topics return is a coroutine as well: a task group can start it, with and without a broker or a history."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import anyio
import pytest
from support.serving import GUARD, Recorder, serving

from pywsapp import App
from pywsapp._event_loop import on_asyncio
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("has_broker", [False, True])
@pytest.mark.parametrize("has_history", [False, True])
async def test_a_task_group_can_start_what_topics_return(has_broker: bool, has_history: bool) -> None:
    app, component = App("*", 0, broker=MemoryBroker() if has_broker else None), Recorder()
    app.route("/", component, allowed_origins=["*"])
    if has_history:
        app.history("*")
    async with serving(app) as server, server.client() as client:
        await component.until_called("open")
        topic, conn = app.topic("room:1"), component.conns[0]
        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(topic.add, conn)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(topic.broadcast, "from a task")
            assert isinstance(topic.broadcast("dropped"), Coroutine)
            if on_asyncio():
                await asyncio.create_task(topic.broadcast("from create_task"))
            await topic.broadcast("last")
        received = [await client.message()]
        while "last" not in received[-1]:
            received.append(await client.message())
        assert len(received) == (4 if on_asyncio() else 3)
