"""An App as an ASGI application: it starts with the site, and answers the requests that reach it.

The App runs in one task, from the lifespan event `startup` to `shutdown`, or in `App.lifespan`. Frameworks do not pass
these events on to what is mounted in them. On asyncio the App then starts with its first request, in a task of its own
that ends with the event loop. On trio no task can start there, so the request fails with a message that says what to
write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from pywsapp._event_loop import on_asyncio
from pywsapp._log_fields import log_fields
from pywsapp._process.background import tasks_of_block
from pywsapp.asgi.http import Receive, serve_request
from pywsapp.asgi.scope import Scope
from pywsapp.asgi.server_workers import other_workers
from pywsapp.asgi.transport import Send
from pywsapp.asgi.websocket import serve_websocket
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp._process.running import Runner
    from pywsapp._server.server import Server
    from pywsapp.routing.router import Router

_HOW_TO_START = "give the site lifespan=app.lifespan, or write `async with app.lifespan():` in the lifespan of the site"
logger = logging.getLogger("pywsapp")


class AsgiApplication:
    """Runs an App for ASGI servers.

    Args:
        runner: runs the App.
        router: the routes of the App.
        checks_host: whether the App answers to the hosts that it names only, and not to those that the site answers to.
    """

    def __init__(self, runner: Runner, router: Router, *, checks_host: bool) -> None:
        self._runner = runner
        self._router = router
        self._checks_host = checks_host
        self._late: _LateStart | None = None  # for a site that does not pass its lifespan on

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serve one scope (ASGI 3.0)."""
        server = self._runner.server
        if scope["type"] == "websocket" and server is not None:
            return serve_websocket(server, scope, receive, send)  # without a frame of its own, which costs 370 bytes
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._follow_lifespan(receive, send)
            return
        server = self._runner.server or await self._start_late()
        if scope["type"] == "websocket":
            await serve_websocket(server, scope, receive, send)
        elif scope["type"] == "http":
            await serve_request(server, scope, receive, send)
        else:
            raise ConfigurationError(f"an App has no answer to an ASGI scope of type {scope['type']!r}")

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run the App during the block."""
        async with tasks_of_block() as tasks:
            ended = anyio.Event()
            await tasks.start(self._run_until, ended)
            yield
            self._runner.stop()
            await ended.wait()

    async def _run_until(self, ended: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        await self._run(task_status=task_status)
        ended.set()

    async def _run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        workers = None if self._runner.has_broker else other_workers()
        if workers is not None:
            logger.warning(
                "this process is one of %s, and the App has no broker: topics, presence and users end at the process; "
                "write App(broker=...)",
                workers,
                extra=log_fields("asgi.no_broker", workers=workers),
            )
        if not self._checks_host:
            self._router.set_http_host("*")  # the site decides
        try:
            await self._runner.serve(task_status=task_status, is_hosted=True)
        finally:
            if not self._checks_host:
                self._router.set_http_host(self._runner.http_host)

    async def _follow_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as exc:
            logger.exception("the %s of the App failed", phase, extra=log_fields("asgi.failed", phase=phase))
            await send({"type": f"lifespan.{phase}.failed", "message": str(exc)})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _start_late(self) -> Server:
        """Start the App with its first request; further requests wait until it has started.

        Raises:
            ConfigurationError: no task can start here, or the App has failed to start.
        """
        if not on_asyncio():
            raise ConfigurationError(f"the App does not run, and no request can start it on trio: {_HOW_TO_START}")
        if self._late is None or not self._late.is_running():
            logger.warning(
                "the App starts with its first request, and ends without a drain: %s",
                _HOW_TO_START,
                extra=log_fields("asgi.no_lifespan"),
            )
            self._late = _LateStart(self._run)
        await self._late.event.wait()
        server = self._runner.server
        if server is None:
            raise ConfigurationError("the App does not run: its start has failed, or it was stopped")
        return server


class _LateStart:
    """A task on asyncio that runs the App until the event loop ends.

    Args:
        run: runs the App, with a `task_status`.

    Attributes:
        event: set when the App has started, or has failed to.
    """

    def __init__(self, run: Callable[..., Awaitable[None]]) -> None:
        self.event = asyncio.Event()
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._main())

    def is_running(self) -> bool:
        """Return whether the App runs in the running event loop."""
        return self._loop is asyncio.get_running_loop() and not self._task.done()

    def started(self, value: object = None) -> None:
        """Note that the App has started; `task_status.started` of anyio."""
        self.event.set()

    async def _main(self) -> None:
        try:
            await self._run(task_status=self)
        except Exception:
            logger.exception("the App failed", extra=log_fields("asgi.failed", phase="run"))
        finally:
            self.event.set()
