"""An App that runs in a task of its own while a test uses it.

The task belongs to the event loop and not to the test: fixtures of some plugins begin and end in different tasks, which
no task group survives.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from pywsapp._event_loop import on_asyncio
from pywsapp._process.background import tasks_of_block
from pywsapp._server.http_connection import HttpConnection
from pywsapp.exceptions import ConfigurationError
from pywsapp.testing.given_user import server_for
from pywsapp.testing.pipe import Pump

if TYPE_CHECKING:
    from pywsapp._transports.base import TransportProtocol
    from pywsapp.app import App
    from pywsapp.testing.pipe import PumpedTransport

#: Runs an App until it is stopped; gets a `task_status`.
Serve = Callable[[TaskStatus[None]], Awaitable[None]]


class RunningApp:
    """Runs an App from `start` to `stop`.

    Args:
        app: the App.
        serve: runs the App.
    """

    def __init__(self, app: App, serve: Serve) -> None:
        self._app = app
        self._serve = serve
        self._started = anyio.Event()
        self._ended = anyio.Event()
        self._failure: BaseException | None = None
        self._scope = anyio.CancelScope()
        self._task: object = None  # asyncio keeps no reference to a task

    async def start(self) -> None:
        """Start the App; returns when its startup hooks have ended.

        Raises:
            ConfigurationError: the App runs already, or is mounted on another one.
            Exception: the exception of a startup hook.
        """
        self._app._mounting.check_not_mounted()
        if on_asyncio():
            self._task = asyncio.get_running_loop().create_task(self._main(), name="the App of a test")
        else:
            trio: Any = sys.modules["trio"]
            self._task = trio.lowlevel.spawn_system_task(self._main, name="the App of a test", context=copy_context())
        try:
            await self._started.wait()
        except BaseException:
            await self.stop(drains=False)
            raise
        if self._failure is not None:
            raise self._failure

    async def stop(self, *, drains: bool = True) -> None:
        """End the App, and wait for its shutdown hooks.

        Args:
            drains: whether connections are closed before, and not aborted.

        Raises:
            Exception: the exception that has ended the App.
        """
        runner = self._app._runner
        with anyio.CancelScope(shield=True):
            if not self._ended.is_set() and drains:
                runner.stop()
                with anyio.move_on_after(runner._shutdown_seconds()):
                    await self._ended.wait()
            self._scope.cancel()
            await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def started(self, value: object = None) -> None:
        """Note that the App has started; `task_status.started` of anyio."""
        self._started.set()

    async def _main(self) -> None:
        try:
            with self._scope:
                await self._serve(self)
        except Exception as exc:
            self._failure = exc
        finally:
            self._started.set()
            self._ended.set()


class MemoryServer:
    """An App without a listening socket, to which a test connects in memory.

    It has no watchdog: other programs keep the machine of a test busy, and a virtual clock stands still.

    Args:
        app: the App.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._pump = Pump()
        self._running = RunningApp(app, self._serve)
        self.start = self._running.start
        self.stop = self._running.stop

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        async with tasks_of_block() as tasks:
            if not on_asyncio():
                tasks.start_soon(self._pump.run)
            await self._app._runner.serve(task_status=task_status, is_hosted=True, in_test=True)

    def connect(self, client: TransportProtocol, address: str, user: Any) -> PumpedTransport:
        """Open a connection; return the transport of the client.

        Args:
            client: the protocol of the client's end.
            address: the IP address of the client, as the App sees it.
            user: what `authenticate` would return, or NOT_GIVEN.

        Raises:
            ConfigurationError: the App has stopped.
        """
        server = self._app._runner.server
        if server is None:
            raise ConfigurationError("the App does not run any more: something has called app.stop()")
        server.accepted += 1
        return self._pump.connect(client, HttpConnection(server_for(server, user)), address)
