"""Running an App: in this process, as a worker, or as the supervisor of workers."""

from __future__ import annotations

import functools
import logging
import os
import ssl
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskStatus

from pywsapp._compiled import build_hint
from pywsapp._event_loop import check_no_loop, loop_name, loop_options
from pywsapp._process.background import Background, Hook, HookT, call, run_logged
from pywsapp._process.logging import set_up_logging
from pywsapp._process.signals import FORCED, run_until_signal
from pywsapp._process.supervisor import check_workers, supervise
from pywsapp._process.worker_context import WorkerContext, worker_context
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.proxies import Proxies
from pywsapp._server.server import Server
from pywsapp._server.tls import as_server_context
from pywsapp._signatures import check_takes, name_of
from pywsapp._version import __version__
from pywsapp.brokers.local.broker import LocalBroker
from pywsapp.brokers.local.router import BusRouter
from pywsapp.component import MessageComponent
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options
from pywsapp.topics.registry import TopicRegistry

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Tls = ssl.SSLContext | str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
logger = logging.getLogger("pywsapp")

#: The seconds that a process has to shut down, in addition to the timeouts for connections and shutdown hooks.
_SPARE_SECONDS = 2.0
#: The seconds for which a worker that is being replaced waits for handshakes that have begun.
_HANDSHAKE_GRACE = 1.0
#: Addresses that a URL shows as the name of the App.
_ALL_OR_LOOPBACK = ("127.0.0.1", "[::1]", "0.0.0.0", "[::]")


