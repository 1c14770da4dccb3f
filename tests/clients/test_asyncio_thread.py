"""An asyncio event loop in a thread, used from trio."""

from __future__ import annotations

import asyncio
import threading

import pytest
import trio

from pywsapp._clients.asyncio_thread import AsyncioThread, AsyncioThreadStopped

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["trio"])]

NAME = "an asyncio thread of a test"


class Client:
    """A client that needs asyncio."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def ask(self, question: str) -> str:
        assert threading.current_thread().name == NAME
        await asyncio.sleep(0)
        if question == "forever":
            try:
                self.log.append("waiting")
                await asyncio.Event().wait()
            finally:
                self.log.append("cancelled")
        return question.upper()

    async def refuse(self) -> None:
        raise LookupError("no")

    async def close(self) -> None:
        self.log.append("closed")


async def started(client: Client) -> AsyncioThread:
    thread = AsyncioThread(NAME, cleanup=client.close)
    await thread.start()
    return thread


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == NAME]


async def test_a_call_returns_or_raises_what_the_function_does() -> None:
    client = Client()
    thread = await started(client)
    try:
        assert await thread.call(client.ask, "hello") == "HELLO"
        with pytest.raises(LookupError, match="no"):
            await thread.call(client.refuse)
    finally:
        await thread.stop()
    assert (client.log, threads()) == (["closed"], [])


async def test_stopping_cancels_calls_and_then_cleans_up() -> None:
    client = Client()
    thread = await started(client)

    async def ask() -> None:
        with pytest.raises(AsyncioThreadStopped):
            await thread.call(client.ask, "forever")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while client.log != ["waiting"]:
            await trio.lowlevel.checkpoint()
        await thread.stop()
    assert (client.log, threads()) == (["waiting", "cancelled", "closed"], [])
    with pytest.raises(AsyncioThreadStopped):
        await thread.call(client.ask, "hello")
    await thread.stop()


async def test_a_thread_that_was_not_started_can_be_stopped() -> None:
    thread = AsyncioThread(NAME, cleanup=Client().close)
    await thread.stop()
    with pytest.raises(AsyncioThreadStopped):
        await thread.call(Client().ask, "hello")
