"""The runtime that connections share: flushing at the end of a turn, time limits, tasks and the shutdown."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup

from pywsapp._event_loop import on_asyncio
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._outbox.flushing import FLUSHES_A_TURN, TurnFlusher
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.websocket import WebSocket
from pywsapp._server.runtime import Runtime, TaskFlusher
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection, broadcast
from pywsapp.http import Request
from pywsapp.options import Options

pytestmark = pytest.mark.anyio

GUARD = 20


class Transport:
    """A transport that passes all writes to a function."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


def connection(flusher: Flusher, write: Callable[[bytes], object]) -> Connection:
    options = Options()
    transport: Any = Transport(write)
    ws = WebSocket(client=False, options=options)
    return Lifecycle(MessageComponent(), Request(), ws, transport, options, Host(flusher)).conn


class Host:
    """A host of lifecycles that need no tasks."""

    def __init__(self, flusher: Flusher) -> None:
        self.flusher = flusher

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        raise AssertionError("no task is needed here")

    def disconnected(self, connection: Any) -> None: ...
    def discard(self, connection: Any) -> None: ...
    def exceeded(self, limit: str, conn: Connection) -> None: ...

    def user_changed(self, conn: Connection) -> None: ...


class Abortable:
    """A connection that lasts until it is aborted."""

    def __init__(self, runtime: Runtime, tick: Callable[[float], None] = lambda now: None) -> None:
        self.aborted = False
        self.tick = tick
        self._runtime = runtime
        runtime.connections.add(self)

    def abort(self) -> None:
        self.aborted = True
        self._runtime.discard(self)


class Stubborn(Abortable):
    """A connection that does not end when it is aborted."""

    def abort(self) -> None:
        self.aborted = True


async def run(runtime: Runtime, body: Callable[[TaskGroup], Any]) -> None:
    with anyio.fail_after(GUARD):
        await runtime.run(body)


# -- flushing ----------------------------------------------------------------------------------------------------------


async def test_frames_of_a_turn_are_flushed_at_its_end() -> None:
    written: list[bytes] = []

    async def body(_: TaskGroup) -> None:
        first, second = connection(runtime.flusher, written.append), connection(runtime.flusher, written.append)
        first.send("1")
        second.send("2")
        first.send("3")
        assert written == []
        while len(written) < 2:
            await anyio.lowlevel.checkpoint()
        first.send("4")
        while len(written) < 3:
            await anyio.lowlevel.checkpoint()

    runtime = Runtime(Options())
    await run(runtime, body)
    assert written == [b"\x81\x011\x81\x013", b"\x81\x012", b"\x81\x014"]


async def test_frames_queued_while_flushing_are_flushed_too() -> None:
    written: list[bytes] = []

    async def body(_: TaskGroup) -> None:
        later = connection(runtime.flusher, written.append)
        connection(runtime.flusher, lambda data: later.send("later")).send("first")
        while not written:
            await anyio.lowlevel.checkpoint()

    runtime = Runtime(Options())
    await run(runtime, body)
    assert written == [b"\x81\x05later"]


async def test_a_flush_that_fails_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    written: list[bytes] = []
    failing: list[Connection] = []

    async def body(_: TaskGroup) -> None:
        failing.append(connection(runtime.flusher, lambda data: [][0]))
        failing[0].send("lost")
        connection(runtime.flusher, written.append).send("other")
        while not written:
            await anyio.lowlevel.checkpoint()

    runtime = Runtime(Options())
    await run(runtime, body)
    assert written == [b"\x81\x05other"]
    assert failing[0].close_code == 1006
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "IndexError" in caplog.text


def test_a_flusher_asks_for_one_call_a_turn() -> None:
    calls: list[Callable[[], None]] = []
    written: list[bytes] = []
    flusher = TurnFlusher(calls.append)
    for number in range(3):
        connection(flusher, written.append).send(str(number))
    assert len(calls) == 1
    calls.pop()()
    assert written == [b"\x81\x010", b"\x81\x011", b"\x81\x012"]
    connection(flusher, written.append).send("3")
    assert len(calls) == 1


def test_a_large_audience_is_flushed_over_several_turns() -> None:
    calls: list[Callable[[], None]] = []
    written: list[bytes] = []
    flusher = TurnFlusher(calls.append)
    many = [connection(flusher, written.append) for _ in range(2 * FLUSHES_A_TURN + 1)]
    broadcast(many, "1")
    sizes = []
    while calls:
        assert len(calls) == 1
        many[-1].send("2")  # joins the frames that wait already
        calls.pop()()
        sizes.append(len(written))
    assert sizes == [FLUSHES_A_TURN, 2 * FLUSHES_A_TURN, 2 * FLUSHES_A_TURN + 1]
    assert written[-1] == b"\x81\x011" + 3 * b"\x81\x012"


