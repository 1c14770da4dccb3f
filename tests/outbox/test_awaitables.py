"""What `send`, `close`, `ping` and `broadcast` return: coroutines that need not be awaited."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Coroutine

import anyio
import anyio.lowlevel
import pytest
from support.serving import GUARD, Pipe, Recorder

from pywsapp._event_loop import on_asyncio
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, LazyCoroutine
from pywsapp.connection import Connection, broadcast
from pywsapp.options import Options

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[Connection], LazyCoroutine[object]]] = {
    "send": lambda conn: conn.send("x"),
    "close": lambda conn: conn.close(),
    "ping": lambda conn: conn.ping(),
    "broadcast": lambda conn: broadcast([conn], "x"),
}


def full(tasks: anyio.abc.TaskGroup) -> Pipe:
    """Return a connection that has more queued than `Options.high_water`, so that `send` waits."""
    pipe = Pipe(Recorder(), Options(high_water=100), tasks)
    pipe.client.transport.pause_reading()
    pipe.conn.send("x" * 1000)
    pipe.turn()
    return pipe


@pytest.mark.parametrize("name", CALLS)
async def test_it_is_a_coroutine(name: str) -> None:
    async with anyio.create_task_group() as tasks:
        for pipe in (Pipe(Recorder(), tasks=tasks), full(tasks)):
            assert isinstance(CALLS[name](pipe.conn), Coroutine)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("name", CALLS)
async def test_a_task_group_can_start_the_method(name: str, is_full: bool) -> None:
    async with anyio.create_task_group() as outer:
        pipe = full(outer) if is_full else Pipe(Recorder(), tasks=outer)
        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(CALLS[name], pipe.conn)
                await anyio.lowlevel.checkpoint()
                pipe.client.transport.resume_reading()
                pipe.turn()
                if name == "ping":
                    pipe.write(pong_of(pipe))
                if name == "close":
                    pipe.client.transport.abort()
                    pipe.turn()
        outer.cancel_scope.cancel()


def pong_of(pipe: Pipe) -> bytes:
    """Return a client's pong for the last ping that came."""
    from support.serving import PING, PONG, frame

    return frame(PONG, [payload for opcode, payload in pipe.client.frames if opcode == PING][-1])


@pytest.mark.parametrize("name", ["send", "broadcast"])
async def test_create_task_takes_it(name: str) -> None:
    if not on_asyncio():
        pytest.skip("create_task is asyncio's")
    async with anyio.create_task_group() as outer:
        for pipe in (Pipe(Recorder(), tasks=outer), full(outer)):
            task: asyncio.Task[object] = asyncio.create_task(CALLS[name](pipe.conn))
            await anyio.lowlevel.checkpoint()
            pipe.client.transport.resume_reading()
            pipe.turn()
            assert await asyncio.wait_for(task, GUARD) is None
            await asyncio.gather(pipe.conn.send("a"), pipe.conn.send("b"))
            pipe.turn()
            assert pipe.messages()[-2:] == ["a", "b"]
        outer.cancel_scope.cancel()


async def test_a_task_that_is_one_can_be_cancelled() -> None:
    async with anyio.create_task_group() as outer:
        pipe = full(outer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipe.conn.send, "y")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        outer.cancel_scope.cancel()


async def test_dropping_it_warns_of_nothing() -> None:
    async with anyio.create_task_group() as outer:
        pipe = full(outer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for call in CALLS.values():
                call(pipe.conn)
            gc.collect()
        outer.cancel_scope.cancel()


async def test_it_can_be_awaited_more_than_once() -> None:
    done = Pipe(Recorder()).conn.send("x")
    assert done is ALREADY_DONE
    await done
    await done
    calls = []

    async def wait() -> str:
        calls.append("wait")
        return "waited"

    lazy = LazyAwaitable(wait)
    assert calls == []
    assert [await lazy, await lazy] == ["waited", "waited"]
    lazy.close()


def test_what_is_done_is_a_coroutine_that_has_ended() -> None:
    with pytest.raises(StopIteration):
        ALREADY_DONE.send(None)
    with pytest.raises(KeyError):
        ALREADY_DONE.throw(KeyError("x"))
    with pytest.raises(KeyError):
        ALREADY_DONE.throw(KeyError)
    ALREADY_DONE.close()
