"""Running an App: in this process, as a worker, or as the supervisor of workers."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from pywsapp._event_loop import check_no_loop, loop_options
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._limits.message_counts import AllMessageCounts, MessageCounts
from pywsapp._log_fields import log_fields
from pywsapp._process.announcing import announce
from pywsapp._process.app_hooks import AppHooks
from pywsapp._process.background import Hook, call, run_logged, tasks_of_block
from pywsapp._process.collecting import collect_in_turns, collect_stats
from pywsapp._process.file_watch import FileWatch
from pywsapp._process.listening import Listening, answering_on_own_ports
from pywsapp._process.logging import check_log_format, set_up_logging
from pywsapp._process.service_manager import ServiceManager, service_manager
from pywsapp._process.signals import FORCED, run_until_signal
from pywsapp._process.supervising import supervise_app
from pywsapp._process.supervisor import check_workers
from pywsapp._process.urls import port_of, urls_of
from pywsapp._process.worker_context import ORPHAN_SECONDS, WorkerContext, worker_context
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp._server.bind import ListeningSocket, raised_in
from pywsapp._server.proxies import Proxies
from pywsapp._server.server import Server
from pywsapp._server.tls_reload import reloads_on_request
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options
from pywsapp.routing.health import NO_BROKER, OK, STARTING, STOPPING, Health
from pywsapp.sessions.base import SessionStore
from pywsapp.stats import Stats, WorkerStats
from pywsapp.topics.registry import TopicRegistry

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

worker_context()  # early, since a worker can hang, or lose its supervisor, before it has an App

logger = logging.getLogger("pywsapp")

#: Modules whose errors at start-up need no traceback: the address cannot be used, the website does not start.
_SAY_EVERYTHING = ("pywsapp._server.bind", "pywsapp.asgi.site")
#: The seconds that a process has to shut down, in addition to all timeouts.
_SPARE_SECONDS = 2.0
#: The seconds in which the broker accepts the last messages, and in which its connection is closed.
_BROKER_SECONDS = 4.0
#: The seconds for which a worker that is being replaced waits for handshakes that have begun.
_HANDSHAKE_GRACE = 1.0


class Runner:
    """Runs one App: its server, topics, hooks and background tasks. Created by the App.

    Args:
        app: the App, which components see as `conn.app`.
        component: the router of the App.
        topics: the topics of the App.
        http_host: the name or names of the App, for URLs.

    Attributes:
        hooks: its hooks, timers and background tasks.
        worker: the number of the worker that this process is, from 1; None if it is no worker.
        http_host: the name or names of the App.
        limits: the limits of messages, for statistics.
        connection_limits: the limits of its connections.
        watch: the files after whose changes the workers are replaced, also if there is one only.
        session_stores: returns the stores of sessions.
    """

    def __init__(
        self, app: Any, component: MessageComponent, topics: TopicRegistry, http_host: str | Sequence[str]
    ) -> None:
        self._listening = Listening()
        self.hooks = AppHooks()
        context = worker_context()
        self.worker = None if context is None else context.number
        self.http_host = http_host
        self.limits = AllMessageCounts()
        self.connection_limits = ConnectionLimits()
        self._app = app
        self._component = component
        self._topics = topics
        self._proxies = Proxies()
        self._access_log = False
        self.session_stores: Callable[[], Iterable[SessionStore]] = tuple
        self._has_site = False
        self._server: Server | None = None
        self._is_hosted = False
        self._starting: anyio.CancelScope | None = None
        self._stopping = False
        self._context: WorkerContext | None = None
        self._manager = ServiceManager()
        self.watch: FileWatch | None = None

    # -- settings ----------------------------------------------------------------------------------------------------

    def configure(
        self,
        limits: ConnectionLimits | None = None,
        trusted_proxies: Iterable[str] | None = None,
        *,
        access_log: bool | None = None,
        http_host: str | Sequence[str] | None = None,
    ) -> None:
        """Change settings of the server; None keeps a value.

        Raises:
            ConfigurationError: a value is not valid, or the App runs already.
        """
        self.check_not_running()
        if limits is not None:
            self.connection_limits = limits
        if trusted_proxies is not None:
            self._proxies = Proxies(trusted_proxies)
        if access_log is not None:
            self._access_log = access_log
        if http_host is not None:
            self.http_host = http_host

    def check_not_running(self) -> None:
        """Check that the App does not run.

        Raises:
            ConfigurationError: it runs.
        """
        if self._server is not None:
            raise ConfigurationError("this App is running already; configure it before")

    def change_listening(self) -> Listening:
        """Return the sockets that the App listens on, to change them.

        Raises:
            ConfigurationError: the App runs already.
        """
        self.check_not_running()
        return self._listening

    def server_settings(self) -> list[str]:
        """Return the names of the settings that differ from the defaults, except `http_host`, `address` and `port`."""
        found = {
            "options": self._app.options != Options(),
            **self._listening.changed(),
            "trusted_proxies": self._proxies,
            **self.connection_limits.changed(),
            "access_log": self._access_log,
            "broker": self._topics.broker,
            "site()": self._has_site,
        }
        return [name for name, value in found.items() if value]

    def use_site(self, start: Hook, stop: Hook) -> None:
        """Start and stop a website with the App, which then needs its own server."""
        self.hooks.on_startup(start)
        self.hooks.on_shutdown(stop)
        self._has_site = True

    def add_limit(self, counts: MessageCounts, aclose: Hook | None) -> None:
        """Include a limit in `App.stats`, and close what it uses when the App ends."""
        self.limits.add(counts)
        if aclose is not None:
            self.hooks.on_shutdown(aclose)

    def include(self, other: Runner) -> None:
        """Add the hooks, timers and background tasks of another App; neither of the two runs.

        Raises:
            ConfigurationError: one of the two runs.
        """
        if self._server is not None or other._server is not None:
            raise ConfigurationError("an App must be mounted on another App before either of them runs")
        self.hooks.include(other.hooks)

    # -- state -------------------------------------------------------------------------------------------------------

    def health(self, *, needs_broker: bool) -> Health:
        """Return the health of this process.

        Args:
            needs_broker: whether clients should not be sent here while the broker is not connected.
        """
        server, relay = self._server, self._topics.relay
        if self._stopping and not self._is_replaced:  # a worker that replaced this one serves the same port
            status = STOPPING
        elif server is None or not (server.sockets or self._is_hosted):
            status = STARTING
        elif needs_broker and relay is not None and not relay.stats.connected:
            status = NO_BROKER
        else:
            status = OK
        if server is None:
            return Health(status)
        return Health(status, server.connections, server.max_connections, is_shared=server.shares_limit)

    def _own_health(self) -> Health:
        """Return the health for the supervisor, which does not count a worker that was replaced."""
        health = self.health(needs_broker=self._listening.health is not None and self._listening.health.needs_broker)
        return health._replace(status=STOPPING) if self._stopping else health

    def stats(self) -> Stats:
        """Return the numbers of this process."""
        return collect_stats(self._server, self._topics, self.limits, self.session_stores())

    async def stats_in_turns(self, look: Callable[[Sequence[Any]], None] | None = None) -> Stats:
        """Return the numbers of this process, while other tasks run; see `collect_in_turns`."""
        return await collect_in_turns(self._server, self._topics, self.limits, self.session_stores(), look)

    async def worker_stats(self) -> WorkerStats:
        """Return the numbers of all workers together."""
        if self._context is None:
            return WorkerStats(await self.stats_in_turns(), 1, 0)
        return await self._context.stats.ask(self._context.workers)

    @property
    def _is_replaced(self) -> bool:
        return self._context is not None and self._context.replaced.is_set()

    @property
    def has_broker(self) -> bool:
        """Whether topics reach other processes."""
        return self._topics.broker is not None

    @property
    def server(self) -> Server | None:
        """The server, while the App runs."""
        return self._server

    @property
    def port(self) -> int:
        """The TCP port: the port in use while the App runs, the configured one before."""
        return port_of(self._server.addresses if self._server is not None else ()) or self._listening.sockets[0].port

    @property
    def urls(self) -> list[str]:
        """The URLs of the App while it runs."""
        return urls_of(self._server.addresses if self._server is not None else (), self.http_host)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(
        self, backend: str, uvloop: bool | None, workers: int | None, limits: WorkerLimits, log_format: str
    ) -> None:
        """Run the App until a signal; see `App.run`."""
        check_no_loop()
        check_log_format(log_format)
        options = loop_options(backend, uvloop)
        count = check_workers(workers)
        if limits.recycles and count == 1 and self.watch is None:
            raise ConfigurationError(
                "worker_max_age, worker_max_connections and worker_max_memory need more than one worker"
            )
        self._context = worker_context()
        set_up_logging(self.worker, log_format)
        supervised = self._context is not None
        self._manager = ServiceManager() if supervised else service_manager()
        serve = self._serve_alone if self._context is None else functools.partial(self._serve_as_worker, self._context)
        limit = self._shutdown_seconds
        reloads = self._context is None and reloads_on_request(listener.tls for listener in self._listening.sockets)
        reload = self._reload_certificates if reloads else None
        program = functools.partial(run_until_signal, serve, self.stop, limit, reload=reload, supervised=supervised)
        if self._context is not None:
            self._listening.sockets = self._context.adopt(self._listening.sockets)
            self._context.connect(self._topics)
        elif count > 1 or self.watch is not None:
            program = functools.partial(self._supervise, count, limits)
        try:
            was_forced = anyio.run(program, backend=backend, backend_options=options)
        except ConfigurationError as exc:
            if raised_in(exc) not in _SAY_EVERYTHING:
                raise
            raise exc.with_traceback(None) from None  # the message says everything, and the frames are the library's
        finally:
            self._manager = ServiceManager()
        if self._context is not None:
            self._context.wait_for_end()
        if was_forced:
            sys.exit(FORCED)
        if supervised:
            sys.exit()  # the code after `run` is for the supervisor only

    def _shutdown_seconds(self) -> float:
        """Return the seconds that a shutdown takes at most: the drain, the last reports, messages and hooks."""
        options: Options = self._app.options
        hooks = (len(self.hooks.shutdown) + self._topics.occupancy.is_used) * options.drain_timeout
        drain = options.drain_delay + _HANDSHAKE_GRACE + options.drain_timeout + options.on_close_timeout
        return drain + _BROKER_SECONDS + hooks + _SPARE_SECONDS

    def _reload_certificates(self) -> None:
        self._manager.reloading()
        if self._server is not None:
            self._server.reload_certificates()
        self._manager.ready()

    async def _serve_alone(self) -> None:
        """Run the App, and report to a service manager that the event loop runs."""
        async with tasks_of_block() as tasks:
            tasks.start_soon(self._manager.keep_alive)
            await self.serve()

    async def _serve_as_worker(self, context: WorkerContext) -> None:
        """Run the App, and report to the supervisor that the event loop runs."""
        async with tasks_of_block() as tasks:
            tasks.start_soon(context.report_alive, lambda: 0 if self._server is None else self._server.accepted)
            tasks.start_soon(context.follow_ends, self._topics.presence.process_ended)
            tasks.start_soon(context.follow_peers)
            tasks.start_soon(context.stats.run, self.stats_in_turns)
            context.named(self._topics.codec.origin)
            await self.serve()

    async def _supervise(self, workers: int, limits: WorkerLimits) -> bool:
        """Run workers, with a bus between them unless there is a broker; return whether they were cancelled."""
        return await supervise_app(
            self._listening,
            workers,
            limits,
            self._announce,
            self._shutdown_seconds(),
            self._app.options,
            self._manager,
            self.watch,
            has_bus=self._topics.broker is None,
        )

    def _announce(self, addresses: Iterable[tuple[ListeningSocket, str]], workers: str = "") -> None:
        announce(self._component, self.http_host, addresses, workers)

    async def serve(
        self,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
        is_hosted: bool = False,
        in_test: bool = False,
    ) -> None:
        """Run the App inside a running event loop; see `App.serve`.

        Args:
            task_status: told when the App listens.
            is_hosted: do not listen, since an ASGI server does, or a test.
            in_test: do without a health port, and without the watchdog, which needs a processor of its own.
        """
        if self._server is not None:
            raise ConfigurationError("this App is running already")
        if self._has_site and is_hosted and not in_test:
            raise ConfigurationError(
                "an App with app.site() needs its own server, app.run(): on an ASGI server mount the App in the site"
            )
        if self._stopping:  # `stop` came first, for instance since this task had to wait for its turn
            self._stopping = False
            logger.info("the App was stopped before it ran", extra=log_fields("server.not_started"))
            task_status.started()
            return
        self._server = server = self._make_server(has_watchdog=not in_test)
        self._is_hosted = is_hosted
        self.hooks.background.prepare()

        async def started(tasks: TaskGroup) -> None:
            self.hooks.background.begin(tasks)
            if self._context is not None:
                self._context.listening()
            elif not is_hosted:
                self._announce(server.addresses)
            self._manager.ready()
            task_status.started()

        try:
            own_ports = Listening() if in_test else self._listening
            async with (
                answering_on_own_ports(own_ports, self.worker, self._own_health, self.worker_stats),
                self._topics.running(),
            ):
                try:
                    await self._run_startup_hooks()
                    if self._stopping:
                        task_status.started()  # the caller does not wait any more
                    else:
                        await server.run([] if is_hosted else self._listening.sockets, started)
                finally:
                    self.hooks.background.end()
                    with anyio.CancelScope(shield=True):
                        await self._run_shutdown_hooks()
        finally:
            self.hooks.background.reset()
            if self._context is not None:
                self._context.stats.report_last(self.stats())
            self._server = None
            self._stopping = self.hooks.has_started = False

    async def _run_startup_hooks(self) -> None:
        """Run the startup hooks until one of them, or another task, calls `stop`."""
        with anyio.CancelScope() as self._starting:
            for hook in self.hooks.startup:
                if not self._stopping:
                    await call(hook)
        self._starting = None
        self.hooks.has_started = True

    def _make_server(self, *, has_watchdog: bool) -> Server:
        return Server(
            self._component,
            self._app.options,
            self.connection_limits,
            self._proxies,
            0 if self._context is None else _HANDSHAKE_GRACE,
            access_log=self._access_log,
            app=self._app,
            has_watchdog=has_watchdog,
            is_probe=getattr(self._component, "is_probe", lambda request: False),
            timed=(self.limits,),
            count=self._context.count if self._context is not None and self.connection_limits.max_connections else None,
            counting=None if self._context is None else self._context.counting(),
            users=self._topics.users,
            measures=self._topics.measures,
            trace_hooks=self._topics.trace_hooks,
        )

    async def _run_shutdown_hooks(self) -> None:
        with anyio.move_on_after(self._app.options.drain_timeout):
            await self._topics.occupancy.finish()
        for hook in self.hooks.shutdown:
            with anyio.move_on_after(self._app.options.drain_timeout):
                await run_logged(hook)

    def stop(self) -> None:
        """Begin to drain; see `App.stop`."""
        if not self._stopping:
            if self._context is not None:
                self._context.stopping(self._shutdown_seconds())
            self._manager.stopping()
            if self._server is not None:
                self._topics.drain(self._app.options.drain_delay)
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            is_orphaned = self._context is not None and self._context.orphaned.is_set()
            self._server.stop(
                replaced=self._is_replaced or is_orphaned, drain_timeout=ORPHAN_SECONDS / 2 if is_orphaned else None
            )
