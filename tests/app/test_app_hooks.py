"""Hooks, timers and background tasks of an App."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.app_client import status
from support.serving import TEXT, Recorder, frame
from support.waiting import until_blocked
from support.wire import peer_of, running

from pywsapp import (
    App,
    ConfigurationError,
    Connection,
    Options,
    Topic,
)
from pywsapp.brokers.memory import MemoryBroker

pytestmark = pytest.mark.anyio


async def test_hooks_in_their_order() -> None:
    calls: list[str] = []
    component = Recorder()
    app = App("*", 0)
    app.route("/", component)

    @app.on_startup
    def first() -> None:
        calls.append(f"first {app.urls}")

    @app.on_startup
    async def second() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("second")

    @app.on_shutdown
    async def third() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append(f"third {component.names()}")

    @app.on_shutdown
    def fourth() -> None:
        calls.append("fourth")

    async with running(app), peer_of(app) as peer:
        assert calls == ["first []", "second"]
        await peer.open()
        app.stop()
        await peer.receive_close()
    assert calls[2:] == ["third ['open', 'close']", "fourth"]


async def test_failing_startup_ends_everything_with_its_own_exception() -> None:
    calls: list[str] = []
    app = App("*", 0)

    @app.on_startup
    async def fail() -> None:
        raise LookupError("no database")

    app.on_startup(lambda: calls.append("never"))
    app.on_shutdown(lambda: calls.append("shutdown"))
    with pytest.raises(LookupError, match="no database"):
        await app.serve()
    assert calls == ["shutdown"]


async def test_failing_shutdown_is_logged_and_the_next_one_is_called(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    app = App("*", 0)

    @app.on_shutdown
    def fail() -> None:
        raise LookupError("too late")

    app.on_shutdown(lambda: calls.append("second"))
    async with running(app):
        pass
    assert calls == ["second"]
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "fail failed" in record.getMessage()


async def test_shutdown_hook_that_hangs_is_cancelled() -> None:
    app = App("*", 0, options=Options(drain_timeout=0.1))
    calls: list[str] = []

    @app.on_shutdown
    async def hang() -> None:
        calls.append("begins")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            calls.append("is cancelled")
            raise

    async with running(app):
        pass
    assert calls == ["begins", "is cancelled"]


async def test_task_of_a_shutdown_hook_is_refused() -> None:
    app = App("*", 0)
    failures: list[str] = []

    @app.on_shutdown
    def start() -> None:
        try:
            app.start_soon(anyio.sleep, 0)
        except ConfigurationError as exc:
            failures.append(str(exc))

    for times in (1, 2):
        async with running(app):
            app.start_soon(anyio.sleep, 0)
        assert len(failures) == times
    assert failures[0].startswith("the task sleep does not run, because the App has drained; await it in a shutdown")


async def test_task_of_a_handler_that_outlives_the_drain_is_refused() -> None:
    app = App("*", 0, options=Options(drain_timeout=0.2, close_timeout=0.1, on_close_timeout=0.3))
    failures: list[Exception] = []

    class Slow(Recorder):
        async def on_message(self, conn: Connection, message: Any) -> None:
            conn.send("begun")
            await anyio.sleep_forever()

        async def on_close(self, conn: Connection) -> None:
            await anyio.lowlevel.checkpoint()
            try:
                app.start_soon(anyio.sleep, 0)
            except ConfigurationError as exc:
                failures.append(exc)

    app.route("/", Slow())
    async with running(app), peer_of(app) as peer:
        await peer.open()
        await peer.send(frame(TEXT))
        assert await peer.frame() == (TEXT, b"begun")
        app.stop()
    assert len(failures) == 1


async def test_broadcast_of_a_shutdown_hook_reaches_other_processes() -> None:
    broker = MemoryBroker()
    app, other = App("*", 0, broker=broker), App("*", 0, broker=broker)
    received, came = [], anyio.Event()

    @app.on_shutdown
    async def say_goodbye() -> None:
        await app.topic("news").broadcast("closed")

    @other.on_broadcast("news")
    def receive(topic: Topic, message: Any) -> None:
        received.append(message)
        came.set()

    async with running(other):
        async with running(app):
            pass
        await came.wait()
    assert received == ["closed"]


async def test_every_goes_on_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    enough = anyio.Event()
    app = App("*", 0)

    @app.every(0.01)
    def plain() -> None:
        calls.append("plain")
        raise LookupError("again")

    @app.every(0.01)
    async def later() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("later")
        if calls.count("later") > 2 and calls.count("plain") > 2:
            enough.set()

    async with running(app):
        await enough.wait()
    assert sum("plain failed" in message for message in caplog.messages) > 2
    count = len(calls)
    await anyio.sleep(0.05)
    assert len(calls) == count, "it ends with the app"


async def test_every_does_not_catch_up() -> None:
    began: list[float] = []
    enough = anyio.Event()
    app = App("*", 0)

    @app.every(0.05)
    async def slow() -> None:
        began.append(anyio.current_time())
        if len(began) == 1:
            await anyio.sleep(0.2)
        if len(began) == 3:
            enough.set()

    async with running(app):
        await enough.wait()
    assert began[1] - began[0] >= 0.19
    assert began[2] - began[0] >= 0.24  # the second one can begin late


@pytest.mark.parametrize("seconds", [0, -1])
def test_every_takes_a_positive_time(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="greater than 0"):
        App().every(seconds)


async def test_start_soon_before_and_while_running(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0)
    calls: list[Any] = []
    both, ended = anyio.Event(), anyio.Event()

    async def background(name: str) -> None:
        calls.append((name, bool(app.urls)))
        if len(calls) == 2:
            both.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def fail() -> None:
        raise LookupError("one task alone")

    app.start_soon(background, "before")
    async with running(app):
        app.start_soon(fail)
        app.start_soon(background, "while")
        await both.wait()
        assert await status(app) == 404
    assert calls == [("before", True), ("while", True)]
    assert ended.is_set()
    assert "fail failed" in caplog.text


async def test_task_of_a_startup_hook_runs_once_each_time() -> None:
    app = App("*", 0)
    calls: list[str] = []

    async def permanent() -> None:
        calls.append("permanent")

    async def own() -> None:
        calls.append("own")

    app.start_soon(permanent)
    app.on_startup(lambda: app.start_soon(own))
    for _ in range(2):
        calls.clear()
        async with running(app):
            await until_blocked()
        assert sorted(calls) == ["own", "permanent"]


async def test_task_can_use_connections_until_they_are_drained() -> None:
    component = Recorder()
    app = App("*", 0)
    app.route("/", component)

    async def greet() -> None:
        await component.until_called("open")
        await component.conns[0].send("hello")
        app.stop()

    app.start_soon(greet)
    async with running(app), peer_of(app) as peer:
        await peer.open()
        assert await peer.frame() == (TEXT, b"hello")
        assert (await peer.receive_close())[0] == 1012
