"""The results of `send`, `close`, `ping` and `broadcast` are coroutines that need not be awaited."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Coroutine

import anyio
import anyio.lowlevel
import pytest
from support.handler_tasks import LOOPS
from support.serving import GUARD, PING, PONG, Pipe, Recorder, frame
from support.waiting import until_blocked

from pywsapp._outbox.awaitables import ALLOWED, ALREADY_DONE, REFUSED, LazyAwaitable, LazyCoroutine
from pywsapp.connection import Connection, broadcast
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options

pytestmark = pytest.mark.anyio

CALLS: dict[str, Callable[[Connection], LazyCoroutine[object]]] = {
    "send": lambda conn: conn.send("x"),
    "close": lambda conn: conn.close(),
    "ping": lambda conn: conn.ping(),
    "broadcast": lambda conn: broadcast([conn], "x"),
}


def full_connection(tasks: anyio.abc.TaskGroup) -> Pipe:
    """Return a connection with more than `Options.high_water` bytes queued, so that `send` waits."""
    pipe = Pipe(Recorder(), Options(high_water=100), tasks)
    pipe.client.transport.pause_reading()
    pipe.conn.send("x" * 1000)
    pipe.turn()
    return pipe


@pytest.mark.parametrize("name", CALLS)
async def test_a_result_is_a_coroutine(name: str) -> None:
    async with anyio.create_task_group() as tasks:
        for pipe in (Pipe(Recorder(), tasks=tasks), full_connection(tasks)):
            assert isinstance(CALLS[name](pipe.conn), Coroutine)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("name", CALLS)
async def test_a_task_group_can_start_a_method(name: str, is_full: bool) -> None:
    async with anyio.create_task_group() as outer:
        pipe = full_connection(outer) if is_full else Pipe(Recorder(), tasks=outer)
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
    """Return a client's pong for the last ping that it has received."""
    return frame(PONG, [payload for opcode, payload in pipe.client.frames if opcode == PING][-1])


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("name", ["send", "broadcast"])
async def test_create_task_accepts_a_result(name: str) -> None:
    async with anyio.create_task_group() as outer:
        for pipe in (Pipe(Recorder(), tasks=outer), full_connection(outer)):
            task: asyncio.Task[object] = asyncio.create_task(CALLS[name](pipe.conn))
            await anyio.lowlevel.checkpoint()
            pipe.client.transport.resume_reading()
            pipe.turn()
            assert await asyncio.wait_for(task, GUARD) is None
            await asyncio.gather(pipe.conn.send("a"), pipe.conn.send("b"))
            pipe.turn()
            assert pipe.messages()[-2:] == ["a", "b"]
        outer.cancel_scope.cancel()


async def test_a_task_of_a_result_can_be_cancelled() -> None:
    async with anyio.create_task_group() as outer:
        pipe = full_connection(outer)
        before = len(anyio.get_running_tasks())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipe.conn.send, "y")
            await until_blocked()
            assert len(anyio.get_running_tasks()) == before + 1, "send does not wait"
            tasks.cancel_scope.cancel()
        assert len(anyio.get_running_tasks()) == before
        outer.cancel_scope.cancel()


async def test_a_result_that_is_not_awaited_causes_no_warning() -> None:
    async with anyio.create_task_group() as outer:
        pipe = full_connection(outer)
        with warnings.catch_warnings(record=True) as caught:  # a finalizer cannot raise a warning as an error
            warnings.simplefilter("always")
            for call in CALLS.values():
                call(pipe.conn)
            gc.collect()
        assert [str(warning.message) for warning in caught] == []
        outer.cancel_scope.cancel()


async def test_a_result_can_be_awaited_more_than_once() -> None:
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


def test_already_done_is_a_finished_coroutine() -> None:
    with pytest.raises(StopIteration):
        ALREADY_DONE.send(None)
    with pytest.raises(KeyError):
        ALREADY_DONE.throw(KeyError("x"))
    with pytest.raises(KeyError):
        ALREADY_DONE.throw(KeyError)
    ALREADY_DONE.close()


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_known_permission_is_a_finished_coroutine(allowed: bool) -> None:
    known = ALLOWED if allowed else REFUSED
    assert [await known, await known] == [allowed, allowed]
    with pytest.raises(StopIteration) as end:
        known.send(None)
    assert end.value.value is allowed
    with pytest.raises(KeyError):
        known.throw(KeyError("x"))
    known.close()
    with pytest.raises(ConfigurationError, match="write `await"):
        bool(known)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: known)
    assert await known is allowed
