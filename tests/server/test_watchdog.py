"""The watchdog names the handler that blocks, and no other one."""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import inspect
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from support.serving import GUARD, Pipe, Recorder, serving
from support.waiting import until_blocked

from pywsapp._server.watchdog import Watchdog
from pywsapp.component import MessageComponent, in_thread
from pywsapp.connection import Connection
from pywsapp.middleware.base import ComponentMiddleware

pytestmark = pytest.mark.anyio

LIMIT = 0.02

Warnings = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    """Collecting a whole suite's garbage takes longer than the limit and looks like a handler that blocks."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    return lambda: [record.getMessage() for record in caplog.records if "blocking the event loop" in record.msg]


@asynccontextmanager
async def watched(**options: float) -> AsyncIterator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Watchdog(LIMIT, **options).run)
        await until_blocked()
        yield tasks
        tasks.cancel_scope.cancel()


class Blocking(MessageComponent):
    """Blocks until the log has a number of warnings."""

    def __init__(self, warnings: Warnings) -> None:
        self.warnings = warnings
        self.times = 1

    def wait(self) -> None:
        deadline = time.monotonic() + GUARD
        while len(self.warnings()) < self.times and time.monotonic() < deadline:
            time.sleep(0.001)


def line_of(function: Callable[..., Any], text: str) -> int:
    """Return the number of the line of a function that contains a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def name_of(function: Callable[..., Any]) -> str:
    return function.__qualname__ if sys.version_info >= (3, 11) else function.__name__


class InDef(Blocking):
    def on_message(self, conn: Connection, message: Any) -> None:
        self.wait()


class InOpen(Blocking):
    def on_open(self, conn: Connection) -> None:
        self.wait()


class InAsync(Blocking):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.wait()


class InQueued(Blocking):
    """Blocks in the second of two messages, which waits in the queue for the first one."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message == "2":
            self.wait()


class InAwaited(Blocking):
    async def on_message(self, conn: Connection, message: Any) -> None:
        await self.step()  # here

    async def step(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.wait()


class InClose(Blocking):
    async def on_close(self, conn: Connection) -> None:
        self.wait()


@contextlib.contextmanager
def measured() -> Iterator[None]:
    yield


class InWrapped(Blocking):
    @measured()
    def on_message(self, conn: Connection, message: Any) -> None:
        self.wait()


@pytest.mark.parametrize(
    ("kind", "handler", "line"),
    [
        (InDef, InDef.on_message, "self.wait()"),
        (InOpen, InOpen.on_open, "self.wait()"),
        (InAsync, InAsync.on_message, "self.wait()"),
        (InQueued, InQueued.on_message, "self.wait()"),
        (InAwaited, InAwaited.on_message, "# here"),
        (InClose, InClose.on_close, "self.wait()"),
        (InWrapped, inspect.unwrap(InWrapped.on_message), "self.wait()"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_handler_that_blocks_is_named(
    kind: type[Blocking], handler: Callable[..., Any], line: str, warnings: Warnings
) -> None:
    async with watched() as tasks:
        pipe = Pipe(kind(warnings), tasks=tasks)
        pipe.send("1", "2")
        await pipe.run_until_blocked()
        pipe.client.transport.abort()
        await pipe.run_until_blocked()
    place = f"{name_of(handler)} ({__file__}:{line_of(handler, line)})"
    assert warnings() == [
        f"{place} has been blocking the event loop for more than 20 ms, and with it every other connection; "
        "mark it with @in_thread, or make it an async def that awaits"
    ]


async def test_the_component_inside_a_middleware_is_named(warnings: Warnings) -> None:
    class Outer(ComponentMiddleware):
        def on_message(self, conn: Connection, message: Any) -> Any:
            return super().on_message(conn, message)

    async with watched() as tasks:
        outer = Outer(InDef(warnings))
        outer.inner = InDef(warnings)
        Pipe(outer, tasks=tasks).send("1")
    [warning] = warnings()
    assert warning.startswith(f"{name_of(InDef.on_message)} (")


async def test_a_server_watches(warnings: Warnings) -> None:
    async with serving(InDef(warnings)) as server, server.client() as client:
        await client.send("1")
        await client.close()
    [warning] = warnings()
    assert warning.startswith(f"{name_of(InDef.on_message)} (")
    assert "100 ms" in warning


async def test_a_handler_is_named_once_a_minute_whatever_its_line(warnings: Warnings) -> None:
    class Twice(Blocking):
        def on_message(self, conn: Connection, message: Any) -> None:
            if message == "1":
                self.wait()
            deadline = time.monotonic() + 10 * LIMIT
            while time.monotonic() < deadline:
                time.sleep(0.001)

    async with watched() as tasks:
        pipe = Pipe(Twice(warnings), tasks=tasks)
        for message in ("1", "2", "3"):
            pipe.send(message)
            await anyio.sleep(LIMIT)  # the watchdog must see a free loop in between
    assert len(warnings()) == 1


async def test_it_is_named_again_later(warnings: Warnings) -> None:
    async with watched(repeat_after=0.001) as tasks:
        component = InDef(warnings)
        pipe = Pipe(component, tasks=tasks)
        for component.times in (1, 2, 3):
            pipe.send("1")
            assert len(warnings()) == component.times
            await anyio.sleep(LIMIT)  # the watchdog must see a free loop in between


async def test_handlers_that_await_or_run_in_a_thread_are_not_named(warnings: Warnings) -> None:
    class Patient(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            await anyio.sleep(5 * LIMIT)
            self.record("slept")

        @in_thread
        def on_open(self, conn: Connection) -> None:
            time.sleep(5 * LIMIT)

    component = Patient()
    async with watched() as tasks:
        pipe = Pipe(component, tasks=tasks)
        pipe.send("1")
        await component.until_called("slept")
        tasks.cancel_scope.cancel()
    assert warnings() == []


async def test_code_that_is_no_handler_is_not_named(warnings: Warnings) -> None:
    async with watched():
        time.sleep(10 * LIMIT)  # noqa: ASYNC251 - the test blocks on purpose
    assert warnings() == []


async def test_a_named_tuple_is_no_handler(warnings: Warnings) -> None:
    """Python makes the `__new__` of a named tuple by `eval`, in a module that has the name of the tuple."""
    new = collections.namedtuple("Point", ("x",)).__new__
    assert new.__globals__["__name__"] not in sys.modules
    made = {**new.__globals__}
    exec("def new(wait): wait()", made)
    calling: dict[str, Any] = {"__name__": "pywsapp.http", "new": made["new"]}
    exec("def make(wait): new(wait)", calling)
    async with watched():
        calling["make"](functools.partial(time.sleep, 10 * LIMIT))
    assert warnings() == []


async def test_its_thread_ends_with_it(warnings: Warnings) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "pywsapp watchdog"]

    async with watched():
        assert threads()
    deadline = time.monotonic() + GUARD
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)  # noqa: ASYNC251 - the test waits for another thread
    assert threads() == []
