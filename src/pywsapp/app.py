"""The App: routes, listeners, timers and hooks behind one name (Ratchet's App)."""

from __future__ import annotations

import functools
import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio
from anyio.abc import TaskStatus

from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.components.origin import OriginCheck
from pywsapp.components.router import HttpHandler, Router
from pywsapp.components.static import StaticFolder
from pywsapp.hooks import call, logged, repeat
from pywsapp.hosting.listeners import Listener
from pywsapp.hosting.logs import set_up_logging
from pywsapp.hosting.process import FORCED, check_no_loop, loop_name, loop_options, run_until_signal
from pywsapp.hosting.server import Server
from pywsapp.hosting.supervisor import check_workers, supervise
from pywsapp.hosting.tls import as_server_context
from pywsapp.hosting.workers import Handover, handover
from pywsapp.values.errors import ConfigurationError
from pywsapp.values.options import Options
from pywsapp.values.version import __version__

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

Tls = ssl.SSLContext | str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
Hook = Callable[[], Any]
_Task = tuple[Callable[..., Any], tuple[Any, ...]]
HookT = TypeVar("HookT", bound=Hook)
ComponentT = TypeVar("ComponentT", bound="MessageComponent | ComponentFactory")
HandlerT = TypeVar("HandlerT", bound=HttpHandler)

#: Addresses in whose place people are better told the app's name.
_EVERY_OR_LOCAL = ("127.0.0.1", "[::1]", "0.0.0.0", "[::]")
#: What leaving may take beyond the time that connections and shutdown hooks have.
_SPARE_SECONDS = 2.0
#: What a worker that is being replaced leaves to handshakes which it has begun.
_WORKER_PATIENCE = 1.0


