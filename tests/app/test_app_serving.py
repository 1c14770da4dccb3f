"""Running an App inside an event loop: its start, its end, and its end in between."""

from __future__ import annotations

import logging
import socket
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.app_client import status
from support.serving import GUARD, Recorder
from support.wire import peer_of, running

from pywsapp import (
    App,
    ConfigurationError,
    EchoServer,
)

pytestmark = pytest.mark.anyio


async def test_app_runs_once_at_a_time_and_again() -> None:
    app = App("*", 0)
    app.route("/", EchoServer())
    for _ in range(2):
        async with running(app):
            with pytest.raises(ConfigurationError, match="running already"):
                await app.serve()
            assert await status(app) == 101, "the first one does not mind"


async def test_app_cannot_run_again_before_its_shutdown_is_over() -> None:
    app = App("*", 0)
    failures: list[Exception] = []

    @app.on_shutdown
    async def again() -> None:
        try:
            await app.serve()
        except ConfigurationError as exc:
            failures.append(exc)

    async with running(app):
        pass
    assert "running already" in str(failures)


async def test_stop_during_startup() -> None:
    app = App("*", 0)
    calls: list[str] = []
    started = anyio.Event()

    @app.on_startup
    async def hang() -> None:
        started.set()
        await anyio.sleep_forever()

    app.on_shutdown(lambda: calls.append("shutdown"))
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            await started.wait()
            app.stop()
    assert calls == ["shutdown"]


async def test_stop_in_a_startup_hook() -> None:
    app = App("*", 0)
    app.on_startup(app.stop)
    with anyio.fail_after(GUARD):
        await app.serve()


async def test_start_returns_when_the_app_is_stopped_during_startup() -> None:
    app = App("*", 0)
    calls: list[str] = []

    @app.on_startup
    def stop() -> None:
        calls.append("first")
        app.stop()

    app.on_startup(lambda: calls.append("never"))
    app.on_shutdown(lambda: calls.append("shutdown"))
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
    assert calls == ["first", "shutdown"]


async def test_stop_before_serve_ends_it_at_once_and_counts_once() -> None:
    app = App("*", 0)
    app.route("/", EchoServer())
    calls: list[str] = []
    app.on_startup(lambda: calls.append("startup"))
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.serve)
            app.stop()  # the task above has not begun
        app.stop()
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
    assert calls == []
    async with running(app):
        assert await status(app) == 101
    assert calls == ["startup"]


async def test_cancelling_serve() -> None:
    component = Recorder()
    calls: list[str] = []
    app = App("*", 0)
    app.route("/", component)

    @app.on_shutdown
    async def shutdown() -> None:
        await anyio.lowlevel.checkpoint()
        calls.append("shutdown")

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            async with peer_of(app) as peer:
                await peer.open()
                await component.until_called("open")
                tasks.cancel_scope.cancel()
    assert component.names() == ["open", "close"]
    assert calls == ["shutdown"]


async def test_address_in_use_is_one_plain_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigurationError, match="in use; stop the other server") as caught:
            await App("*", taken.getsockname()[1]).serve()
        assert "\n" not in str(caught.value)


async def test_running_is_logged(caplog: pytest.LogCaptureFixture, anyio_backend: Any) -> None:
    caplog.set_level(logging.INFO, "pywsapp")
    app = App(port=0)
    async with running(app):
        loop = "uvloop" if anyio_backend[1].get("use_uvloop") else anyio_backend[0]
        assert f"on {loop}: http://localhost:{app.port}" in caplog.text


async def test_run_inside_a_loop_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"use `await app.serve\(\)` instead"):
        App("*", 0).run()
