"""The App: routes, listeners, timers and hooks behind one name (Ratchet's App)."""

from __future__ import annotations

import functools
import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import TaskStatus

from pywsapp._background import Background, Hook, call, run_logged
from pywsapp._compiled import build_hint
from pywsapp._event_loop import check_no_loop, loop_name, loop_options
from pywsapp._process.logging import set_up_logging
from pywsapp._process.signals import FORCED, run_until_signal
from pywsapp._process.supervisor import check_workers, supervise
from pywsapp._process.worker_context import WorkerContext, worker_context
from pywsapp._routes import Routes
from pywsapp._server.bind import ListeningSocket
from pywsapp._server.proxies import Proxies
from pywsapp._server.server import Server
from pywsapp._server.tls import as_server_context
from pywsapp._version import __version__
from pywsapp.brokers.base import Broker
from pywsapp.brokers.local.broker import LocalBroker
from pywsapp.brokers.local.router import BusRouter
from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options
from pywsapp.routing.endpoints import health
from pywsapp.routing.router import Router
from pywsapp.topics.history.rules import HistoryRule, Wrap, wrap_as_json
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.presence import PresenceDiff
from pywsapp.topics.registry import Hub
from pywsapp.topics.topic import Topic

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

Tls = ssl.SSLContext | str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
HookT = TypeVar("HookT", bound=Hook)
WatcherT = TypeVar("WatcherT", bound=Callable[[Topic, PresenceDiff], Any])
ListenerT = TypeVar("ListenerT", bound=Callable[[Topic, Any], Any])

#: Addresses in whose place people are better told the app's name.
_EVERY_OR_LOCAL = ("127.0.0.1", "[::1]", "0.0.0.0", "[::]")
#: What leaving may take beyond the time that connections and shutdown hooks have.
_SPARE_SECONDS = 2.0
#: What a worker that is being replaced leaves to handshakes which it has begun.
_WORKER_PATIENCE = 1.0


