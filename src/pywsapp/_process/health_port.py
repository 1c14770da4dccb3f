"""A port of its own for health checks, which answers whatever happens on the ports for clients.

Without workers, a second small server in the same event loop answers. With workers, the supervisor answers for all of
them: each worker reports its health about once a second over a Unix socket, whose path is in an environment variable.
A worker that has not reported for some seconds, because its event loop is blocked, does not count. One that has ended
has closed its connection.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import anyio
from anyio.abc import SocketStream, TaskStatus

from pywsapp._log_fields import log_fields
from pywsapp._process.own_port import running_task, serve_on_own_port
from pywsapp._server.bind import ListeningSocket
from pywsapp.routing.health import OK, STARTING, Health, add_health_checks
from pywsapp.routing.router import Router

logger = logging.getLogger("pywsapp")

VARIABLE = "PYWSAPP_HEALTH"

_POLL_SECONDS = 0.2  # in which a worker notices that its health has changed
_REPORT_SECONDS = 1.0
_STALE_SECONDS = 5.0
_MAX_REPORT = 4096  # bytes


class HealthPort(NamedTuple):
    """The configuration of a port for health checks only.

    Attributes:
        listener: the address and port.
        path: the path of the readiness check; see `add_health_checks`.
        needs_broker: whether a process without its broker is not ready.
    """

    listener: ListeningSocket
    path: str
    needs_broker: bool


@asynccontextmanager
async def answering_health(
    port: HealthPort | None, worker: int | None, health: Callable[[], Health]
) -> AsyncIterator[None]:
    """Answer health checks on the port while the context lasts; a worker reports to its supervisor instead.

    Args:
        port: the port, or None for none.
        worker: the number of the worker that this process is, or None.
        health: returns the health at the moment.

    Raises:
        ConfigurationError: the port cannot be used.
    """
    path = os.environ.get(VARIABLE)
    if port is not None and worker is None:
        async with running_task(functools.partial(_answer, port, health)):
            yield
    elif port is not None and worker is not None and path is not None:
        async with running_task(functools.partial(_report_forever, path, worker, health)):
            yield
    else:
        yield


@asynccontextmanager
async def answering_health_of_workers(port: HealthPort | None) -> AsyncIterator[None]:
    """Answer health checks for all workers that start while the context lasts; the supervisor calls this.

    Args:
        port: the port, or None for none.

    Raises:
        ConfigurationError: the port cannot be used.
    """
    if port is None:
        yield
        return
    reports = _Reports()
    directory = tempfile.mkdtemp(prefix="pywsapp-")  # only this user can use it
    path = os.path.join(directory, "health")
    try:
        async with (
            running_task(functools.partial(reports.receive, path)),
            running_task(functools.partial(_answer, port, reports.health)),
        ):
            os.environ[VARIABLE] = path
            yield
    finally:
        os.environ.pop(VARIABLE, None)
        shutil.rmtree(directory, ignore_errors=True)


async def _answer(port: HealthPort, health: Callable[[], Health], *, task_status: TaskStatus[None]) -> None:
    router = Router("*")
    add_health_checks(router, port.path, health, has_numbers=True)

    def announce(address: str) -> None:
        url = f"http://{address}{port.path}"
        logger.info("health checks on %s", url, extra=log_fields("health.started", urls=url))

    await serve_on_own_port(router, port.listener, announce, task_status=task_status)


async def _report_forever(
    path: str, number: int, health: Callable[[], Health], *, task_status: TaskStatus[None]
) -> None:
    task_status.started()
    while True:
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with await anyio.connect_unix(path) as stream:
                await _report(stream, number, health)
        await anyio.sleep(_REPORT_SECONDS)


async def _report(stream: SocketStream, number: int, health: Callable[[], Health]) -> None:
    reported, due = None, 0.0
    while True:
        state, now = health(), anyio.current_time()
        if state.status != reported or now >= due:
            reported, due = state.status, now + _REPORT_SECONDS
            report = [number, state.status, state.connections, state.max_connections, state.is_shared]
            await stream.send(json.dumps(report).encode() + b"\n")
        await anyio.sleep(_POLL_SECONDS)


class _Reports:
    """The last reports of the workers."""

    def __init__(self) -> None:
        self._last: dict[object, tuple[float, list[Any]]] = {}

    async def receive(self, path: str, *, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_unix_listener(path) as listener:
            task_status.started()
            await listener.serve(self._follow)

    async def _follow(self, stream: SocketStream) -> None:
        buffer = b""
        try:
            async with stream:
                while len(buffer) < _MAX_REPORT:
                    buffer += await stream.receive()
                    *lines, buffer = buffer.split(b"\n")
                    if lines:
                        self._last[stream] = (anyio.current_time(), _parsed(lines[-1]))
        except (OSError, ValueError, anyio.EndOfStream, anyio.BrokenResourceError):
            pass  # the worker has ended, or sends something else
        finally:
            self._last.pop(stream, None)

    def health(self) -> Health:
        """Return the health of all workers together."""
        now = anyio.current_time()
        fresh = [report for at, report in self._last.values() if now - at < _STALE_SECONDS]
        ready = [report for report in fresh if report[1] == OK]
        statuses = [report[1] for report in fresh]
        return Health(
            OK if ready else statuses[0] if statuses else STARTING,
            _of_all(ready, 2),
            _of_all(ready, 3),
            {"ready_workers": len({report[0] for report in ready})},
        )


def _of_all(reports: list[list[Any]], place: int) -> int:
    """Return a number of all workers: those that share a limit report the same one, the others add theirs."""
    shared: list[int] = [report[place] for report in reports if report[4]]
    alone: list[int] = [report[place] for report in reports if not report[4]]
    return max(shared, default=0) + sum(alone)


def _parsed(line: bytes) -> list[Any]:
    """Parse the report of a worker.

    Raises:
        ValueError: it is no report.
    """
    try:
        report = json.loads(line)
    except RecursionError:
        report = None
    if not isinstance(report, list) or [type(value) for value in report] != [int, str, int, int, bool]:
        raise ValueError("no report of a worker")
    return report
