"""Handlers whose messages say what they do, and ways to have their first step taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
import trio

from pywsapp._event_loop import on_asyncio
from pywsapp.connection import Connection
from support.serving import GUARD, Pipe, Recorder

T = TypeVar("T")
Act = Callable[[Connection], Awaitable[object]]
LOOPS = [pytest.param(("asyncio", {"use_uvloop": uvloop}), id=("asyncio", "uvloop")[uvloop]) for uvloop in (0, 1)]

who: ContextVar[str] = ContextVar("who", default="nobody")


async def arrive(way: str, call: Callable[..., T], *args: Any) -> T:
    """Call something the way that is asked for; when this returns, so has the call."""
    if way == "task":
        return call(*args)
    outcome: Future[T] = Future()
    done = anyio.Event()

    def run() -> None:
        try:
            outcome.set_result(call(*args))
        except BaseException as exc:
            outcome.set_exception(exc)
        done.set()

    if on_asyncio():
        asyncio.get_running_loop().call_soon(run)
    else:
        trio.lowlevel.current_trio_token().run_sync_soon(run)
    await done.wait()
    return outcome.result()


def send_each(*messages: tuple[Pipe, str]) -> None:
    """Send messages to several connections in one turn."""
    for pipe, message in messages:
        pipe.send(message)


class Acting(Recorder):
    """Does for a message what is found under its name, and for all others nothing."""

    def __init__(self, **acts: Act) -> None:
        super().__init__()
        self.acts = acts

    async def on_message(self, conn: Connection, message: Any) -> None:
        if message in self.acts:
            await self.acts[message](conn)
            self.note("done", message)


async def idle(pipe: Pipe) -> None:
    """Wait until the connection has nothing to do."""
    with anyio.fail_after(GUARD):
        while pipe.lifecycle.is_busy and not pipe.host.discarded:
            await anyio.lowlevel.checkpoint()
    pipe.turn()


@asynccontextmanager
async def warm(component: Recorder) -> AsyncIterator[Pipe]:
    """Open a connection whose task is asleep; at the end it is cancelled, and has called on_close."""
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, tasks=tasks)
        await idle(pipe)
        pipe.send("warm up")
        await idle(pipe)
        yield pipe
        tasks.cancel_scope.cancel()


async def play(way: str, *messages: str, **acts: Act) -> list[tuple[Any, ...]]:
    """Give what is called when messages come in at once, up to where all is done, and then one more by itself."""
    component = Acting(later=checkpoints, **acts)
    async with warm(component) as pipe:
        await arrive(way, pipe.send, *messages)
        await idle(pipe)
        await arrive(way, pipe.send, "later")
        await idle(pipe)
        calls = component.calls[1:]
    assert component.names().count("close") == 1
    return calls


async def checkpoints(conn: Connection | None = None) -> None:
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


class Slow:
    """What is awaited without being a coroutine."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from checkpoints().__await__()