class App:
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
        max_connections: int | None = None,
    ) -> None:
        self.options = options or Options()
        self.router = Router(http_host=http_host)
        self._http_host = http_host
        if max_connections is not None and max_connections < 1:
            raise ConfigurationError(
                f"max_connections must be 1 or more, not {max_connections!r}; leave it out for all"
            )
        self._max_connections = max_connections
        self._server: Server | None = None
        self._tasks: TaskGroup | None = None
        self._permanent: list[_Task] = []
        self._waiting: list[_Task] = []
        self._starting: anyio.CancelScope | None = None
        self._startup: list[Hook] = []
        self._shutdown: list[Hook] = []
        self._listeners: list[Listener] = []
        self._stopping = False
        told = handover()
        self.worker = None if told is None else told.number
        self._told: Handover | None = None
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

    def move(self, address: str | None = None, port: int | None = None) -> None:
        """Listen elsewhere than in the first place it was made for; what is None stays.

        Raises:
            ConfigurationError: it cannot be.
        """
        first = self._listeners[0]
        address, port = first.address if address is None else address, first.port if port is None else port
        self._listeners[0] = replace(first, address=address, port=port, unix_path=None, fd=None)

    # -- routes ------------------------------------------------------------------------------------------------------

    @overload
    def route(
        self,
        path: str,
        component: None = None,
        allowed_origins: Iterable[str] | None = None,
        http_host: str | None = None,
        *,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        require_origin: bool = False,
        options: Options | None = None,
    ) -> Callable[[ComponentT], ComponentT]: ...

    @overload
    def route(
        self,
        path: str,
        component: ComponentT,
        allowed_origins: Iterable[str] | None = None,
        http_host: str | None = None,
        *,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        require_origin: bool = False,
        options: Options | None = None,
    ) -> ComponentT: ...

    def route(
        self,
        path: str,
        component: Any = None,
        allowed_origins: Iterable[str] | None = None,
        http_host: str | None = None,
        *,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        require_origin: bool = False,
        options: Options | None = None,
    ) -> Any:
        """Put a component on a path (Ratchet's App::route, whose order of arguments this keeps).

        Args:
            path: a pattern: "/chat", "/rooms/{name}", "/n/{id:int}", "/files/{path:path}".
            component: an instance, shared by all connections, or a class or function that makes one for each. Left
                out, this is a decorator for a class.
            allowed_origins: the pages that may connect: "https://app.example", "https://*.example.com",
                "example.com"; ["*"] for any. None allows the same origin only.
            http_host: the Host this route answers to, instead of the app's.
            subprotocols: instead of the component's own, the preferred one first.
            require_subprotocol: refuse clients that offer none of them.
            require_origin: refuse clients that send no Origin, which are not browsers.
            options: limits for this route instead of the app's.

        Returns:
            the component.

        Raises:
            ConfigurationError: the pattern, the component or an origin cannot be, or the route exists.
        """
        if component is None:
            return functools.partial(
                self.route,
                path,
                allowed_origins=allowed_origins,
                http_host=http_host,
                subprotocols=subprotocols,
                require_subprotocol=require_subprotocol,
                require_origin=require_origin,
                options=options,
            )
        self.router.route(
            path,
            OriginCheck(component, allowed_origins, require_origin=require_origin),
            http_host=http_host,
            subprotocols=subprotocols,
            require_subprotocol=require_subprotocol,
            options=options,
        )
        return component

    @overload
    def http(
        self, path: str, handler: None = None, *, http_host: str | None = None
    ) -> Callable[[HandlerT], HandlerT]: ...

    @overload
    def http(self, path: str, handler: HandlerT, *, http_host: str | None = None) -> HandlerT: ...

    def http(self, path: str, handler: Any = None, *, http_host: str | None = None) -> Any:
        """Answer plain HTTP GET on a path of the same port: a page, JSON, a health check.

        Args:
            path: a pattern, as for `route`.
            handler: takes the Request and returns a Response, a str, bytes, or something for JSON; def or async def.
                Left out, this is a decorator.
            http_host: the Host this route answers to, instead of the app's.

        Raises:
            ConfigurationError: the pattern cannot be, or the route exists.
        """
        if handler is None:
            return functools.partial(self.http, path, http_host=http_host)
        self.router.http(path, handler, http_host=http_host)
        return handler

    def static(self, path: str, directory: str | Path, **options: Any) -> None:
        """Serve the files of a folder under a path; `options` are those of `StaticFolder`.

        Raises:
            ConfigurationError: there is no such folder.
        """
        self.mount(path, StaticFolder(directory, **options))

    def mount(self, path: str, component: MessageComponent | App, *, http_host: str | None = None) -> None:
        """Hand everything under a path, or with `path=""` everything not routed, to another app, router or component.

        Raises:
            ConfigurationError: the path cannot be, or the mount exists.
        """
        self.router.mount(path, component.router if isinstance(component, App) else component, http_host=http_host)

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
            self.start_soon(repeat, seconds, hook)
            return hook

        return decorator

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def in the background for as long as the app runs, from its start if it does not run yet.

        It is cancelled when the app has drained. An exception of it is logged and ends the task alone.
        """
        if self._tasks is not None:
            self._tasks.start_soon(logged, task, arguments)
        elif self._server is not None:
            self._waiting.append((task, arguments))  # a startup hook asks, and will ask again the next time
        else:
            self._permanent.append((task, arguments))

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
                Each runs the program's command line again up to this call, which does not return there.

        Raises:
            ConfigurationError: it is called inside a running event loop, a library is missing, listening is not
                possible, or workers cannot be had here.
        """
        check_no_loop()
        options = loop_options(backend, uvloop)
        count = check_workers(workers)
        self._told = handover()
        set_up_logging(self.worker)
        limit = 2 * self.options.drain_timeout + self.options.on_close_timeout + _SPARE_SECONDS
        supervised = self._told is not None
        program = functools.partial(run_until_signal, self.serve, self.stop, limit, supervised=supervised)
        if self._told is not None:
            self._listeners = self._told.adopt(self._listeners)
        elif count > 1:
            program = functools.partial(supervise, self._listeners, count, self._announce, limit)
        if anyio.run(program, backend=backend, backend_options=options):
            sys.exit(FORCED)
        if supervised:
            sys.exit()  # what is behind `run` is the supervisor's

    def _announce(self, addresses: Iterable[tuple[Listener, str]], workers: str = "") -> None:
        urls = " ".join(self._urls(addresses))
        logger.info("pywsapp %s%s on %s: %s", __version__, workers, loop_name(), urls)

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
        self._server = server = Server(self.router, self.options, self._max_connections, patience)
        self._stopping = False
        self._waiting = list(self._permanent)

        async def started(tasks: TaskGroup) -> None:
            self._tasks = tasks
            for task, arguments in self._waiting:
                tasks.start_soon(logged, task, arguments)
            if self._told is not None:
                self._told.listening()
            else:
                self._announce(server.addresses)
            task_status.started()

        try:
            with anyio.CancelScope() as self._starting:
                for hook in self._startup:
                    await call(hook)
            self._starting = None
            if not self._stopping:
                await server.run(self._listeners, started)
        finally:
            self._tasks = self._starting = None
            with anyio.CancelScope(shield=True):
                await self._run_shutdown_hooks()
            self._server = None

    async def _run_shutdown_hooks(self) -> None:
        for hook in self._shutdown:
            with anyio.move_on_after(self.options.drain_timeout):
                await logged(hook, ())

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
        return self._urls(self._server.addresses if self._server is not None else ())

    def _urls(self, addresses: Iterable[tuple[Listener, str]]) -> list[str]:
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
