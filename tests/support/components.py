"""Components for tests of the lifecycle: recorders of every kind of handler, and handlers that fail or never end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from pywsapp.component import MessageComponent, in_thread
from pywsapp.connection import Connection
from support.serving import Recorder


class Suspending(MessageComponent):
    """The base of a component whose handlers are async: each one suspends once, then calls that of the next base."""

    async def on_open(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_open(conn)

    async def on_message(self, conn: Connection, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_message(conn, message)

    async def on_close(self, conn: Connection) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_close(conn)

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        super().on_error(conn, exc)


class AsyncRecorder(Suspending, Recorder):
    """A recorder whose handlers are all async and suspend once."""


class ThreadRecorder(Recorder):
    """A recorder whose handlers all run in threads; `record` is called in the thread of the event loop."""

    @in_thread
    def on_open(self, conn: Connection) -> None:
        anyio.from_thread.run_sync(super().on_open, conn)

    @in_thread
    def on_message(self, conn: Connection, message: Any) -> None:
        anyio.from_thread.run_sync(super().on_message, conn, message)

    @in_thread
    def on_close(self, conn: Connection) -> None:
        anyio.from_thread.run_sync(super().on_close, conn)

    @in_thread
    def on_error(self, conn: Connection, exc: Exception) -> None:
        anyio.from_thread.run_sync(super().on_error, conn, exc)


#: A recorder class for each kind of handler.
every_kind = pytest.mark.parametrize(
    "recorder", [Recorder, AsyncRecorder, ThreadRecorder], ids=["def", "async", "thread"]
)


class NeverEnding(Recorder):
    """A component whose `on_message` ends only when it is cancelled."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        self.record("begun")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.record("cancelled")
            raise

    async def on_close(self, conn: Connection) -> None:
        self.record("closing")
        await anyio.lowlevel.checkpoint()
        self.record("close", conn.close_code)


def crash() -> None:
    """Raise an exception."""
    raise LookupError("on purpose")


def raise_cancelled() -> None:
    """Raise a CancelledError although nothing has cancelled the current task."""
    raise asyncio.CancelledError("not of this task")


def logged_problems(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records at WARNING and above."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]
