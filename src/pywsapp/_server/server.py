"""The server: it runs one component on any number of listening sockets, and drains when it stops."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._lifecycle.lifetime import IDLE_TIMEOUT, MAX_CONNECTION_AGE
from pywsapp._lifecycle.subscriptions import MAX_TOPICS
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._limits.over_limit import OverLimit
from pywsapp._limits.report import LimitReport
from pywsapp._log_fields import log_fields
from pywsapp._messages.conversation import INVALID_MESSAGES
from pywsapp._server.accept import serve_sockets
from pywsapp._server.admission import Admission, Counting
from pywsapp._server.bind import ListeningSocket, address_of, bind
from pywsapp._server.connection_log import ConnectionLog
from pywsapp._server.counts import ServerCounts
from pywsapp._server.http_connection import HttpConnection
from pywsapp._server.loop_lag import measure_loop_lag
from pywsapp._server.pending import MAX_PENDING, PendingConnection, PendingConnections
from pywsapp._server.proxies import Proxies
from pywsapp._server.runtime import Runtime, Timed, end_one
from pywsapp._server.tls_reload import CertificateWatch
from pywsapp._server.watchdog import Watchdog
from pywsapp._trace_hooks import TraceHooks
from pywsapp.close_codes import CloseCode
from pywsapp.exceptions import Refuse

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskGroup

    from pywsapp.component import MessageComponent
    from pywsapp.http import Request
    from pywsapp.options import Options
    from pywsapp.topics.users.service import UserService

logger = logging.getLogger("pywsapp")


class ConnectionCount(Protocol):
    """The number of connections of several processes."""

    def update(self, own: int) -> int:
        """Set the number of connections of this process; return that of all processes."""


#: File descriptors that are not used for connections, but for refusals, files and the program's other sockets.
_RESERVED_FILES = 64
#: Bytes. When a block of this size is freed, glibc keeps as much memory for the next messages. Without it, every large
#: message pays for page faults again, which cost several times as much as the message.
_KEPT_BY_MALLOC = 8 * 1024 * 1024
#: The limits: what happens above each, for the log, and the level of its lines.
_REPORTS = {
    "max_connections": ("refused a request above max_connections of the App", logging.WARNING),
    "max_handshakes_per_second": ("refused a handshake above max_handshakes_per_second of the App", logging.WARNING),
    "max_connections_per_address": ("refused a handshake above max_connections_per_address", logging.WARNING),
    "max_connections_per_user": ("a user has reached max_connections_per_user", logging.WARNING),
    "max_waiting": ("dropped a connection without a token, because too many connections wait for one", logging.WARNING),
    MAX_TOPICS: ("refused a topic above Options.max_topics", logging.WARNING),
    MAX_CONNECTION_AGE: ("closed a connection that has reached Options.max_connection_age", logging.INFO),
    IDLE_TIMEOUT: ("closed a connection after Options.idle_timeout", logging.INFO),
    INVALID_MESSAGES: ("received an invalid message", logging.WARNING),
    "untrusted_proxy": (
        "refused a private address again and again: if a proxy has it, add it to trusted_proxies of the App",
        logging.WARNING,
    ),
}
_DRAIN_BATCH = 100
#: Seconds after which a client should come again if there are too many connections, at most.
_RETRY_SECONDS = 10
_DRAIN_PAUSE = 0.05  # seconds between two batches, on average
#: Seconds between two checks for unfinished handshakes. The first check comes after a pause too, because sockets that
#: were accepted just now are not in `Runtime.connections` yet.
_HANDSHAKE_CHECK_INTERVAL = 0.05


class Server:
    """Run a component on listening sockets.

    Args:
        component: handles every handshake and request; usually a router.
        options: the limits of connections, unless the component returns other options.
        limits: the limits of handshakes and connections. By default the limit of open files decides.
        proxies: the proxies and load balancers that the server trusts; by default none.
        handshake_grace: seconds that a drain waits for the handshakes of accepted connections. They are not refused
            while another process already accepts on the same sockets.
        app: becomes `Request.app`; the server does not use it.
        access_log: whether to write one INFO line for each finished request, WebSocket and event stream to the logger
            `pywsapp.access`.
        is_probe: returns whether a plain request is answered although the server has too many connections or drains.
        has_watchdog: whether a thread reports handlers that block the event loop.
        count: the connections of all processes, which `max_connections` limits; None if there is only this process.
        timed: further objects whose `tick` is called about once a second.
        counting: what the limits of handshakes, addresses and users count with.
        users: the connections of each user; None if there is no App.
        measures: whether to measure the time of handlers, of pings and of the event loop.
        trace_hooks: traces the requests; None without `pywsapp.telemetry`.

    Attributes:
        admission: the limits of handshakes, addresses and users; None if there are none.
        reports: how often each limit was exceeded, by its name.
        accepted: the number of connections since the start.
        counts: what happened since the start.
        pending: the connections without an admitted request.
        sockets: the listening sockets.
        addresses: the listening addresses, each as `host:port` or `unix:path`; kept after the server has stopped.
    """

    def __init__(
        self,
        component: MessageComponent,
        options: Options,
        limits: ConnectionLimits | None = None,
        proxies: Proxies | None = None,
        handshake_grace: float = 0,
        *,
        app: Any = None,
        access_log: bool = False,
        is_probe: Callable[[Request], bool] = lambda request: False,
        has_watchdog: bool = True,
        count: ConnectionCount | None = None,
        timed: Sequence[Timed] = (),
        counting: Counting | None = None,
        users: UserService | None = None,
        measures: bool = False,
        trace_hooks: TraceHooks | None = None,
    ) -> None:
        limits = limits or ConnectionLimits()
        self.app = app
        self.counts = ServerCounts(measures=measures)
        self._count = count
        self._trace_hooks = trace_hooks
        self.connection_log = ConnectionLog(access_log, is_probe, trace_hooks)
        self.component = component
        self.options = options
        self.proxies = proxies or Proxies()
        self.is_probe = is_probe
        self._has_watchdog = has_watchdog
        self.runtime = Runtime(options, self._connection_ended, on_disconnected=self._connection_lost, users=users)
        files = _connections_allowed()
        self.max_connections = limits.max_connections or files
        self.pending = PendingConnections(
            options, min(limits.max_pending or MAX_PENDING, files), lambda: self.runtime.open_connections, files
        )
        self.runtime.timed = (self.pending, self, *timed)
        self.reports = self.runtime.reports = make_reports()
        self.admission: Admission | None = None
        if limits.limits_handshakes:
            self.admission = Admission(limits, counting or Counting(), self.proxies, self.reports)
            self.runtime.on_user_changed = self.admission.user_changed
        self.draining = False
        self.accepted = 0
        self.sockets: list[socket.socket] = []
        self.addresses: list[tuple[ListeningSocket, str]] = []
        self._stop: anyio.Event | None = None
        self._certificates: CertificateWatch | None = None
        self._handshake_grace = handshake_grace
        self._replaced = False
        self._drain_timeout = options.drain_timeout
        self._date = (0, "")  # a Unix time and the Date field's value for it

    async def run(
        self, listeners: Sequence[ListeningSocket], started: Callable[[TaskGroup], Awaitable[None]] | None = None
    ) -> None:
        """Listen and serve until `stop` is called and the drain is over, or until cancelled.

        Args:
            listeners: the addresses to listen on.
            started: awaited when all of them listen, with a task group that is cancelled when the server ends.

        Raises:
            ConfigurationError: an address cannot be used; the message says why.
        """
        self._stop = anyio.Event()
        self.draining = False
        if self._trace_hooks is not None:
            self.component = self._trace_hooks.around_component(self.component, self.is_probe)
        bytes(_KEPT_BY_MALLOC)
        with ExitStack() as opened:
            bound: list[tuple[ListeningSocket, list[socket.socket]]] = []
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
                    self._make_connection,
                    transports,
                    pending=self.pending,
                    handshake_timeout=self.options.handshake_timeout,
                    on_accept_error=self._log_accept_error,
                    backlog=listener.backlog,
                    greet=self.proxies.receive_header if listener.proxy_protocol else None,
                )
                for listener, sockets in bound
            ]
            if self._has_watchdog:
                transports.start_soon(Watchdog().run)
            if self.counts.loop_lag is not None:
                transports.start_soon(measure_loop_lag, self.counts.loop_lag)
            self._certificates = CertificateWatch([listener.tls for listener, _ in bound])
            if self._certificates:
                transports.start_soon(self._certificates.run)
            try:
                if started is not None:
                    await started(transports)
                assert self._stop is not None
                await self._stop.wait()
                if not self._replaced:
                    await self._delay()
                for serving in servings:
                    serving.stop_accepting()
                if self._handshake_grace:
                    await self._finish_handshakes()
            finally:
                self.draining = True
                for serving in servings:
                    serving.stop_accepting()
            await self._drain()

        await self.runtime.run(body)

    def stop(self, *, replaced: bool = False, drain_timeout: float | None = None) -> None:
        """Stop accepting, after `Options.drain_delay`, and drain; `run` returns when that is over.

        Args:
            replaced: another process accepts on the same sockets, so the server stops accepting without the delay.
            drain_timeout: seconds for the drain, instead of `Options.drain_timeout`.
        """
        self._replaced = replaced
        self._drain_timeout = drain_timeout or self.options.drain_timeout
        if self._stop is not None:
            self._stop.set()

    def reload_certificates(self) -> None:
        """Load the files of the certificates again, in a thread; does not block."""
        if self._certificates is not None:
            self._certificates.reload_now()

    @property
    def shares_limit(self) -> bool:
        """Whether `max_connections` limits the connections of all processes together."""
        return self._count is not None

    @property
    def connections(self) -> int:
        """The connections that count against `max_connections`, in all processes that share this limit."""
        number = self.pending.admitted
        return number if self._count is None else self._count.update(number)

    def check_capacity(self) -> None:
        """Refuse a request or handshake if the server drains or has too many connections.

        Raises:
            Refuse: with 503.
        """
        self.check_not_draining()
        number = self.pending.admitted
        total = number + 1 if self._count is None else self._count.update(number + 1)
        if total > self.max_connections:
            if self._count is not None:
                self._count.update(number)
            self.reports["max_connections"].exceeded(f"{self.max_connections} are open", time.monotonic())
            seconds = random.randint(1, _RETRY_SECONDS)  # at random, so that clients do not come again all at once
            raise OverLimit(503, [("Retry-After", str(seconds))], "the server has too many connections")

    def check_not_draining(self) -> None:
        """Refuse a request or handshake if the server drains.

        Raises:
            Refuse: with 503.
        """
        if self.draining:
            raise Refuse(503, [("Retry-After", "1")], "the server is restarting")

    def date(self) -> str:
        """Return the value of the Date header field, which is formatted once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    def _make_connection(self, pending: PendingConnection | None = None) -> HttpConnection:
        self.accepted += 1
        return HttpConnection(self, pending)

    def _connection_ended(self, connection: object) -> None:
        if self._count is not None:
            self._count.update(self.pending.admitted)
        if isinstance(connection, Lifecycle):
            if connection.machine.limit is not None:
                self.counts.closed_by_limit[connection.machine.limit] += 1
            connection._ws.traffic.ended(connection.conn.close_code)
            self.connection_log.closed(connection.conn)
            self._connection_lost(connection)
            lifetime = connection.lifetime
            if lifetime is not None and lifetime.exceeded is not None:
                self.reports[lifetime.exceeded].exceeded(connection.conn, time.monotonic())

    def _connection_lost(self, connection: Lifecycle) -> None:
        """Note that the transport of a WebSocket is lost, while its handlers may still run."""
        if self.admission is not None:
            self.admission.release(connection.conn.request)

    def tick(self, now: float) -> None:
        """Write the log lines of limits that are due.

        Args:
            now: seconds of the event loop's clock, which is not that of the reports.
        """
        for report in self.reports.values():
            report.tick(time.monotonic())

    def _log_accept_error(self, exc: OSError) -> None:
        assert self._stop is not None
        if not (self.draining or self._stop.is_set()):  # a stop closes sockets during a call of accept
            logger.warning(
                "accepting a connection failed, trying again: %s",
                exc,
                extra=log_fields("server.accept_failed", error=str(exc)),
            )

    async def _delay(self) -> None:
        """Continue to accept until load balancers have seen the failing health check."""
        if self.options.drain_delay:
            logger.info(
                "accepting connections for %g s more",
                self.options.drain_delay,
                extra=log_fields("server.drain_delayed", duration_seconds=self.options.drain_delay),
            )
            await anyio.sleep(self.options.drain_delay)

    async def _finish_handshakes(self) -> None:
        """Wait until the accepted connections have finished their handshakes, or the grace period is over."""
        with anyio.move_on_after(self._handshake_grace):
            while True:
                await anyio.sleep(_HANDSHAKE_CHECK_INTERVAL)
                has_http = any(isinstance(connection, HttpConnection) for connection in self.runtime.connections)
                if not (self.pending or has_http):
                    return

    async def _drain(self) -> None:
        """Close every connection with 1012, in batches with pauses, so the clients do not reconnect all at once."""
        connections = list(self.runtime.connections)
        open_connections = [connection for connection in connections if isinstance(connection, Lifecycle)]
        for connection in connections:
            if isinstance(connection, HttpConnection):
                end_one(connection.stop)
        if open_connections:
            logger.info(
                "draining %d connections",
                len(open_connections),
                extra=log_fields("server.draining", count=len(open_connections)),
            )
        random.shuffle(open_connections)
        pause = min(_DRAIN_PAUSE, self._drain_timeout / 2 / (len(open_connections) / _DRAIN_BATCH + 1))
        with anyio.move_on_after(self._drain_timeout) as scope:
            for start in range(0, len(open_connections), _DRAIN_BATCH):
                for connection in open_connections[start : start + _DRAIN_BATCH]:
                    end_one(connection.conn.close, CloseCode.SERVICE_RESTART, "service restart")
                await anyio.sleep(random.uniform(0, 2 * pause))
            await self.runtime.wait_empty()
        if scope.cancelled_caught:
            logger.warning(
                "%d connections did not end in time and are aborted",
                len(self.runtime.connections),
                extra=log_fields("server.drain_timed_out", count=len(self.runtime.connections)),
            )


def make_reports() -> dict[str, LimitReport]:
    """Return new reports of all limits, by their names."""
    return {name: LimitReport(text, level=level, limit=name) for name, (text, level) in _REPORTS.items()}


def _connections_allowed() -> int:
    if resource is None:
        return 10_000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(soft - _RESERVED_FILES, soft // 2)
