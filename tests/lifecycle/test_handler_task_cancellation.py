"""Timeouts, cancel scopes, task groups and cancellation in handlers whose first step runs outside of their task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.handler_tasks import (
    LOOPS,
    Scripted,
    SlowAwaitable,
    call_from,
    checkpoints,
    opened,
    run_messages,
    send_each,
    wait_until_idle,
)
from support.serving import GUARD, Recorder

from pywsapp._event_loop import on_asyncio
from pywsapp._lifecycle import handler_task
from pywsapp.component import in_thread
from pywsapp.connection import Connection

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.anyio

Wait = Callable[[], Awaitable[object]]

since_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in asyncio of Python 3.11")
on_asyncio_loops = pytest.mark.parametrize("anyio_backend", LOOPS)
#: The calls that `run_messages` returns when nothing has failed.
ALL_DONE = [("done", "act"), ("done", "later")]


def task() -> asyncio.Task[Any]:
    current = asyncio.current_task()
    assert current is not None
    return current


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def forever_in_an_event() -> None:
    await anyio.Event().wait()


async def forever_in_a_child() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)


async def forever_yielding() -> None:
    while True:
        await anyio.lowlevel.checkpoint()


endless_waits = pytest.mark.parametrize(
    "wait", [anyio.sleep_forever, forever_in_an_event, forever_in_a_child, forever_yielding]
)
several_seconds = pytest.mark.parametrize("seconds", [-1, 0, 0.01])


async def move_on(seconds: float, wait: Wait) -> None:
    with anyio.move_on_after(seconds) as scope:
        await wait()
    assert scope.cancelled_caught


async def fail(seconds: float, wait: Wait) -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(seconds):
        await wait()


@endless_waits
@several_seconds
async def test_a_deadline_ends_a_wait(origin: str, seconds: float, wait: Wait) -> None:
    for limit in (move_on, fail):

        async def act(conn: Connection, limit: Callable[[float, Wait], Awaitable[None]] = limit) -> None:
            before = anyio.get_current_task()
            await limit(seconds, wait)
            assert anyio.get_current_task() == before
            assert anyio.current_effective_deadline() == float("inf")
            await checkpoints()

        assert await run_messages(origin, "act", act=act) == ALL_DONE


@since_311
@endless_waits
@several_seconds
@on_asyncio_loops
async def test_a_timeout_of_asyncio_ends_a_wait(origin: str, seconds: float, wait: Wait) -> None:
    async def act(conn: Connection) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await wait()
        assert task().cancelling() == 0
        await checkpoints()

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@pytest.mark.parametrize("inner", [0, 30])
async def test_deadlines_can_be_nested(origin: str, inner: float) -> None:
    async def act(conn: Connection) -> None:
        with anyio.move_on_after(30 if inner == 0 else 0.01) as outside:
            with anyio.move_on_after(inner) as inside:
                await anyio.sleep_forever()
            assert inside.cancelled_caught
            assert inner == 0
            outside.deadline = anyio.current_time()
            await anyio.sleep_forever()
        assert outside.cancelled_caught
        assert inside.cancelled_caught == (inner == 0)

    assert await run_messages(origin, "act", act=act) == ALL_DONE


async def test_a_shield_delays_a_cancellation(origin: str) -> None:
    async def act(conn: Connection) -> None:
        with anyio.CancelScope() as outside:
            outside.cancel()
            with anyio.CancelScope(shield=True) as inside:
                await checkpoints()
                await move_on(0, anyio.sleep_forever)
                await checkpoints()
            assert not inside.cancel_called
            await anyio.lowlevel.checkpoint()
            raise AssertionError("not cancelled after the shield")
        assert outside.cancelled_caught

    assert await run_messages(origin, "act", act=act) == ALL_DONE


# -- scopes ------------------------------------------------------------------------------------------------------------


@endless_waits
async def test_a_handler_can_cancel_its_own_scope(origin: str, wait: Wait) -> None:
    async def act(conn: Connection) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert scope.cancelled_caught
        await checkpoints()

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@endless_waits
@pytest.mark.parametrize("when", ["at once", "later", "both at once"])
async def test_a_handler_can_cancel_the_scope_of_another_connection(origin: str, when: str, wait: Wait) -> None:
    scopes: list[anyio.CancelScope] = []

    async def act(conn: Connection) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await wait()
        assert scope.cancelled_caught
        await checkpoints()

    async def cancel(conn: Connection) -> None:
        while not scopes:
            await anyio.lowlevel.checkpoint()
        scopes.pop().cancel()

    first, second = Scripted(act=act), Scripted(cancel=cancel)
    async with opened(first) as one, opened(second) as other:
        if when == "both at once":
            await call_from(origin, send_each, (one, "act"), (other, "cancel"))
        else:
            await call_from(origin, one.send, "act")
            if when == "later":
                await checkpoints()
            await call_from(origin, other.send, "cancel")
        await wait_until_idle(one)
        await wait_until_idle(other)
        assert first.calls[1:] == [("done", "act")]
        assert second.calls[1:] == [("done", "cancel")]


# -- task groups -------------------------------------------------------------------------------------------------------


class Child(Exception):
    """The exception of a child task."""


async def crash(steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    raise Child


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("body", ["ends", "waits"])
@pytest.mark.parametrize("group", ["anyio", pytest.param("asyncio", marks=since_311)])
async def test_a_failing_child_ends_its_group_and_its_handler(origin: str, group: str, body: str, steps: int) -> None:
    async def act(conn: Connection) -> None:
        if group == "anyio" or not on_asyncio():
            async with anyio.create_task_group() as children:
                children.start_soon(crash, steps)
                children.start_soon(anyio.sleep_forever)
                if body == "waits":
                    await anyio.sleep_forever()
        else:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(crash(steps))
                tasks.create_task(anyio.sleep_forever())
                if body == "waits":
                    await anyio.sleep_forever()

    class ErrorRecorder(Scripted):
        async def on_error(self, conn: Connection, exc: Exception) -> None:
            assert isinstance(exc, ExceptionGroup)
            self.record("error", *map(type, exc.exceptions))
            await checkpoints()

    component = ErrorRecorder(act=act, later=checkpoints)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "act", "later")
        await wait_until_idle(pipe)
        assert component.calls[1:] == [("error", Child), ("done", "later")]


async def test_a_task_group_waits_for_its_children(origin: str) -> None:
    results: list[int] = []

    async def child(number: int) -> None:
        await checkpoints()
        results.append(number)

    async def act(conn: Connection) -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(child, number)
        assert sorted(results) == [0, 1, 2]

    assert await run_messages(origin, "act", act=act) == ALL_DONE


# -- other users of the current task ----------------------------------------------------------------------------------


async def test_a_lock_can_be_held_across_handlers(origin: str) -> None:
    lock = anyio.Lock()

    async def take(conn: Connection) -> None:
        await lock.acquire()

    async def give(conn: Connection) -> None:
        lock.release()

    async def both(conn: Connection) -> None:
        async with lock:
            await checkpoints()
        async with lock:
            pass

    sent = ["take", "give", "both", "take", "give"]
    calls = await run_messages(origin, *sent, take=take, give=give, both=both)
    assert calls == [("done", name) for name in [*sent, "later"]]


async def test_connections_can_exchange_items_through_a_stream(origin: str) -> None:
    put, take = anyio.create_memory_object_stream[int](1)

    async def give(conn: Connection) -> None:
        for number in range(4):
            await put.send(number)

    async def get(conn: Connection) -> None:
        got = [await take.receive() for _ in range(4)]
        assert got == [0, 1, 2, 3]

    one, other = Scripted(give=give), Scripted(get=get)
    with put, take:
        async with opened(one) as a, opened(other) as b:
            await call_from(origin, b.send, "get", "get")
            await call_from(origin, a.send, "give", "give")
            await wait_until_idle(a)
            await wait_until_idle(b)
            assert one.calls[1:] == [("done", "give")] * 2
            assert other.calls[1:] == [("done", "get")] * 2


async def test_a_handler_in_a_thread_finishes_before_the_next_one(origin: str) -> None:
    class Threaded(Recorder):
        @in_thread
        def on_message(self, conn: Connection, message: Any) -> None:
            anyio.from_thread.run_sync(conn.send, message)
            anyio.from_thread.run(checkpoints)
            anyio.from_thread.run_sync(conn.send, message)

    async with opened(Threaded()) as pipe:
        await call_from(origin, pipe.send, "1", "2")
        await wait_until_idle(pipe)
        assert pipe.messages() == ["warm up", "warm up", "1", "1", "2", "2"]


# -- Task.cancel -------------------------------------------------------------------------------------------------------


async def in_a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def in_a_bare_yield() -> None:
    await asyncio.sleep(0)


async def in_a_child_task() -> None:
    child = asyncio.ensure_future(anyio.sleep_forever())
    try:
        await child
    finally:
        assert child.cancelled()


async def in_a_gather() -> None:
    children = [asyncio.ensure_future(anyio.sleep_forever()) for _ in range(2)]
    try:
        await asyncio.gather(*children)
    finally:
        assert all(child.cancelled() for child in children)


async def in_a_shield() -> None:
    child = asyncio.ensure_future(anyio.sleep_forever())
    try:
        await asyncio.shield(child)
    finally:
        assert not child.done()
        child.cancel()


async def in_a_done_future() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: None if future.done() else future.set_result(None))
    await future
    await asyncio.sleep(0)


async def in_an_object() -> None:
    await SlowAwaitable()


cancelled_waits = pytest.mark.parametrize(
    "wait",
    [in_a_future, in_a_bare_yield, in_a_child_task, in_a_gather, in_a_shield, in_a_done_future, in_an_object],
)


def cancel_now() -> None:
    task().cancel("why")


def cancel_soon() -> None:
    asyncio.get_running_loop().call_soon(task().cancel, "why")


def cancel_twice_soon() -> None:
    """Cancel the task twice in the next turn of the event loop, before it is woken."""
    asyncio.get_running_loop().call_soon(task().cancel, "why")
    asyncio.get_running_loop().call_soon(task().cancel, "why")


async def cancelled(wait: Wait, cancel: Callable[[], None]) -> asyncio.CancelledError:
    with pytest.raises(asyncio.CancelledError) as caught:  # noqa: PT012 - both belong to one step
        cancel()
        await wait()
    for _ in range(2 if cancel is cancel_twice_soon else 1):
        if sys.version_info >= (3, 11):
            task().uncancel()
    return caught.value


@cancelled_waits
@pytest.mark.parametrize("cancel", [cancel_now, cancel_soon])
@on_asyncio_loops
async def test_a_cancelled_handler_is_interrupted_where_it_waits(
    origin: str, cancel: Callable[[], None], wait: Wait
) -> None:
    async def act(conn: Connection) -> None:
        await cancelled(wait, cancel)
        await checkpoints()  # the handler is interrupted only once
        await check_timeouts()

    assert await run_messages(origin, "act", act=act) == ALL_DONE


async def check_timeouts() -> None:
    """Check that timeouts still work in the handler."""
    await move_on(0.001, anyio.sleep_forever)
    if sys.version_info >= (3, 11):
        assert task().cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await anyio.sleep_forever()
        assert task().cancelling() == 0


@pytest.mark.parametrize("wait", [in_a_future, in_a_bare_yield, pytest.param(in_a_child_task, marks=since_311)])
@pytest.mark.parametrize("cancel", [cancel_now, cancel_soon])
@on_asyncio_loops
async def test_a_cancellation_keeps_its_message(origin: str, cancel: Callable[[], None], wait: Wait) -> None:
    async def act(conn: Connection) -> None:
        assert (await cancelled(wait, cancel)).args == ("why",)

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@cancelled_waits
@on_asyncio_loops
async def test_a_handler_that_has_waited_before_is_interrupted_too(origin: str, wait: Wait) -> None:
    async def act(conn: Connection) -> None:
        await checkpoints()
        await cancelled(wait, cancel_now)
        await checkpoints()
        await cancelled(wait, cancel_soon)
        await check_timeouts()

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@on_asyncio_loops
async def test_two_cancellations_before_the_first_wait_are_one(origin: str) -> None:
    async def act(conn: Connection) -> None:
        await cancelled(in_a_future, cancel_twice_soon)
        await checkpoints()
        await check_timeouts()

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@on_asyncio_loops
async def test_a_child_can_refuse_to_be_cancelled(origin: str) -> None:
    async def refuse() -> str:
        with suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        return "refused"

    async def act(conn: Connection) -> None:
        child = asyncio.ensure_future(refuse())
        await asyncio.sleep(0)
        cancel_soon()
        assert await child == "refused"

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@pytest.mark.skipif(sys.version_info < (3, 13), reason="uncancel withdraws a cancellation since 3.13")
@on_asyncio_loops
async def test_a_task_that_is_uncancelled_is_not_interrupted(origin: str) -> None:
    async def act(conn: Connection) -> None:
        task().cancel()
        task().uncancel()
        await checkpoints()

    assert await run_messages(origin, "act", act=act) == ALL_DONE


@pytest.mark.parametrize("is_turn_over", [False, True])
@pytest.mark.parametrize("then", ["ends", "is not caught"])
@on_asyncio_loops
async def test_an_unhandled_cancellation_ends_the_connection(
    origin: str, then: str, is_turn_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_turn_over:  # the handler task then pauses after each handler
        monkeypatch.setattr(handler_task, "TURN_SECONDS", 0)

    async def act(conn: Connection) -> None:
        task().cancel()
        if then == "is not caught":
            await anyio.sleep_forever()

    component = Scripted(act=act)
    async with opened(component) as pipe:
        await call_from(origin, pipe.send, "act")
        with anyio.fail_after(GUARD):
            while pipe.conn.is_open:
                await anyio.lowlevel.checkpoint()
        assert pipe.conn.close_code == (1006 if then == "ends" else 1011)
    assert component.names() == ["open", *["done"] * (then == "ends"), "close"]
