"""The server: one component on any number of listeners, and its end in good order."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import anyio

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._server.accept import serve_sockets
from pywsapp._server.bind import ListeningSocket, address_of, bind
from pywsapp._server.http_connection import HttpConnection
from pywsapp._server.proxies import Proxies
from pywsapp._server.runtime import Runtime
from pywsapp._server.watchdog import Watchdog
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import Refuse

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskGroup

    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp.component import MessageComponent
    from pywsapp.options import Options

logger = logging.getLogger("pywsapp")

#: File descriptors that are left for refusals, files and whatever else the program opens.
_RESERVED_FILES = 64
#: Freed once, a block of this size tells glibc to keep as much for the next messages; else each large one costs its
#: memory's page faults anew, several times what is done with it.
_KEPT_BY_MALLOC = 8 * 1024 * 1024
_DRAIN_BATCH = 100
_DRAIN_PAUSE = 0.05
#: How often it is looked whether handshakes have ended; first, for what was accepted just now is no connection yet.
_LOOK_SECONDS = 0.05


class Server:
    """Runs a component on listeners.

    Args:
        component: takes every handshake and request; usually a router.
        options: the limits of connections that the component does not set others for.
        max_connections: above it handshakes are answered with 503; by default what the limit of open files allows.
        proxies: whose word is taken about where a connection comes from; nobody's by default.
        patience: seconds for which a drain waits for handshakes of what was accepted before, so that nobody is refused
            while somebody else accepts on the same sockets already.

    Attributes:
        sockets: what it listens on.
        addresses: where it listens, each as `host:port` or `unix:path`; kept when it no longer does.
    """

    def __init__(
        self,
        component: MessageComponent,
        options: Options,
        max_connections: int | None = None,
        proxies: Proxies | None = None,
        patience: float = 0,
        access_log: bool = False,
        app: Any = None,
    ) -> None:
        self.component = component
        self.options = options
        self.proxies = proxies or Proxies()
        self.runtime = Runtime(options)
        self.max_connections = max_connections or _connections_allowed()
        self.draining = False
        self.sockets: list[socket.socket] = []
        self.addresses: list[tuple[ListeningSocket, str]] = []
        self._stop: anyio.Event | None = None
        self._patience = patience
        self._in_haste = False
        self._date = (0, "")

    async def run(
        self, listeners: Sequence[ListeningSocket], started: Callable[[TaskGroup], Awaitable[None]] | None = None
    ) -> None:
        """Listen and serve until `stop` is called and the drain is over, or until cancelled.

        Args:
            listeners: where to listen.
            started: awaited when all of them listen, with a task group whose tasks end with the server.

        Raises:
            ConfigurationError: listening is not possible.
        """
        self._stop = anyio.Event()
        self.draining = False
        bytes(_KEPT_BY_MALLOC)
        with ExitStack() as opened:
            bound = []
            for listener in listeners:
                sockets = bind(listener)
                for sock in sockets:
                    opened.callback(sock.close)
                bound.append((listener, sockets))
            self.sockets = [sock for _, sockets in bound for sock in sockets]
            self.addresses = [(listener, address_of(sock)) for listener, sockets in bound for sock in sockets]
            await self._serve(bound, started)

    async def _serve(
        self,
        bound: Sequence[tuple[ListeningSocket, list[socket.socket]]],
        started: Callable[[TaskGroup], Awaitable[None]] | None,
    ) -> None:
        async def body(transports: TaskGroup) -> None:
            servings = [
                await serve_sockets(
                    sockets,
                    listener.tls,
                    self._make_link,
                    transports,
                    handshake_timeout=self.options.handshake_timeout,
                    on_accept_error=self._accept_failed,
                    backlog=listener.backlog,
                    greet=self.proxies.receive_header if listener.proxy_protocol else None,
                )
                for listener, sockets in bound
            ]
            transports.start_soon(Watchdog().run)
            try:
                if started is not None:
                    await started(transports)
                assert self._stop is not None
                await self._stop.wait()
                if not self._in_haste:
                    await self._delay()
                for serving in servings:
                    serving.stop_accepting()
                if self._patience:
                    await self._finish_handshakes(unseen=any(listener.tls is not None for listener, _ in bound))
            finally:
                self.draining = True
                for serving in servings:
                    serving.stop_accepting()
            await self._drain()

        await self.runtime.run(body)

    def stop(self, *, replaced: bool = False) -> None:
        """Stop accepting, after `Options.drain_delay`, and drain; `run` returns when that is over.

        Args:
            replaced: somebody else accepts on the same sockets, so that there is nothing to wait for.
        """
        self._in_haste = replaced
        if self._stop is not None:
            self._stop.set()

    def check_room(self) -> None:
        """Refuse if there is no room for another connection.

        Raises:
            Refuse: with 503.
        """
        if self.draining:
            raise Refuse(503, [("Retry-After", "1")], "the server is restarting")
        if len(self.runtime.connections) > self.max_connections:
            raise Refuse(503, [("Retry-After", "5")], "the server has too many connections")

    def date(self) -> str:
        """Give the Date field's value, made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    def _make_link(self, header: ProxyHeader | None = None) -> HttpConnection:
        return HttpConnection(self, header)

    def _accept_failed(self, exc: OSError) -> None:
        assert self._stop is not None
        if not (self.draining or self._stop.is_set()):  # a socket may be closed while somebody accepts
            logger.warning("accepting a connection failed, trying again: %s", exc)

    async def _delay(self) -> None:
        """Go on as before for the time that balancers need to notice that the health check fails."""
        if self.options.drain_delay:
            logger.info("accepting connections for %g s more", self.options.drain_delay)
            await anyio.sleep(self.options.drain_delay)

    async def _finish_handshakes(self, *, unseen: bool) -> None:
        """Wait for handshakes that have begun; in full if some cannot be seen, as those of TLS."""
        with anyio.move_on_after(self._patience):
            while True:
                await anyio.sleep(_LOOK_SECONDS)
                if not unseen and not any(
                    isinstance(connection, HttpConnection) for connection in self.runtime.connections
                ):
                    return

    async def _drain(self) -> None:
        """Close every connection with 1012, spread over a while so that not all clients reconnect at once."""
        connections = list(self.runtime.connections)
        open_connections = [connection for connection in connections if isinstance(connection, Lifecycle)]
        for connection in connections:
            if isinstance(connection, HttpConnection):
                connection.stop()
        if open_connections:
            logger.info("draining %d connections", len(open_connections))
        random.shuffle(open_connections)
        pause = min(_DRAIN_PAUSE, self.options.drain_timeout / 2 / (len(open_connections) / _DRAIN_BATCH + 1))
        with anyio.move_on_after(self.options.drain_timeout) as scope:
            for start in range(0, len(open_connections), _DRAIN_BATCH):
                for connection in open_connections[start : start + _DRAIN_BATCH]:
                    connection.conn.close(CloseCode.SERVICE_RESTART, "service restart")
                await anyio.sleep(random.uniform(0, 2 * pause))
            await self.runtime.wait_empty()
        if scope.cancelled_caught:
            logger.warning("%d connections did not end in time and are cut off", len(self.runtime.connections))


def _connections_allowed() -> int:
    if resource is None:
        return 10_000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(soft - _RESERVED_FILES, soft // 2)
