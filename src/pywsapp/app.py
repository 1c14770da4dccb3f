"""The App: routes, listeners, timers and hooks behind one name (Ratchet's App)."""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import TaskStatus

from pywsapp.backends import broker_for
from pywsapp.components.router import Router
from pywsapp.hosting.background import Background, Hook, call, run_logged
from pywsapp.hosting.listeners import Listener
from pywsapp.hosting.process import FORCED, check_no_loop, loop_name, loop_options, run_until_signal
from pywsapp.hosting.server import Server
from pywsapp.hosting.tls import as_server_context
from pywsapp.routes import Routes
from pywsapp.topics.broker import Broker
from pywsapp.topics.hub import Hub
from pywsapp.topics.names import Pattern
from pywsapp.topics.recovery import HistoryRule, Wrap, wrap_as_json
from pywsapp.topics.topic import Topic
from pywsapp.values.errors import ConfigurationError
from pywsapp.values.options import Options
from pywsapp.values.version import __version__

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

Tls = ssl.SSLContext | str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
HookT = TypeVar("HookT", bound=Hook)
ListenerT = TypeVar("ListenerT", bound=Callable[[Topic, Any], Any])

#: Addresses in whose place people are better told the app's name.
_EVERY_OR_LOCAL = ("127.0.0.1", "[::1]", "0.0.0.0", "[::]")
#: What leaving may take beyond the time that connections and shutdown hooks have.
_SPARE_SECONDS = 2.0


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
        max_connections: handshakes above are answered with 503; by default what the limit of open files allows.
        broker: carries the messages of topics to other processes and machines: a URL, "redis://localhost" for
            instance, or a Broker. None keeps them in this process.
        broker_key: a secret that all of them share; with it messages are signed, and others are not taken.

    Attributes:
        hub: its topics.

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
        max_connections: int | None = None,
        broker: str | Broker | None = None,
        broker_key: str | bytes | None = None,
    ) -> None:
        self.options = options or Options()
        super().__init__(Router(http_host=http_host))
        self._http_host = http_host
        if max_connections is not None and max_connections < 1:
            raise ConfigurationError(
                f"max_connections must be 1 or more, not {max_connections!r}; leave it out for all"
            )
        self._max_connections = max_connections
        self._server: Server | None = None
        self.hub = Hub(
            broker_for(broker) if isinstance(broker, str) else broker,
            broker_key.encode() if isinstance(broker_key, str) else broker_key,
        )
        self._background = Background()
        self._starting: anyio.CancelScope | None = None
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._listeners: list[Listener] = []
        self._stopping = False
        self.listen(address, port, tls=tls, unix_path=unix_path, fd=fd)

    def listen(
        self,
        address: str = "127.0.0.1",
        port: int = 8080,
        *,
        tls: Tls | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        fd: int | None = None,
    ) -> None:
        """Listen in one more place; the arguments are those of App.

        Raises:
            ConfigurationError: they cannot be.
        """
        self._listeners.append(
            Listener(
                address=address,
                port=port,
                unix_path=os.fspath(unix_path) if unix_path is not None else None,
                fd=fd,
                tls=as_server_context(tls) if tls is not None else None,
            )
        )

    # -- topics ------------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Give the topic of a name; connections are added to it, and messages broadcast on it.

        Raises:
            TopicError: it is no name: 1 to 200 bytes without whitespace and `*`, parts between colons not empty.
        """
        return self.hub.topic(name)

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
        self.hub.keep(HistoryRule(Pattern(pattern), size, seconds, wrap))

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

    def run(self, *, backend: str = "asyncio", uvloop: bool | None = None) -> None:
        """Run the app until SIGINT or SIGTERM; blocks.

        The first signal drains: it stops accepting, closes every connection with 1012 and waits for them as long as
        `Options.drain_timeout`. A second one leaves at once, with exit code 130, even if a handler hangs. In another
        thread than the main one there are no signals; there only `stop` ends it.

        Args:
            backend: "asyncio" or "trio".
            uvloop: for asyncio, whether to use uvloop; by default if it is installed.

        Raises:
            ConfigurationError: it is called inside a running event loop, a library is missing, or listening is not
                possible.
        """
        check_no_loop()
        options = loop_options(backend, uvloop)
        if not logging.getLogger().handlers and not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.INFO)
        limit = 2 * self.options.drain_timeout + self.options.on_close_timeout + _SPARE_SECONDS
        if anyio.run(run_until_signal, self.serve, self.stop, limit, backend=backend, backend_options=options):
            sys.exit(FORCED)

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the app inside an anyio program (asyncio or trio) until `stop`, or until cancelled.

        `await task_group.start(app.serve)` returns when it listens. Signals are left to the program. When it has
        ended, it may be called again.

        Raises:
            ConfigurationError: it runs already, or listening is not possible.
        """
        if self._server is not None:
            raise ConfigurationError("this App is running already")
        self._server = server = Server(self.router, self.options, self._max_connections)
        self._stopping = False
        self._background.prepare()

        async def started(tasks: TaskGroup) -> None:
            self._background.begin(tasks)
            logger.info("pywsapp %s on %s: %s", __version__, loop_name(), " ".join(self.urls))
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

        Startup hooks that are still running are cancelled.
        """
        self._stopping = True
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.stop()

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
        name = self._http_host if isinstance(self._http_host, str) else self._http_host[0]
        if ":" in name and not name.startswith("["):
            name = f"[{name}]"
        urls = []
        for listener, address in self._server.addresses if self._server is not None else ():
            if address.startswith("unix:"):
                urls.append(address)
                continue
            host, _, port = address.rpartition(":")
            if host in _EVERY_OR_LOCAL and "*" not in name:
                host = name
            urls.append(f"{'http' if listener.tls is None else 'https'}://{host}:{port}")
        return list(dict.fromkeys(urls))
