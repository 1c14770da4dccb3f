"""What links share in one event loop: flushing at the end of a turn, the time, tasks, and one end for all."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from pywsapp.hosting.runtime import LoopFlusher, Runtime, TaskFlusher, on_asyncio
from pywsapp.values.options import Options

pytestmark = pytest.mark.anyio

GUARD = 20


class Flushed:
    """Stands where a connection stands in a flusher: flushes by calling what it was given."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self.flush = flush
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Link:
    """A link that lasts until it is aborted."""

    def __init__(self, runtime: Runtime, told: Callable[[float], None] = lambda now: None) -> None:
        self.aborted = False
        self.tick = told
        self._runtime = runtime
        runtime.links.add(self)

    def abort(self) -> None:
        self.aborted = True
        self._runtime.forget(self)


class Stubborn(Link):
    """A link that outlives its abortion."""

    def abort(self) -> None:
        self.aborted = True


async def run(runtime: Runtime, body: Callable[[TaskGroup], Any]) -> None:
    with anyio.fail_after(GUARD):
        await runtime.run(body)


# -- flushing ----------------------------------------------------------------------------------------------------------


async def test_what_is_filled_in_a_turn_is_flushed_at_its_end() -> None:
    flushed: list[str] = []

    async def body(_: TaskGroup) -> None:
        first, second = Flushed(lambda: flushed.append("1")), Flushed(lambda: flushed.append("2"))
        for connection in (first, second):
            runtime.flusher.add(connection)  # type: ignore[arg-type]
        assert flushed == []
        while len(flushed) < 2:
            await anyio.lowlevel.checkpoint()
        runtime.flusher.add(first)  # type: ignore[arg-type]
        while len(flushed) < 3:
            await anyio.lowlevel.checkpoint()

    runtime = Runtime(Options())
    await run(runtime, body)
    assert flushed == ["1", "2", "1"]


async def test_what_is_filled_while_flushing_is_flushed_too() -> None:
    flushed: list[str] = []

    async def body(_: TaskGroup) -> None:
        later = Flushed(lambda: flushed.append("later"))
        runtime.flusher.add(Flushed(lambda: runtime.flusher.add(later)))  # type: ignore[arg-type]
        while not flushed:
            await anyio.lowlevel.checkpoint()

    runtime = Runtime(Options())
    await run(runtime, body)


async def test_a_flush_that_fails_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    flushed: list[str] = []

    async def body(_: TaskGroup) -> None:
        runtime.flusher.add(failing)  # type: ignore[arg-type]
        runtime.flusher.add(Flushed(lambda: flushed.append("other")))  # type: ignore[arg-type]
        while not flushed:
            await anyio.lowlevel.checkpoint()

    failing = Flushed(lambda: [][0])
    runtime = Runtime(Options())
    await run(runtime, body)
    assert flushed == ["other"]
    assert failing.aborted
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "IndexError" in caplog.text


def test_a_flusher_asks_for_one_call_a_turn() -> None:
    calls: list[Callable[[], None]] = []
    flushed: list[int] = []
    flusher = LoopFlusher(calls.append)
    for number in range(3):
        flusher.add(Flushed(lambda number=number: flushed.append(number)))  # type: ignore[arg-type,misc]
    assert len(calls) == 1
    calls.pop()()
    assert flushed == [0, 1, 2]
    flusher.add(Flushed(lambda: flushed.append(3)))  # type: ignore[arg-type]
    assert len(calls) == 1


async def test_the_event_loop_is_told_apart() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        assert not on_asyncio()
    else:
        assert on_asyncio()


def test_no_event_loop_is_not_asyncio() -> None:
    assert not on_asyncio()


async def test_the_flusher_fits_the_event_loop() -> None:
    async def body(_: TaskGroup) -> None:
        assert isinstance(runtime.flusher, TaskFlusher) == (not on_asyncio())

    runtime = Runtime(Options())
    await run(runtime, body)


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_links_are_aborted_when_the_body_returns() -> None:
    runtime = Runtime(Options())
    links = [Link(runtime) for _ in range(3)]

    async def body(_: TaskGroup) -> None:
        assert not any(link.aborted for link in links)

    await run(runtime, body)
    assert all(link.aborted for link in links)
    assert runtime.links == set()


