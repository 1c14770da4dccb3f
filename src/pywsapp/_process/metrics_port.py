"""A port of its own for metrics; with workers, the supervisor answers there, for all of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from anyio.abc import TaskStatus

from pywsapp._log_fields import log_fields
from pywsapp._process.own_port import running_task, serve_on_own_port
from pywsapp._server.bind import ListeningSocket
from pywsapp.routing.metrics import Encode, MetricsGuard, add_metrics
from pywsapp.routing.router import Router
from pywsapp.stats import WorkerStats

logger = logging.getLogger("pywsapp")


class MetricsPort(NamedTuple):
    """The configuration of a port for metrics only.

    Attributes:
        listener: the address and port.
        path: the path of the metrics.
        guard: who may read them; None for all clients that can reach the port.
        encode: returns numbers as text.
    """

    listener: ListeningSocket
    path: str
    guard: MetricsGuard | None
    encode: Encode


@asynccontextmanager
async def answering_metrics(
    port: MetricsPort | None, collect: Callable[[], Awaitable[WorkerStats]]
) -> AsyncIterator[None]:
    """Answer requests for metrics on the port while the context lasts.

    Args:
        port: the port, or None for none.
        collect: returns the numbers.

    Raises:
        ConfigurationError: the port cannot be used.
    """
    if port is None:
        yield
        return
    async with running_task(functools.partial(_answer, port, collect)):
        yield


async def _answer(
    port: MetricsPort, collect: Callable[[], Awaitable[WorkerStats]], *, task_status: TaskStatus[None]
) -> None:
    # Without a guard, a page in a browser of this machine must not read the metrics by a name of its own.
    router = Router("localhost" if port.guard is None else "*")
    add_metrics(router, port.path, collect, port.encode, port.guard)

    def announce(address: str) -> None:
        url = f"http://{address}{port.path}"
        logger.info("metrics on %s", url, extra=log_fields("metrics.started", urls=url))

    await serve_on_own_port(router, port.listener, announce, task_status=task_status)