class Runner:
    """Runs one App: its server, topics, hooks and background tasks. Created by the App.

    Args:
        app: the App, which components see as `conn.app`.
        component: the router of the App.
        topics: the topics of the App.
        options: the options of the App.
        http_host: the name or names of the App, for URLs.

    Attributes:
        listeners: the sockets that the App listens on; the first one is that of the App's arguments.
        startup: the startup hooks.
        shutdown: the shutdown hooks.
        background: the timers and background tasks.
        worker: the number of the worker that this process is, from 1; None if it is no worker.
        http_host: the name or names of the App.
    """

    def __init__(
        self,
        app: Any,
        component: MessageComponent,
        topics: TopicRegistry,
        options: Options,
        http_host: str | Sequence[str],
    ) -> None:
        self.listeners: list[ListeningSocket] = []
        self.startup: list[Hook] = []
        self.shutdown: list[Hook] = []
        self.background = Background()
        context = worker_context()
        self.worker = None if context is None else context.number
        self.http_host = http_host
        self._app = app
        self._component = component
        self._topics = topics
        self._options = options
        self._max_connections: int | None = None
        self._proxies = Proxies()
        self._access_log = False
        self._server: Server | None = None
        self._starting: anyio.CancelScope | None = None
        self._stopping = False
        self._context: WorkerContext | None = None

    # -- settings ----------------------------------------------------------------------------------------------------

    def configure(
        self,
        max_connections: int | None = None,
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
        if max_connections is not None:
            if max_connections < 1:
                raise ConfigurationError(
                    f"max_connections must be 1 or more, not {max_connections!r}; leave it out for all"
                )
            self._max_connections = max_connections
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

    def listen(
        self,
        address: str,
        port: int,
        tls: Tls | None,
        unix_path: str | os.PathLike[str] | None,
        fd: int | None,
        *,
        proxy_protocol: bool,
    ) -> None:
        """Listen on an additional socket; see `App.listen`."""
        self.check_not_running()
        self.listeners.append(
            ListeningSocket(
                address=address,
                port=port,
                unix_path=os.fspath(unix_path) if unix_path is not None else None,
                fd=fd,
                tls=as_server_context(tls) if tls is not None else None,
                proxy_protocol=proxy_protocol,
            )
        )

    def rebind(
        self,
        address: str | None,
        port: int | None,
        tls: Tls | None,
        unix_path: str | os.PathLike[str] | None,
        fd: int | None,
    ) -> None:
        """Change the first listening socket; see `App.rebind`."""
        self.check_not_running()
        first = self.listeners[0]
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
            first = replace(first, tls=as_server_context(tls))
        self.listeners[0] = first

    def server_settings(self) -> list[str]:
        """Return the names of the settings that differ from the defaults, except `http_host`, `address` and `port`."""
        first, *others = self.listeners
        found = {
            "options": self._options != Options(),
            "tls": first.tls,
            "unix_path": first.unix_path,
            "fd": first.fd is not None,
            "proxy_protocol": first.proxy_protocol,
            "listen()": others,
            "trusted_proxies": self._proxies,
            "max_connections": self._max_connections,
            "access_log": self._access_log,
            "broker": self._topics.broker,
        }
        return [name for name, value in found.items() if value]

    def add_hook(self, hook: HookT, hooks: list[Hook]) -> HookT:
        """Add a startup or shutdown hook, and return it.

        Raises:
            ConfigurationError: it is no function without arguments.
        """
        check_takes(hook, (), name_of(hook))
        hooks.append(hook)
        return hook

    def include(self, other: Runner) -> None:
        """Add the hooks, timers and background tasks of another App; neither of the two runs.

        Raises:
            ConfigurationError: one of the two runs.
        """
        if self._server is not None or other._server is not None:
            raise ConfigurationError("an App must be mounted on another App before either of them runs")
        self.startup += other.startup
        self.shutdown += other.shutdown
        self.background.include(other.background)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def is_shutting_down(self) -> bool:
        """Whether health checks fail: the App was stopped, and no other worker has replaced this one."""
        return self._stopping and not self._is_replaced

    @property
    def _is_replaced(self) -> bool:
        return self._context is not None and self._context.replaced.is_set()

    @property
    def port(self) -> int:
        """The TCP port: the port in use while the App runs, the configured one before."""
        if self._server is not None:
            for _, address in self._server.addresses:
                if not address.startswith("unix:"):
                    return int(address.rpartition(":")[2])
        return self.listeners[0].port

    @property
    def urls(self) -> list[str]:
        """The URLs of the App while it runs."""
        return urls_of(self._server.addresses if self._server is not None else (), self.http_host)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, backend: str, uvloop: bool | None, workers: int | None) -> None:
        """Run the App until a signal; see `App.run`."""
        check_no_loop()
        options = loop_options(backend, uvloop)
        count = check_workers(workers)
        self._context = worker_context()
        set_up_logging(self.worker)
        limit = 2 * self._options.drain_timeout + self._options.on_close_timeout + _SPARE_SECONDS
        limit += self._options.drain_delay
        supervised = self._context is not None
        program = functools.partial(run_until_signal, self.serve, self.stop, limit, supervised=supervised)
        if self._context is not None:
            self.listeners = self._context.adopt(self.listeners)
            if self._context.bus is not None and self._topics.broker is None:
                self._topics.broker = LocalBroker(self._context.bus)
        elif count > 1:
            program = functools.partial(self._supervise, count, limit)
        try:
            was_forced = anyio.run(program, backend=backend, backend_options=options)
        except ConfigurationError as exc:
            if not _is_raised_by_bind(exc):
                raise
            raise exc.with_traceback(None) from None  # the message says everything, and the frames are the library's
        if was_forced:
            sys.exit(FORCED)
        if supervised:
            sys.exit()  # the code after `run` is for the supervisor only

    async def _supervise(self, workers: int, limit: float) -> bool:
        """Run workers, with a bus between them unless there is a broker; return whether they were cancelled."""
        limits = self._options.max_histories, self._options.max_history_bytes
        router = BusRouter(max_histories=limits[0], max_history_bytes=limits[1])
        failure: BaseException | None = None
        was_forced = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(router.expire_histories)
            try:
                attach = router.attach if self._topics.broker is None else None
                was_forced = await supervise(self.listeners, workers, self._announce, limit, attach)
            except (Exception, SystemExit) as exc:
                failure = exc  # raised below, not wrapped in a group
            finally:
                router.close()
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return was_forced

    def _announce(self, addresses: Iterable[tuple[ListeningSocket, str]], workers: str = "") -> None:
        urls = " ".join(urls_of(addresses, self.http_host))
        hint = f" ({hint})" if (hint := build_hint()) else ""
        logger.info("pywsapp %s%s on %s: %s%s", __version__, workers, loop_name(), urls, hint)

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the App inside a running event loop; see `App.serve`."""
        if self._server is not None:
            raise ConfigurationError("this App is running already")
        self._server = server = self._make_server()
        self._stopping = False
        self.background.prepare()

        async def started(tasks: TaskGroup) -> None:
            self.background.begin(tasks)
            if self._context is not None:
                self._context.listening()
            else:
                self._announce(server.addresses)
            task_status.started()

        try:
            async with self._topics.running():
                with anyio.CancelScope() as self._starting:
                    for hook in self.startup:
                        await call(hook)
                self._starting = None
                if not self._stopping:
                    await server.run(self.listeners, started)
        finally:
            self.background.end()
            self._starting = None
            with anyio.CancelScope(shield=True):
                await self._run_shutdown_hooks()
            self.background.reset()
            self._server = None

    def _make_server(self) -> Server:
        return Server(
            self._component,
            self._options,
            self._max_connections,
            self._proxies,
            0 if self._context is None else _HANDSHAKE_GRACE,
            access_log=self._access_log,
            app=self._app,
        )

    async def _run_shutdown_hooks(self) -> None:
        for hook in self.shutdown:
            with anyio.move_on_after(self._options.drain_timeout):
                await run_logged(hook)

    def stop(self) -> None:
        """Begin to drain; see `App.stop`."""
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.stop(replaced=self._is_replaced)


def _is_raised_by_bind(exc: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
    return frame.f_globals.get("__name__") == ListeningSocket.__module__


def urls_of(addresses: Iterable[tuple[ListeningSocket, str]], http_host: str | Sequence[str]) -> list[str]:
    """Return URLs such as "http://localhost:8080" and "unix:/run/chat.sock", without duplicates.

    Args:
        addresses: listeners with their addresses, `host:port` or `unix:path`.
        http_host: the name or names of the App; the first one replaces addresses that are no use to a client.
    """
    name = http_host if isinstance(http_host, str) else http_host[0]
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    urls = []
    for listener, address in addresses:
        if address.startswith("unix:"):
            urls.append(address)
            continue
        host, _, port = address.rpartition(":")
        if host in _ALL_OR_LOOPBACK and "*" not in name:
            host = name
        urls.append(f"{'http' if listener.tls is None else 'https'}://{host}:{port}")
    return list(dict.fromkeys(urls))


_imported_module: str | None = None


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Make `check_not_importing` raise: the command line imports a module, and runs its App afterwards."""
    global _imported_module
    _imported_module = module
    try:
        yield
    finally:
        _imported_module = None


def check_not_importing(call: str) -> None:
    """Check that the command line does not import a module at the moment.

    Args:
        call: what the module calls, such as "app.run()".

    Raises:
        ConfigurationError: it does, so the module would run the App while it is imported.
    """
    if _imported_module is not None:
        raise ConfigurationError(
            f"the module {_imported_module!r} calls {call} while `pywsapp run` imports it; "
            f'put the call under `if __name__ == "__main__":`'
        )