def test_no_connection_waits_behind_a_large_audience() -> None:
    calls: list[Callable[[], None]] = []
    audience: list[bytes] = []
    answers: list[bytes] = []
    flusher = TurnFlusher(calls.append)
    broadcast([connection(flusher, audience.append) for _ in range(3 * FLUSHES_A_TURN)], "1")
    calls.pop()()
    other = connection(flusher, answers.append)
    for number in range(3):
        other.send(str(number))
        calls.pop()()
        assert answers[-1] == b"\x81\x01%d" % number
    assert len(audience) == 3 * FLUSHES_A_TURN
    assert calls == []
    other.send("3")
    assert len(calls) == 1


def test_no_connection_waits_for_ever_behind_later_ones() -> None:
    calls: list[Callable[[], None]] = []
    busy: list[bytes] = []
    waiting: list[bytes] = []
    flusher = TurnFlusher(calls.append)
    many = [connection(flusher, busy.append) for _ in range(FLUSHES_A_TURN)]
    broadcast(many + [connection(flusher, waiting.append) for _ in range(2 * FLUSHES_A_TURN)], "1")
    served = []
    for _ in range(5):
        broadcast(many, "2")  # as many again as one turn takes
        calls.pop()()
        served.append(len(waiting))
    half = FLUSHES_A_TURN // 2
    assert served == [0, half, 2 * half, 3 * half, 4 * half]
    assert len(busy) == FLUSHES_A_TURN + 4 * half


async def test_on_asyncio_recognizes_the_event_loop() -> None:
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


async def test_connections_are_aborted_when_the_body_returns() -> None:
    runtime = Runtime(Options())
    connections = [Abortable(runtime) for _ in range(3)]

    async def body(_: TaskGroup) -> None:
        assert not any(connection.aborted for connection in connections)

    await run(runtime, body)
    assert all(connection.aborted for connection in connections)
    assert runtime.connections == set()


async def test_connections_are_aborted_when_it_is_cancelled() -> None:
    runtime = Runtime(Options())
    target = Abortable(runtime)
    running = anyio.Event()

    async def body(_: TaskGroup) -> None:
        running.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, runtime, body)
        await running.wait()
        tasks.cancel_scope.cancel()
    assert target.aborted


@pytest.mark.parametrize("kind", [ValueError, OSError, TimeoutError])
async def test_exceptions_of_the_body_are_raised_unchanged(kind: type[Exception]) -> None:
    runtime = Runtime(Options())
    target = Abortable(runtime)

    async def body(_: TaskGroup) -> None:
        raise kind("on purpose")

    with pytest.raises(kind, match="on purpose"):
        await run(runtime, body)
    assert target.aborted


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
    target = Stubborn(runtime)
    done: list[str] = []

    async def handler() -> None:
        while not target.aborted:
            await anyio.lowlevel.checkpoint()
        done.append("handler")
        runtime.discard(target)

    async def body(_: TaskGroup) -> None:
        runtime.start_soon(handler)

    await run(runtime, body)
    assert done == ["handler"]


async def test_handlers_that_do_not_finish_are_cancelled(caplog: pytest.LogCaptureFixture) -> None:
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
    connections = [Stubborn(runtime) for _ in range(2)]

    async def body(tasks: TaskGroup) -> None:
        async def forget() -> None:
            for connection in connections:
                await anyio.lowlevel.checkpoint()
                runtime.discard(connection)

        tasks.start_soon(forget)
        await runtime.wait_empty()
        assert runtime.connections == set()
        await runtime.wait_empty()

    await run(runtime, body)


async def test_on_ended_is_called_with_each_connection() -> None:
    ended: list[object] = []
    runtime = Runtime(Options(), ended.append)
    connections = {Abortable(runtime) for _ in range(3)}

    async def body(_: TaskGroup) -> None:
        assert ended == []

    await run(runtime, body)
    assert len(ended) == 3
    assert set(ended) == connections


# -- time limits -----------------------------------------------------------------------------------------------------


def fail(now: float) -> None:
    math.sqrt(-1)


class Clock:
    """Stores the times that `tick` gets, and sets an event after a number of them."""

    def __init__(self, expected: int) -> None:
        self.times: list[float] = []
        self.enough = anyio.Event()
        self._expected = expected

    def __call__(self, now: float) -> None:
        self.times.append(now)
        if len(self.times) == self._expected:
            self.enough.set()


async def test_time_limits_are_enforced_again_and_again() -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(3)
    Abortable(runtime, clock)

    async def body(_: TaskGroup) -> None:
        before = anyio.current_time()
        await clock.enough.wait()
        assert before < clock.times[0] < clock.times[1] < clock.times[2] <= anyio.current_time()

    await run(runtime, body)


async def test_a_tick_that_fails_does_not_affect_other_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(2)
    Abortable(runtime, fail)
    Abortable(runtime, clock)

    async def body(_: TaskGroup) -> None:
        await clock.enough.wait()

    await run(runtime, body)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "math domain error" in caplog.text


async def test_ticks_of_thousands_let_other_tasks_run_in_between() -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(1)
    for _ in range(1000):
        Abortable(runtime, clock)

    async def body(_: TaskGroup) -> None:
        await clock.enough.wait()
        assert len(clock.times) < 1000

    await run(runtime, body)
