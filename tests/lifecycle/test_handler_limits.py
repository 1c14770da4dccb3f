"""Handlers end in time: `Options.handler_timeout`, and `Options.cancel_on_disconnect`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.serving import Pipe, Recorder, serving

from pywsapp.app import App
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection
from pywsapp.options import Options

pytestmark = pytest.mark.anyio


class Hanging(Recorder):
    """Its handler of `"hang"` never returns by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = 0

    async def on_message(self, conn: Connection, message: Any) -> None:
        super().on_message(conn, message)
        if message == "hang":
            try:
                async with anyio.create_task_group() as tasks:  # a scope of the handler's own
                    tasks.start_soon(anyio.sleep_forever)
            except BaseException:
                self.cancelled += 1
                raise

    def on_error(self, conn: Connection, exc: Exception) -> None:
        self.record("error", str(exc))


class Default(Hanging):
    """Its `on_error` is the default one."""

    on_error = MessageComponent.on_error


async def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    component = Hanging()
    async with serving(component, options=Options(handler_timeout=0.05)) as server, server.client() as client:
        await client.send("hang", "next")
        await component.until_called("message", 2)
    assert component.cancelled == 1
    assert component.names()[:4] == ["open", "message", "error", "message"]
    (error,) = [call for call in component.calls if call[0] == "error"]
    assert error[1] == "the handler took longer than Options.handler_timeout=0.05 seconds"


async def test_by_default_the_connection_is_then_closed(caplog: pytest.LogCaptureFixture) -> None:
    component = Default()
    options = Options(handler_timeout=0.05, close_timeout=0.1)  # the client does not answer the close frame
    async with serving(component, options=options) as server, server.client() as client:
        await client.send("hang")
        assert await client.receive_close() == 1011
    assert "the handler took longer than Options.handler_timeout=0.05 seconds" in caplog.text


async def test_a_handler_in_time_is_left_alone() -> None:
    component = Hanging()
    async with serving(component, options=Options(handler_timeout=60)) as server, server.client() as client:
        await client.send("1", "2")
        await component.until_called("message", 2)
    assert component.cancelled == 0
    assert component.names() == ["open", "message", "message", "close"]


async def test_a_handler_goes_on_after_the_loss_of_its_peer() -> None:
    component = Hanging()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(), tasks)
        pipe.send("hang", "next")
        await pipe.run_until_blocked()
        pipe.transport.abort()
        await pipe.run_until_blocked()
        assert component.names() == ["open", "message"]
        tasks.cancel_scope.cancel()


async def test_a_handler_is_cancelled_with_its_peer() -> None:
    component = Hanging()
    async with anyio.create_task_group() as tasks:
        pipe = Pipe(component, Options(cancel_on_disconnect=True), tasks)
        pipe.send("hang", "next")
        await pipe.run_until_blocked()
        pipe.transport.abort()
        pipe.turn()
        await component.until_called("close")
        assert pipe.host.discarded == 1
    assert component.cancelled == 1
    assert component.names() == ["open", "message", "close"]


async def test_handlers_of_lost_connections_do_not_count_as_connections() -> None:
    component = Hanging()
    app = App("localhost", 0, max_connections=2)
    app.route("/", component)
    async with serving(app) as server:
        for number in range(4):
            async with server.client() as client:
                await client.send("hang")
                await component.until_called("message", number + 1)
                await client.reset()
            while component.conns[number].is_open:
                await anyio.lowlevel.checkpoint()
        async with server.client(), server.client(), server.client(expected=503):
            pass
        server.cancel()
