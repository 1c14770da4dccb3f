"""The sockets of an App, and its port of health checks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from pywsapp._process.health_port import HealthPort, answering_health
from pywsapp._process.metrics_port import MetricsPort, answering_metrics
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.tls_reload import as_server_tls
from pywsapp._server.tls_settings import TlsArgument
from pywsapp.exceptions import ConfigurationError
from pywsapp.routing.health import Health
from pywsapp.routing.host_pattern import is_loopback
from pywsapp.routing.metrics import Encode, MetricsGuard
from pywsapp.stats import WorkerStats


class Listening:
    """The sockets and ports that an App listens on; the runner creates it.

    Attributes:
        sockets: the sockets; the first one is that of the App's arguments.
        health: the port of health checks; None if they have no port of their own.
        metrics: the port of metrics; None if they have no port of their own.
    """

    def __init__(self) -> None:
        self.sockets: list[ListeningSocket] = []
        self.health: HealthPort | None = None
        self.metrics: MetricsPort | None = None

    def add(
        self,
        address: str,
        port: int,
        tls: TlsArgument | None,
        unix_path: str | os.PathLike[str] | None,
        fd: int | None,
        *,
        proxy_protocol: bool,
    ) -> None:
        """Listen on an additional socket; see `App.listen`."""
        self.sockets.append(
            ListeningSocket(
                address=address,
                port=port,
                unix_path=os.fspath(unix_path) if unix_path is not None else None,
                fd=fd,
                tls=as_server_tls(tls) if tls is not None else None,
                proxy_protocol=proxy_protocol,
            )
        )

    def changed(self) -> dict[str, object]:
        """Return the settings by name, except `address` and `port`; true are those that differ from the defaults."""
        first, *others = self.sockets
        return {
            "tls": first.tls,
            "unix_path": first.unix_path,
            "fd": first.fd is not None,
            "proxy_protocol": first.proxy_protocol,
            "listen()": others,
            "health(port=...)": self.health,
            "metrics(port=...)": self.metrics,
        }

    def replace_first(
        self,
        address: str | None,
        port: int | None,
        tls: TlsArgument | None,
        unix_path: str | os.PathLike[str] | None,
        fd: int | None,
    ) -> None:
        """Change the first socket; see `App.rebind`."""
        first = self.sockets[0]
        is_tcp = address is not None or port is not None
        if is_tcp + (unix_path is not None) + (fd is not None) > 1:
            raise ConfigurationError("choose one of an address and port, unix_path and fd; listen() adds a socket")
        if unix_path is not None or fd is not None:
            path = os.fspath(unix_path) if unix_path is not None else None
            first = replace(first, unix_path=path, fd=fd)
        elif is_tcp:
            address, port = first.address if address is None else address, first.port if port is None else port
            first = replace(first, address=address, port=port, unix_path=None, fd=None)
        if tls is not None:
            first = replace(first, tls=as_server_tls(tls))
        self.sockets[0] = first

    def use_passed(self, fds: Sequence[int]) -> None:
        """Listen on sockets that a service manager has passed, in place of all sockets of the App.

        Further sockets than those of the App have the TLS and the PROXY header of the first one.

        Raises:
            ConfigurationError: the App listens on more sockets.
        """
        first, *others = self.sockets
        if len(fds) < len(self.sockets):
            raise ConfigurationError(
                f"the service manager passes {len(fds)} of the {len(self.sockets)} sockets that the App listens on; "
                "add one to its socket unit for each address of the App"
            )
        settings = [first, *others, *[first] * (len(fds) - len(self.sockets))]
        self.sockets = [replace(one, unix_path=None, fd=fd) for one, fd in zip(settings, fds, strict=True)]

    def add_health(self, address: str, port: int, path: str, *, needs_broker: bool) -> None:
        """Answer health checks on a port of their own; see `App.health`."""
        if self.health is not None:
            raise ConfigurationError("health checks have a port already; there can be one only")
        self.health = HealthPort(ListeningSocket(address=address, port=port), path, needs_broker)

    def add_metrics(self, address: str, port: int, path: str, guard: MetricsGuard | None, encode: Encode) -> None:
        """Answer requests for metrics on a port of their own; see `App.metrics`."""
        if self.metrics is not None:
            raise ConfigurationError("metrics have a port already; there can be one only")
        if guard is None and not is_loopback(address):
            raise ConfigurationError(
                f"metrics on {address} can be read from other machines: write guard=..., or address='127.0.0.1'"
            )
        self.metrics = MetricsPort(ListeningSocket(address=address, port=port), path, guard, encode)

    def use_health_port(self, port: int) -> None:
        """Answer health checks on this port; see `App.configure`."""
        health = self.health or HealthPort(ListeningSocket(), "/health", False)
        self.health = health._replace(listener=replace(health.listener, port=port))


@asynccontextmanager
async def answering_on_own_ports(
    listening: Listening,
    worker: int | None,
    health: Callable[[], Health],
    collect: Callable[[], Awaitable[WorkerStats]],
) -> AsyncIterator[None]:
    """Answer health checks and requests for metrics on ports of their own while the context lasts.

    In a worker the supervisor answers, and the worker only reports its health.

    Args:
        listening: the ports.
        worker: the number of the worker that this process is, or None.
        health: returns the health at the moment.
        collect: returns the numbers for metrics.

    Raises:
        ConfigurationError: a port cannot be used.
    """
    metrics = listening.metrics if worker is None else None
    async with answering_health(listening.health, worker, health), answering_metrics(metrics, collect):
        yield
