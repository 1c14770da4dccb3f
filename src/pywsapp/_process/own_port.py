"""A port of its own for health checks or metrics: a second small server in the same event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from anyio.abc import TaskStatus

from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._process.background import tasks_of_block
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.server import Server
from pywsapp.options import Options
from pywsapp.routing.router import Router

_OPTIONS = Options(handshake_timeout=5, max_header_size=4096, drain_timeout=1)
_MAX_CONNECTIONS = 100


async def serve_on_own_port(
    router: Router, listener: ListeningSocket, announce: Callable[[str], None], *, task_status: TaskStatus[None]
) -> None:
    """Serve the routes of a router on a port until cancelled.

    Args:
        router: the routes.
        listener: the address and port.
        announce: called with the address when the port is open.
        task_status: told when the port is open.

    Raises:
        ConfigurationError: the port cannot be used.
    """
    limits = ConnectionLimits(max_connections=_MAX_CONNECTIONS, max_pending=_MAX_CONNECTIONS)
    server = Server(router, _OPTIONS, limits, is_probe=router.is_probe, has_watchdog=False)

    async def started(_: object) -> None:
        announce(server.addresses[0][1])
        task_status.started()

    await server.run([listener], started)


@asynccontextmanager
async def running_task(task: Callable[..., Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run a task during a context; exceptions are not in an exception group."""
    async with tasks_of_block() as tasks:
        await tasks.start(task)
        yield