async def test_links_are_aborted_when_it_is_cancelled() -> None:
    runtime = Runtime(Options())
    link = Link(runtime)
    running = anyio.Event()

    async def body(_: TaskGroup) -> None:
        running.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, runtime, body)
        await running.wait()
        tasks.cancel_scope.cancel()
    assert link.aborted


@pytest.mark.parametrize("kind", [ValueError, OSError, TimeoutError])
async def test_what_the_body_raises_comes_out_as_it_is(kind: type[Exception]) -> None:
    runtime = Runtime(Options())
    link = Link(runtime)

    async def body(_: TaskGroup) -> None:
        raise kind("on purpose")

    with pytest.raises(kind, match="on purpose"):
        await run(runtime, body)
    assert link.aborted


async def test_tasks_for_transports_end_with_the_body() -> None:
    ended: list[str] = []

    async def transport() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("transport")

    async def body(tasks: TaskGroup) -> None:
        tasks.start_soon(transport)
        await anyio.lowlevel.checkpoint()

    await run(Runtime(Options()), body)
    assert ended == ["transport"]


async def test_handlers_may_finish_within_on_close_timeout() -> None:
    runtime = Runtime(Options(on_close_timeout=GUARD))
    link = Stubborn(runtime)
    done: list[str] = []

    async def handler() -> None:
        while not link.aborted:
            await anyio.lowlevel.checkpoint()
        done.append("handler")
        runtime.forget(link)

    async def body(_: TaskGroup) -> None:
        runtime.start_soon(handler)

    await run(runtime, body)
    assert done == ["handler"]


async def test_handlers_that_do_not_are_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(Options(on_close_timeout=0.05))
    Stubborn(runtime)
    done: list[str] = []

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            done.append("cancelled")

    async def body(_: TaskGroup) -> None:
        runtime.start_soon(handler)

    await run(runtime, body)
    assert done == ["cancelled"]


async def test_waiting_until_it_is_empty() -> None:
    runtime = Runtime(Options())
    links = [Stubborn(runtime) for _ in range(2)]

    async def body(tasks: TaskGroup) -> None:
        async def forget() -> None:
            for link in links:
                await anyio.lowlevel.checkpoint()
                runtime.forget(link)

        tasks.start_soon(forget)
        await runtime.wait_empty()
        assert runtime.links == set()
        await runtime.wait_empty()

    await run(runtime, body)


# -- the time ----------------------------------------------------------------------------------------------------------


def fail(now: float) -> None:
    math.sqrt(-1)


class Clock:
    """Writes down the times it is told, and wakes a test after some."""

    def __init__(self, enough: int) -> None:
        self.times: list[float] = []
        self.heard = anyio.Event()
        self._enough = enough

    def __call__(self, now: float) -> None:
        self.times.append(now)
        if len(self.times) == self._enough:
            self.heard.set()


async def test_links_are_told_the_time() -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(3)
    Link(runtime, clock)

    async def body(_: TaskGroup) -> None:
        before = anyio.current_time()
        await clock.heard.wait()
        assert before < clock.times[0] < clock.times[1] < clock.times[2] <= anyio.current_time()

    await run(runtime, body)


async def test_a_link_that_cannot_be_told_the_time_does_not_keep_it_from_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(2)
    Link(runtime, fail)
    Link(runtime, clock)

    async def body(_: TaskGroup) -> None:
        await clock.heard.wait()

    await run(runtime, body)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "math domain error" in caplog.text


async def test_telling_thousands_lets_others_in_between() -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(1)
    for _ in range(1000):
        Link(runtime, clock)

    async def body(_: TaskGroup) -> None:
        await clock.heard.wait()
        assert len(clock.times) < 1000

    await run(runtime, body)
