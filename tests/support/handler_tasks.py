"""Components whose messages select an action, and connections whose handler task is asleep."""

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
Action = Callable[[Connection], Awaitable[object]]
LOOPS = [pytest.param(("asyncio", {"use_uvloop": uvloop}), id=("asyncio", "uvloop")[uvloop]) for uvloop in (0, 1)]

current_name: ContextVar[str] = ContextVar("current_name", default="none")


async def call_from(origin: str, call: Callable[..., T], *args: Any) -> T:
    """Call a function inside or outside of a task, and return its result.

    Args:
        origin: "task" calls the function in the task of the test, "callback" in a callback of the event loop, where
            there is no current task.
    """
    if origin == "task":
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


class Scripted(Recorder):
    """A component with an action for some messages; it ignores the others.

    Args:
        actions: the messages, and what the handler awaits for each.
    """

    def __init__(self, **actions: Action) -> None:
        super().__init__()
        self.actions = actions

    async def on_message(self, conn: Connection, message: Any) -> None:
        if message in self.actions:
            await self.actions[message](conn)
            self.record("done", message)


async def wait_until_idle(pipe: Pipe) -> None:
    """Wait until the connection has nothing left to do."""
    with anyio.fail_after(GUARD):
        while pipe.lifecycle.is_busy and not pipe.host.discarded:
            await anyio.lowlevel.checkpoint()
    pipe.turn()


@asynccontextmanager
async def opened(component: Recorder) -> AsyncIterator[Pipe]:
    """Open a connection whose handler task is asleep; at the end it is cancelled, after its on_close."""
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, tasks=tasks)
        await wait_until_idle(pipe)
        pipe.send("warm up")
        await wait_until_idle(pipe)
        yield pipe
        tasks.cancel_scope.cancel()


async def run_messages(origin: str, *messages: str, **actions: Action) -> list[tuple[Any, ...]]:
    """Send messages in one read to a new connection, and then one more; return the calls of the component.

    Args:
        origin: see `call_from`.
        messages: the messages of the first read.
        actions: see `Scripted`.
    """
    component = Scripted(later=checkpoints, **actions)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, *messages)
        await wait_until_idle(pipe)
        await call_from(origin, pipe.send, "later")
        await wait_until_idle(pipe)
        calls = component.calls[1:]
    assert component.names().count("close") == 1
    return calls


async def checkpoints(conn: Connection | None = None) -> None:
    """Let other tasks run a few times."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


class SlowAwaitable:
    """An awaitable that is no coroutine and suspends a few times."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from checkpoints().__await__()