class App(Routes):
    """A real-time application: route components on it and run it (Ratchet's App).

    Args:
        http_host: the name clients use in the Host field (Ratchet's httpHost), several, or "*" for any. A name also
            lets clients in that use an IP address.
        port: the TCP port, 0 for a free one; see `port` for the one in use.
        address: the address to listen on, "0.0.0.0" or "::" for all.
        options: the limits of connections.
        tls: makes it https and wss: an SSLContext, or the path of a PEM certificate with its key in it, or a pair of
            paths (certificate, key). At least TLS 1.2.
        unix_path: listen on this Unix socket instead of TCP.
        fd: listen on this inherited socket instead (systemd's socket activation, a supervisor).
        proxy_protocol: every connection begins with a PROXY header, version 1 or 2, from a balancer.
        trusted_proxies: the IP addresses and networks of proxies, and "unix" for those on Unix sockets, whose
            X-Forwarded-For and X-Forwarded-Proto give a request its address and scheme, and who may send PROXY headers.
        max_connections: handshakes above are answered with 503; by default what the limit of open files allows.
        broker: carries the messages of topics to other processes and machines: a URL, "redis://localhost" for
            instance, or a Broker. None keeps them in this process.
        broker_key: a secret that all of them share; with it messages are signed, and others are not taken.

    Attributes:
        hub: its topics.

    Attributes:
        worker: the number of the worker that this process is, from 1; None if it is none. See `run`.

    Raises:
        ConfigurationError: something of it cannot be; the text says what to do.
    """

    def __init__(
        self,
        http_host: str | Sequence[str] = "localhost",
        port: int = 8080,
        address: str = "127.0.0.1",
        *,
        options: Options | None = None,
        tls: Tls | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        proxy_protocol: bool = False,
        trusted_proxies: Iterable[str] = (),
        max_connections: int | None = None,
        broker: str | Broker | None = None,
        broker_key: str | bytes | None = None,
    ) -> None:
        self.options = options or Options()
        key = broker_key.encode() if isinstance(broker_key, str) else broker_key
        hub = Hub(broker_for(broker) if isinstance(broker, str) else broker, key)
        super().__init__(Router(http_host=http_host), hub)
        self._http_host = http_host
        if max_connections is not None and max_connections < 1:
            raise ConfigurationError(
                f"max_connections must be 1 or more, not {max_connections!r}; leave it out for all"
            )
        self._max_connections = max_connections
        self._proxies = Proxies(trusted_proxies)
        self._server: Server | None = None
        self._background = Background()
        self._starting: anyio.CancelScope | None = None
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._listeners: list[ListeningSocket] = []
        self._stopping = False
        told = worker_context()
        self.worker = None if told is None else told.number
        self._told: WorkerContext | None = None
        self.listen(address, port, tls=tls, unix_path=unix_path, fd=fd, proxy_protocol=proxy_protocol)

    def listen(
        self,
        address: str = "127.0.0.1",
        port: int = 8080,
        *,
        tls: Tls | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        proxy_protocol: bool = False,
    ) -> None:
        """Listen in one more place; the arguments are those of App.

        Raises:
            ConfigurationError: they cannot be.
        """
        self._listeners.append(
            ListeningSocket(
                address=address,
                port=port,
                unix_path=os.fspath(unix_path) if unix_path is not None else None,
                fd=fd,
                tls=as_server_context(tls) if tls is not None else None,
                proxy_protocol=proxy_protocol,
            )
        )

    def move(self, address: str | None = None, port: int | None = None) -> None:
        """Listen elsewhere than in the first place it was made for; what is None stays.

        Raises:
            ConfigurationError: it cannot be.
        """
        first = self._listeners[0]
        address, port = first.address if address is None else address, first.port if port is None else port
        self._listeners[0] = replace(first, address=address, port=port, unix_path=None, fd=None)

    def health(self, path: str = "/health") -> None:
        """Answer health checks there, for every Host: 200, and 503 as soon as the app has been told to end.

        Raises:
            ConfigurationError: the path cannot be, or the route exists.
        """
        self.http(path, lambda _: health(stopping=self._stopping and not self._replaced), http_host="*")

    # -- topics ------------------------------------------------------------------------------------------------------

    def history(self, pattern: str, *, size: int = 100, seconds: float = 300, wrap: Wrap = wrap_as_json) -> None:
        """Keep the last messages of topics, so that `Topic.recover` gives a client that comes back what it missed.

        Args:
            pattern: of the topics, as for `on_broadcast`; the first one that matches a topic counts.
            size: how many messages of a topic are kept.
            seconds: how long, counted from its last one.
            wrap: makes what clients get of a `Publication`, which has the position that they have to send back.

        Raises:
            ConfigurationError: the broker keeps no history, or a topic that matches is in use already.
        """
        self.hub.keep(HistoryRule(TopicPattern(pattern), size, seconds, wrap))

    def on_broadcast(self, pattern: str) -> Callable[[ListenerT], ListenerT]:
        """Call a def or async def with each topic and message that is broadcast on what a pattern matches; a decorator.

        It is called in every process of the app, for messages from all of them, in order and as they come: what a
        broker loses is not fetched for it from a topic's history.

        Args:
            pattern: "room:*", or "*" for all, or one name.

        Raises:
            ConfigurationError: it is no pattern, or the app runs already.
        """

        def decorator(listener: ListenerT) -> ListenerT:
            self.hub.listen(pattern, listener)
            return listener

        return decorator

    def on_presence(self, pattern: str) -> Callable[[WatcherT], WatcherT]:
        """Know who is in the topics that a pattern matches, and call a def with each change; a decorator.

        `Topic.track` says who somebody is, and `Topic.present` who is there. It is called in every process that has a
        subscriber of the topic, with the topic and a `PresenceDiff`, at most every tenth of a second.

        Args:
            pattern: as for `on_broadcast`.

        Raises:
            ConfigurationError: it is no pattern, the function is an async def, or the app runs already.
        """

        def decorator(watcher: WatcherT) -> WatcherT:
            self.hub.watch(pattern, watcher)
            return watcher

        return decorator

    # -- tasks and hooks ---------------------------------------------------------------------------------------------

    def on_startup(self, hook: HookT) -> HookT:
        """Call a def or async def before the app listens; a decorator.

        An exception of it ends `run` or `serve`, after the shutdown hooks have been called.
        """
        self._startup.append(hook)
        return hook

    def on_shutdown(self, hook: HookT) -> HookT:
        """Call a def or async def after all connections have ended; a decorator."""
        self._shutdown.append(hook)
        return hook

    def every(self, seconds: float) -> Callable[[HookT], HookT]:
        """Call a def or async def every so many seconds while the app runs; a decorator.

        A call that takes longer delays the next one; an exception is logged, and the next call comes all the same.

        Raises:
            ConfigurationError: the time is not positive.
        """
        if seconds <= 0:
            raise ConfigurationError(f"every() takes a number of seconds greater than 0, not {seconds!r}")

        def decorator(hook: HookT) -> HookT:
            self._background.every(seconds, hook)
            return hook

        return decorator

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def in the background for as long as the app runs, from its start if it does not run yet.

        It is cancelled when the app has drained. An exception of it is logged and ends the task alone.
        """
        self._background.start_soon(task, *arguments)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, *, backend: str = "asyncio", uvloop: bool | None = None, workers: int | None = None) -> None:
        """Run the app until SIGINT or SIGTERM; blocks.

        The first signal drains: it stops accepting, closes every connection with 1012 and waits for them as long as
        `Options.drain_timeout`. A second one leaves at once, with exit code 130, even if a handler hangs. In another
        thread than the main one there are no signals; there only `stop` ends it.

        Args:
            backend: "asyncio" or "trio".
            uvloop: for asyncio, whether to use uvloop; by default if it is installed.
            workers: how many processes share the listeners; above 1 this one supervises them and SIGHUP replaces them.
                Each runs the program's command line again up to this call, which does not return there. Topics reach
                from one to the other, over a bus of their own unless the app has a broker.

        Raises:
            ConfigurationError: it is called inside a running event loop, a library is missing, listening is not
                possible, or workers cannot be had here.
        """
        check_no_loop()
        options = loop_options(backend, uvloop)
        count = check_workers(workers)
        self._told = worker_context()
        set_up_logging(self.worker)
        limit = 2 * self.options.drain_timeout + self.options.on_close_timeout + _SPARE_SECONDS
        limit += self.options.drain_delay
        supervised = self._told is not None
        program = functools.partial(run_until_signal, self.serve, self.stop, limit, supervised=supervised)
        if self._told is not None:
            self._listeners = self._told.adopt(self._listeners)
            if self._told.bus is not None and self.hub.broker is None:
                self.hub.broker = LocalBroker(self._told.bus)
        elif count > 1:
            program = functools.partial(self._supervise, count, limit)
        if anyio.run(program, backend=backend, backend_options=options):
            sys.exit(FORCED)
        if supervised:
            sys.exit()  # what is behind `run` is the supervisor's

    async def _supervise(self, workers: int, limit: float) -> bool:
        """Run workers, with a bus between them unless there is a broker; give whether that was cancelled."""
        router = BusRouter()
        try:
            attach = router.attach if self.hub.broker is None else None
            return await supervise(self._listeners, workers, self._announce, limit, attach)
        finally:
            router.close()

    def _announce(self, addresses: Iterable[tuple[ListeningSocket, str]], workers: str = "") -> None:
        urls = " ".join(self._urls(addresses))
        hint = f" ({hint})" if (hint := build_hint()) else ""
        logger.info("pywsapp %s%s on %s: %s%s", __version__, workers, loop_name(), urls, hint)

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the app inside an anyio program (asyncio or trio) until `stop`, or until cancelled.

        `await task_group.start(app.serve)` returns when it listens. Signals are left to the program. When it has
        ended, it may be called again.

        Raises:
            ConfigurationError: it runs already, or listening is not possible.
        """
        if self._server is not None:
            raise ConfigurationError("this App is running already")
        patience = 0 if self._told is None else _WORKER_PATIENCE
        self._server = server = Server(self.router, self.options, self._max_connections, self._proxies, patience)
        self._stopping = False
        self._background.prepare()

        async def started(tasks: TaskGroup) -> None:
            self._background.begin(tasks)
            if self._told is not None:
                self._told.listening()
            else:
                self._announce(server.addresses)
            task_status.started()

        try:
            async with self.hub.running():
                with anyio.CancelScope() as self._starting:
                    for hook in self._startup:
                        await call(hook)
                self._starting = None
                if not self._stopping:
                    await server.run(self._listeners, started)
        finally:
            self._background.end()
            self._starting = None
            with anyio.CancelScope(shield=True):
                await self._run_shutdown_hooks()
            self._background.forget()
            self._server = None

    async def _run_shutdown_hooks(self) -> None:
        for hook in self._shutdown:
            with anyio.move_on_after(self.options.drain_timeout):
                await run_logged(hook)

    def stop(self) -> None:
        """Begin to drain, from the loop's thread; `run` or `serve` returns when that is over.

        With `Options.drain_delay` only health checks fail at first, and all else goes on for that time.
        Startup hooks that are still running are cancelled.
        """
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.stop(replaced=self._replaced)

    @property
    def _replaced(self) -> bool:
        """Whether another worker has taken the place of this one, so that balancers need not know that it ends."""
        return self._told is not None and self._told.replaced.is_set()

    @property
    def port(self) -> int:
        """The TCP port: the real one while running, also if 0 was asked for; before, the one asked for."""
        if self._server is not None:
            for _, address in self._server.addresses:
                if not address.startswith("unix:"):
                    return int(address.rpartition(":")[2])
        return self._listeners[0].port

    @property
    def urls(self) -> list[str]:
        """Where the app can be reached while it runs: "http://localhost:8080", "unix:/run/chat.sock"."""
        return self._urls(self._server.addresses if self._server is not None else ())

    def _urls(self, addresses: Iterable[tuple[ListeningSocket, str]]) -> list[str]:
        name = self._http_host if isinstance(self._http_host, str) else self._http_host[0]
        if ":" in name and not name.startswith("["):
            name = f"[{name}]"
        urls = []
        for listener, address in addresses:
            if address.startswith("unix:"):
                urls.append(address)
                continue
            host, _, port = address.rpartition(":")
            if host in _EVERY_OR_LOCAL and "*" not in name:
                host = name
            urls.append(f"{'http' if listener.tls is None else 'https'}://{host}:{port}")
        return list(dict.fromkeys(urls))
