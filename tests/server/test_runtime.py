"""What links share in one event loop: flushing at the end of a turn, the time, tasks, and one end for all."""

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
    """Takes what a connection writes, by calling what it was given."""

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

    def discard(self, connection: Any) -> None: ...


class TransportProtocol:
    """A link that lasts until it is aborted."""

    def __init__(self, runtime: Runtime, told: Callable[[float], None] = lambda now: None) -> None:
        self.aborted = False
        self.tick = told
        self._runtime = runtime
        runtime.connections.add(self)

    def abort(self) -> None:
        self.aborted = True
        self._runtime.discard(self)


class Stubborn(TransportProtocol):
    """A link that outlives its abortion."""

    def abort(self) -> None:
        self.aborted = True


async def run(runtime: Runtime, body: Callable[[TaskGroup], Any]) -> None:
    with anyio.fail_after(GUARD):
        await runtime.run(body)


# -- flushing ----------------------------------------------------------------------------------------------------------


async def test_what_is_filled_in_a_turn_is_flushed_at_its_end() -> None:
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


async def test_what_is_filled_while_flushing_is_flushed_too() -> None:
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
        many[-1].send("2")  # joins what waits there already
        calls.pop()()
        sizes.append(len(written))
    assert sizes == [FLUSHES_A_TURN, 2 * FLUSHES_A_TURN, 2 * FLUSHES_A_TURN + 1]
    assert written[-1] == b"\x81\x011" + 3 * b"\x81\x012"


def test_nobody_waits_behind_a_large_audience() -> None:
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


def test_nobody_waits_for_ever_behind_those_who_come_later() -> None:
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
    links = [TransportProtocol(runtime) for _ in range(3)]

    async def body(_: TaskGroup) -> None:
        assert not any(link.aborted for link in links)

    await run(runtime, body)
    assert all(link.aborted for link in links)
    assert runtime.connections == set()


async def test_links_are_aborted_when_it_is_cancelled() -> None:
    runtime = Runtime(Options())
    link = TransportProtocol(runtime)
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
    link = TransportProtocol(runtime)

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
        runtime.discard(link)

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
                runtime.discard(link)

        tasks.start_soon(forget)
        await runtime.wait_empty()
        assert runtime.connections == set()
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
    TransportProtocol(runtime, clock)

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
    TransportProtocol(runtime, fail)
    TransportProtocol(runtime, clock)

    async def body(_: TaskGroup) -> None:
        await clock.heard.wait()

    await run(runtime, body)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "math domain error" in caplog.text


async def test_telling_thousands_lets_others_in_between() -> None:
    runtime = Runtime(Options(close_timeout=0.04))
    clock = Clock(1)
    for _ in range(1000):
        TransportProtocol(runtime, clock)

    async def body(_: TaskGroup) -> None:
        await clock.heard.wait()
        assert len(clock.times) < 1000

    await run(runtime, body)
