"""The App: routes, topics, hooks and listening sockets of one application (Ratchet's App)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

import anyio
from anyio.abc import TaskStatus
from typing_extensions import Unpack

from pywsapp._access import Authenticate
from pywsapp._authorize import Authorize
from pywsapp._extras import import_extra
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._messages.choosing import Codecs
from pywsapp._process.background import HookT
from pywsapp._process.importing import check_not_importing
from pywsapp._process.mounting import Mounting
from pywsapp._process.running import Runner
from pywsapp._process.worker_limits import WorkerLimits
from pywsapp._server.tls_settings import TlsArgument
from pywsapp._signatures import check_no_function
from pywsapp._status.page import StatusGuard, StatusPage, checked_guard
from pywsapp._status.service import StatusService
from pywsapp.asgi.application import AsgiApplication
from pywsapp.auth.identity import public
from pywsapp.auth.user_keys import UserKey, UserKeys
from pywsapp.brokers.base import MIB, Broker
from pywsapp.brokers.envelope import Keys
from pywsapp.brokers.urls import as_broker
from pywsapp.codecs.base import Codec
from pywsapp.component import ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError
from pywsapp.middleware.origin import OriginCheck
from pywsapp.middleware.session import AppSessions, Sessions
from pywsapp.options import Options, TooMany
from pywsapp.routing.browser_client import add_browser_client
from pywsapp.routing.endpoints import PublishEndpoint
from pywsapp.routing.events import EventSettings
from pywsapp.routing.guards import has_fallback, has_guards
from pywsapp.routing.health import add_health_checks
from pywsapp.routing.metrics import MetricsGuard, add_metrics
from pywsapp.routing.responses import HttpHandler
from pywsapp.routing.router import Router
from pywsapp.routing.static import StaticFolder
from pywsapp.sessions.base import SessionStore
from pywsapp.stats import Stats, WorkerStats
from pywsapp.topics.history.rules import HistoryRule, Wrap, wrap_as_json
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.occupancy.changes import EVENT_TYPES, EventType
from pywsapp.topics.occupancy.service import TopicHookT, UserHookT
from pywsapp.topics.presence.topic_presence import PresenceDiff
from pywsapp.topics.registry import TopicRegistry
from pywsapp.topics.topic import Topic
from pywsapp.topics.users.users import Users
from pywsapp.webhooks.options import WebhookOptions
from pywsapp.webhooks.sender import Webhook
from pywsapp.webhooks.signature import Secrets
from pywsapp.webhooks.target import sender_of

ComponentT = TypeVar("ComponentT", bound="MessageComponent | ComponentFactory")
HandlerT = TypeVar("HandlerT", bound=HttpHandler)
WatcherT = TypeVar("WatcherT", bound=Callable[[Topic, PresenceDiff], Any])
ListenerT = TypeVar("ListenerT", bound=Callable[[Topic, Any], Any])

_DEFAULT_HOST = "localhost"


class App:
    """A real-time application: route components on it and run it (Ratchet's App).

    Args:
        http_host: the name that clients write in the URL (Ratchet's httpHost), several names, or "*" for any. Clients
            that use an IP address instead are accepted too. The default stands for localhost, 127.0.0.1 and [::1].
        port: the TCP port; 0 for a free one, which the attribute `port` then names.
        address: the address to listen on; "0.0.0.0" or "::" for all interfaces.
        options: the limits and timeouts of connections.
        tls: serves https and wss: a Tls, the path of a PEM certificate with its key in it, or a pair of paths
            (certificate, key), which are loaded again when they change; or an SSLContext, which is not. TLS 1.2 is the
            oldest version.
        unix_path: the path of a Unix socket to listen on instead of TCP.
        fd: the number of an inherited socket to listen on instead (systemd's socket activation, a supervisor).
        proxy_protocol: expect a PROXY header, version 1 or 2, from a load balancer at the start of each connection.
        trusted_proxies: the IP addresses and networks of proxies, and "unix" for those on Unix sockets. The server
            believes their X-Forwarded-For and X-Forwarded-Proto fields and their PROXY headers.
        max_connections: the server refuses further handshakes with status 503. Workers count the connections of all of
            them. By default the limit of open files decides, for each process. Clients without a complete request do
            not count.
        broker: carries the messages of topics to other processes and machines: a URL such as "redis://localhost", or a
            Broker. None keeps them in this process.
        broker_key: a secret that signs messages; others are dropped. If a list has several, the first one signs.
        access_log: log a line for each request and each connection.
        max_pending: accepted connections without a complete request, 10,000 by default, or as many as the limit of open
            files leaves. A further one takes the place of the oldest.
        max_handshakes_per_second: handshakes that are admitted, on average; workers share them equally. The server
            refuses others with status 503, and a Retry-After field that spreads the clients that come again.
        max_connections_per_address: connections of one IP address, or of one /64 network of IPv6, in all workers
            together. The server refuses further handshakes with status 429. The addresses of trusted proxies and
            clients on Unix sockets do not count.
        max_connections_per_user: connections of one user in all workers together: the user that `authenticate` has
            found, or that came later. Clients without a user do not count. A connection that gets a user with too many
            connections after its handshake is closed with 1008.
        on_too_many: what the server does at `max_connections_per_user`; see `TooMany`.
        authenticate: a def or async def that returns the user of a request, or an object of `pywsapp.auth`. It guards
            every route that has none of its own: WebSockets, pages and files. Health checks stay public.
        session_store: keeps the sessions of the routes: a URL, "memory", "redis://localhost" or "memcached://localhost",
            or a SessionStore.
        user_key: a def that returns the key of a user, for `app.users` and limits: a str, an int or a UUID.
        authorize: a def or async def that takes a connection, an action and the name of a topic, and returns whether
            the connection may do that; or a `TopicRules`. See `MessageComponent.authorize`, which is asked first.
        codec: the codec of all routes that have none of their own, such as `JsonCodec()`, or several in a list; see
            `route` and `pywsapp.codecs`.
        metrics: measure the time of handlers, of pings and of the event loop, for `stats`; `metrics()` measures too.

    Attributes:
        options: the limits and timeouts of connections.
        router: the routes.
        topics: the topics, with `stats`.
        worker: the number of the worker that this process is, from 1; None if it is no worker. See `run`.

    Raises:
        ConfigurationError: an argument is not valid; the message says what to do.
    """

    def __init__(
        self,
        http_host: str | Sequence[str] = _DEFAULT_HOST,
        port: int = 8080,
        address: str = "127.0.0.1",
        *,
        options: Options | None = None,
        tls: TlsArgument | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        proxy_protocol: bool = False,
        trusted_proxies: Iterable[str] = (),
        max_connections: int | None = None,
        broker: str | Broker | None = None,
        broker_key: Keys | None = None,
        access_log: bool = False,
        max_pending: int | None = None,
        max_handshakes_per_second: float | None = None,
        max_connections_per_address: int | None = None,
        max_connections_per_user: int | None = None,
        on_too_many: TooMany = TooMany.REFUSE,
        authenticate: Authenticate | None = None,
        session_store: str | SessionStore | None = None,
        user_key: UserKey | None = None,
        authorize: Authorize | None = None,
        codec: Codecs | None = None,
        metrics: bool = False,
    ) -> None:
        self.options = options = Options() if options is None else options
        self._sessions = AppSessions(session_store)
        guard = self._sessions.guard(authenticate)
        self.router = Router(http_host, server_options=options, authenticate=guard, authorize=authorize, codec=codec)
        self.topics = TopicRegistry(as_broker(broker), broker_key, options)
        self.topics.measures = metrics
        self._user_keys = UserKeys(user_key)
        self.topics.users.use_app(self._user_keys, lambda: has_guards(self.router))
        self.topics.fallback.use_app(lambda: has_fallback(self.router))
        self._runner = Runner(self, self.router, self.topics, http_host)
        limits = ConnectionLimits(
            max_connections=max_connections,
            max_pending=max_pending,
            max_handshakes_per_second=max_handshakes_per_second,
            max_connections_per_address=max_connections_per_address,
            max_connections_per_user=max_connections_per_user,
            on_too_many=on_too_many,
        )
        self._runner.configure(limits, trusted_proxies, access_log=access_log)
        self.worker = self._runner.worker
        self._sessions.close_by(self.on_shutdown)
        self._runner.session_stores = self._sessions.stores
        self._asgi = AsgiApplication(self._runner, self.router, checks_host=http_host != _DEFAULT_HOST)
        self._mounted: list[App] = []
        self._mounting = Mounting()
        self.listen(address, port, tls=tls, unix_path=unix_path, fd=fd, proxy_protocol=proxy_protocol)

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
        authenticate: Authenticate | None = None,
        sessions: Sessions = None,
        authorize: Authorize | None = None,
        codec: Codecs | None = None,
        fallback: bool = False,
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
        authenticate: Authenticate | None = None,
        sessions: Sessions = None,
        authorize: Authorize | None = None,
        codec: Codecs | None = None,
        fallback: bool = False,
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
        authenticate: Authenticate | None = None,
        sessions: Sessions = None,
        authorize: Authorize | None = None,
        codec: Codecs | None = None,
        fallback: bool = False,
    ) -> Any:
        """Route WebSockets on a path to a component (Ratchet's App::route, with its order of arguments).

        Args:
            path: a pattern: "/chat", "/rooms/{name}", "/n/{id:int}", "/files/{path:path}".
            component: an instance for all connections, or a class or function that makes one for each. Left out, this
                is a decorator for a class.
            allowed_origins: the pages that may connect: "https://app.example", "https://*.example.com",
                "example.com"; ["*"] for any. None allows the same origin only.
            http_host: the name that this route answers to, instead of the App's.
            subprotocols: the subprotocols, the preferred one first, instead of the component's own.
            require_subprotocol: refuse clients that offer none of the subprotocols.
            require_origin: refuse clients that send no Origin field, which no browser does.
            options: limits for this route instead of the App's. Options that only the server reads, such as
                `handshake_timeout`, must be those of the App.
            authenticate: the guard of this route instead of the App's, as for `App`; `pywsapp.auth.public` for none.
            sessions: a store as for `App(session_store=...)`, instead of the App's; False for no sessions.
            authorize: decides which topics the connections of this route may use, where the component has no opinion,
                as for `App`.
            codec: the codec of the connections of this route, such as `JsonCodec()`. If a list has several, a
                client chooses one by its name as the subprotocol; the first one is for clients that choose none.
            fallback: whether the clients of a `TopicComponent` that cannot open WebSockets, because a proxy blocks
                them, fall back to an event stream and POST requests.

        Returns:
            the component.

        Raises:
            ConfigurationError: an argument is not valid, or the route exists.
        """
        check_no_function(path, '@app.route("/chat")')
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
                authenticate=authenticate,
                sessions=sessions,
                authorize=authorize,
                codec=codec,
                fallback=fallback,
            )
        if isinstance(getattr(component, "application", None), App):
            raise ConfigurationError("middleware around an App is mounted, not routed: write app.mount(path, ...)")
        self.router.route(
            path,
            OriginCheck(self._sessions.around(component, sessions), allowed_origins, require_origin=require_origin),
            http_host=http_host,
            subprotocols=subprotocols,
            require_subprotocol=require_subprotocol,
            options=options,
            authenticate=authenticate,
            authorize=authorize,
            codec=codec,
            fallback=fallback,
        )
        return component

    @overload
    def http(
        self,
        path: str,
        handler: None = None,
        *,
        methods: Iterable[str] = ("GET",),
        http_host: str | None = None,
        authenticate: Authenticate | None = None,
        sessions: Sessions = None,
    ) -> Callable[[HandlerT], HandlerT]: ...

    @overload
    def http(
        self,
        path: str,
        handler: HandlerT,
        *,
        methods: Iterable[str] = ("GET",),
        http_host: str | None = None,
        authenticate: Authenticate | None = None,
        sessions: Sessions = None,
    ) -> HandlerT: ...

    def http(
        self,
        path: str,
        handler: Any = None,
        *,
        methods: Iterable[str] = ("GET",),
        http_host: str | None = None,
        authenticate: Authenticate | None = None,
        sessions: Sessions = None,
    ) -> Any:
        """Answer plain HTTP requests on a path of the same port: a page, JSON, a webhook.

        Args:
            path: a pattern, as for `route`.
            handler: a def or async def that takes the Request and returns a Response, a str, bytes, or a value for
                JSON. It reads a body with `await request.read(max_size)`. Left out, this is a decorator.
            methods: the methods that the handler answers; "GET" includes "HEAD". Other methods get status 405.
            http_host: the name that this route answers to, instead of the App's.
            authenticate: as for `route`.
            sessions: as for `route`.

        Returns:
            the handler.

        Raises:
            ConfigurationError: an argument is not valid, or the route exists for one of the methods.
        """
        check_no_function(path, '@app.http("/page")')
        if handler is None:
            return functools.partial(
                self.http, path, methods=methods, http_host=http_host, authenticate=authenticate, sessions=sessions
            )
        answering = self._sessions.around_handler(handler, sessions)
        self.router.http(path, answering, methods=methods, http_host=http_host, authenticate=authenticate)
        return handler

    def events(self, path: str, topic: str, *, sessions: Sessions = None, **settings: Unpack[EventSettings]) -> None:
        """Stream a topic as server-sent events, for `EventSource` of browsers and other HTTP clients.

        The events of a topic with a history have positions as ids, so a browser that connects again gets the
        missed messages. If the history no longer has some of them, the browser gets an event `lost` first. See
        docs/howto/stream-with-server-sent-events.md.

        Args:
            path: a pattern, as for `route`.
            topic: the name of the topic, in which `{id}` stands for a parameter of the path, and `{user}` or
                `{user.id}` for the user, as in `TopicRules`.
            sessions: as for `route`.
            settings: further arguments, all of them by name. `allowed_origins`, `http_host`, `options` and
                `authenticate` are those of `route`.
                `event`: the name of the events with text; without it a page gets them by `onmessage`.
                `history`: what a client without a position gets of the messages that the topic keeps: "all", which is
                the default, "new" for none, or the number of the last messages.
                `keepalive`: seconds between two comments, which keep proxies from ending the connection; 15.
                `retry`: seconds after which a browser connects again, each time at random between half and 1.5 times
                as many; 3.
                `authorize`: decides whether a client may have the topic, as for `App`. If a value of the path is in the
                name of the topic, it must return True.

        Raises:
            ConfigurationError: an argument is not valid, or the route exists.
        """
        self.router.events(path, topic, lambda handler: self._sessions.around_handler(handler, sessions), **settings)

    def static(
        self, path: str, directory: str | Path, *, authenticate: Authenticate | None = None, **options: Any
    ) -> None:
        """Serve the files of a folder under a path; `options` are those of `StaticFolder`.

        Args:
            path: the prefix of the files.
            directory: the folder.
            authenticate: as for `route`.
            options: the arguments of `StaticFolder`.

        Raises:
            ConfigurationError: there is no such folder, or the mount exists.
        """
        self.mount(path, StaticFolder(directory, **options), authenticate=authenticate)

    def route_client(self, path: str = "/pywsapp.js") -> None:
        """Serve the browser client of topics, for `import { connect } from "/pywsapp.js"` in a page.

        `pywsapp-shared.js`, `pywsapp-react.js` and the types are served beside it. Browsers ask each time whether a
        file has changed. The files need no user, also if the App has a guard.

        Args:
            path: the path of `pywsapp.js`, which ends with this name.

        Raises:
            ConfigurationError: the path is not valid, or a route exists.
        """
        add_browser_client(self.router, path)

    def health(
        self, path: str = "/health", *, broker: bool = False, port: int | None = None, address: str = "127.0.0.1"
    ) -> None:
        """Answer health checks on a path, for every Host, also while the App has too many connections.

        The path answers 200 if clients may be sent here, and 503 while the App shuts down. Below it, `/live` answers
        200 while the event loop runs, `/ready` is the same as the path, and `/capacity` answers 503 while
        `max_connections` are open. `pywsapp.routing.health` has a table.

        Args:
            path: the path of the checks.
            broker: answer 503 also while the broker is not connected.
            port: answer on this TCP port too, where nothing on the ports for clients can delay the answer. With workers
                the supervisor answers there, for all of them. The answers there contain numbers.
            address: the address of that port.

        Raises:
            ConfigurationError: an argument is not valid, or the route exists.
        """
        add_health_checks(self.router, path, lambda: self._runner.health(needs_broker=broker))
        if port is not None:
            self._mounting.check_not_mounted()
            self._runner.change_listening().add_health(address, port, path, needs_broker=broker)

    def metrics(
        self,
        path: str = "/metrics",
        *,
        guard: MetricsGuard | None = None,
        port: int | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        """Serve the numbers of all workers for Prometheus, whichever of them answers. Needs the extra `prometheus`.

        The answer is in the text format of Prometheus, or of OpenMetrics if the client asks for it, and is compressed
        if the client accepts gzip. It comes also above `max_connections`. `docs/howto/watch-with-prometheus.md` lists
        all metrics. The App also measures times from now on, as with `App(metrics=True)`.

        Args:
            path: the path of the metrics.
            guard: who may read them: an authenticator such as `ApiKeyAuthenticator`, a list of IP addresses and
                networks, or `pywsapp.auth.public` for all clients. `authenticate` of the App is not asked.
            port: answer on this TCP port instead of the App's own. With workers the supervisor answers there.
            address: the address of that port. Another machine needs a guard.

        Raises:
            ConfigurationError: there is no guard and no port, an argument is not valid, the route exists, or
                prometheus-client is not installed.
        """
        if guard is None and port is None:
            raise ConfigurationError(
                "metrics show how an App is used, so write who may read them: guard=ApiKeyAuthenticator(...), "
                "guard=['10.0.0.0/8'], guard=public, or a port of their own: app.metrics(port=9100)"
            )
        encode = import_extra("pywsapp._prometheus", "prometheus").encode
        if port is None:
            add_metrics(self.router, path, lambda: self.worker_stats(), encode, guard)
        else:
            self._mounting.check_not_mounted()
            self._runner.change_listening().add_metrics(address, port, path, guard, encode)
        self.topics.measures = True

    def status(self, path: str = "/status", *, guard: StatusGuard | None = None, can_disconnect: bool = False) -> None:
        """Show what the App does now on a page: connections, rates, topics, workers, limits, slow handlers, errors.

        A WebSocket on the same path sends the page a snapshot each second. It has the numbers of all processes that a
        broker or the bus of the workers connects. Nothing runs while no page is open. The App also measures times from
        now on, as with `App(metrics=True)`. See docs/howto/watch-with-the-status-page.md.

        Args:
            path: the path of the page, without parameters.
            guard: who may see it: an authenticator such as a function that reads the session, a list of IP addresses
                and networks, or `pywsapp.auth.public` for all clients. `authenticate` of the App is not asked.
            can_disconnect: whether everyone who sees the page can disconnect connections and users. It needs a guard
                that returns a user, whose key is in the log line of the action.

        Raises:
            ConfigurationError: there is no guard, an argument is not valid, the route exists, or the App runs already.
        """
        self._runner.hooks.check_not_started("status")
        authenticate, addresses = checked_guard(guard, can_disconnect=can_disconnect)
        page = StatusPage(lambda: self._runner.hooks.status, path, addresses, can_disconnect=can_disconnect)
        self.http(path, page.show, authenticate=authenticate)
        self.route(path, page, authenticate=authenticate)
        if self._runner.hooks.status is None:
            service = self._runner.hooks.status = StatusService(self, lambda: self._runner)
            self.on_startup(service.start)
            self.on_shutdown(service.stop)
        self._runner.hooks.status.can_disconnect |= can_disconnect
        self.topics.measures = True

    def publish_endpoint(self, path: str, key: Keys, *, max_size: int = 64 * 1024) -> None:
        """Accept messages for topics as signed POST requests; `pywsapp.routing.endpoints` has the format.

        Args:
            path: the path of the requests; nothing below it is served.
            key: a secret of at least 16 bytes that the programs share with this App, or several that are all accepted.
            max_size: the bytes that the body of a request may have.

        Raises:
            ConfigurationError: the path is not valid, the route exists, or the key is too short.
        """
        endpoint = PublishEndpoint(self.topics, key, max_size)
        self.router.http(path, endpoint.on_request, methods=["POST"], http_host="*", authenticate=public)

    def mount(
        self,
        path: str,
        component: MessageComponent | App,
        *,
        http_host: str | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        """Route everything below a path to another App, router or component; with `path=""`, what no route matches.

        Another App, also one inside of middleware, becomes part of this one: its hooks, timers, tasks, listeners and
        histories are added, and its topics are those of this App from then on. Its address and port are ignored. If it
        has the default `http_host`, it answers to every name that the mount answers to.

        Args:
            path: the prefix.
            component: what is mounted.
            http_host: the name that the mount answers to, instead of the App's.
            authenticate: guards everything below the path that has no guard of its own, as for `App`.

        Raises:
            ConfigurationError: the path is not valid, the mount exists, or the other App has settings for a server of
                its own, such as `options` or `broker`.
        """
        target = component.router if isinstance(component, App) else component
        inner = component if isinstance(component, App) else getattr(component, "application", None)
        new = inner if isinstance(inner, App) and inner not in self._mounted else None
        if new is not None:
            on_itself = new is self or (new._runner is self._runner and not new._mounting.is_mounted)
            settings = [*new._runner.server_settings(), *new._user_keys.settings]
            new._mounting.check_can_be_mounted(settings, on_itself=on_itself)
        self.router.mount(path, target, http_host=http_host, authenticate=self._sessions.guard(authenticate))
        self._sessions.note(component)
        if new is not None:
            self._sessions.include(new._sessions)
            self._runner.include(new._runner)
            self.topics.include(new.topics)
            new._join(self)
            self._mounted.append(new)

    def site(
        self, application: Any, *, http_host: str | None = None, root_path: str = "", idle_timeout: float = 5
    ) -> None:
        """Serve a website on the same port: FastAPI, Django or another ASGI application, for what no route matches.

        Its requests pass the limits of the App, its hosts and trusted proxies, and then the HTTP protocol of uvicorn
        answers them. A connection stays open for further requests. The App runs the lifespan of the site: the startup
        in the order of the startup hooks, and the shutdown in that of the shutdown hooks. `authenticate` of the App
        does not guard the site. A WebSocket on a path without a route is refused with status 404. Needs the extra
        `uvicorn`, and the App's own server on asyncio or uvloop.

        Args:
            application: the ASGI application. It gets plain requests and the lifespan.
            http_host: the name that the site answers to, instead of the App's.
            root_path: the `root_path` of the site, if a proxy removes a prefix of its paths.
            idle_timeout: seconds that a connection without a request stays open.

        Raises:
            ConfigurationError: the site is no ASGI application, the App has a site or a mount for all paths already,
                uvicorn is not installed, or the App runs already.
        """
        self._runner.hooks.check_not_started("site")
        self._mounting.check_not_mounted()
        module = import_extra("pywsapp.asgi.site", "uvicorn")
        site = module.Site(application, root_path, idle_timeout, lambda: self.options.drain_timeout)
        self.router.mount("", site, http_host=http_host, authenticate=public)
        self._runner.use_site(site.start, site.stop)

    def _join(self, outer: App) -> None:
        """Become a part of another App."""
        if self._runner.http_host == _DEFAULT_HOST:
            self.router.set_http_host("*")  # the other App checks the host
        self._mounting.is_mounted = True
        self.topics, self.options, self._runner = outer.topics, outer.options, outer._runner
        for inner in self._mounted:
            inner._join(outer)

    def asyncapi(
        self,
        *,
        title: str = "WebSockets",
        version: str = "1.0.0",
        description: str | None = None,
        url: str | None = None,
    ) -> dict[str, Any]:
        """Return the AsyncAPI 3.0 document of the routes and their messages, which `json.dumps` can write.

        It has a channel for each route with a component, also below mounts, and a JSON Schema for each message. The
        messages are those of the annotations of `on_message`, of `@on` and `@rpc`, and of `MessageComponent.sends`.
        Descriptions come from docstrings. Routes and types that are the same make the same document. Needs the extra
        `msgspec`. Does not block, but takes milliseconds, so call it once.

        Args:
            title: the name of the application.
            version: the version of its messages.
            description: what it is for; Markdown.
            url: the URL of the server, such as "wss://chat.example".

        Raises:
            ConfigurationError: a type has no JSON Schema, an argument is not valid, or a library is not installed.
        """
        module = import_extra("pywsapp._schema.document", "msgspec")
        document: dict[str, Any] = module.document_of(self.router, title, version, description, url)
        return document

    def asyncapi_page(
        self, path: str = "/docs", *, authenticate: Authenticate | None = None, **document: str | None
    ) -> None:
        """Show the document of `asyncapi` on a page, with the channels, the messages and their fields.

        Below the path, `/asyncapi.json` is the document and `/messages.ts` has the types for TypeScript. They are made
        when the App starts. The page has no scripts and loads nothing from elsewhere. All clients that can reach the
        path can read it, unless the App has a guard, or `authenticate` is one.

        Args:
            path: the path of the page, without parameters.
            authenticate: as for `route`.
            document: the arguments of `asyncapi`; the page shows the description as text.

        Raises:
            ConfigurationError: the path is not valid, the route exists, a library is not installed, or the App runs
                already.
            TypeError: `asyncapi` has no such argument.
        """
        self._runner.hooks.check_not_started("asyncapi_page")
        page = import_extra("pywsapp._schema.serving", "msgspec").DocumentPage(path, self.asyncapi, document)
        for place, handler in page.handlers().items():
            self.http(place, handler, authenticate=authenticate)
        self.on_startup(page.prepare)

    # -- topics ------------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Return the topic of a name; connections subscribe to it, and messages are broadcast on it.

        Raises:
            TopicError: the name is not valid; `pywsapp.topics.names` has the rules.
        """
        return self.topics.topic(name)

    @property
    def users(self) -> Users:
        """All connections of each user, in all processes: `app.users[user].send(message)`, `.disconnect()`."""
        return Users(self.topics.users)

    def history(
        self, pattern: str, *, size: int = 100, seconds: float = 300, wrap: Wrap = wrap_as_json, max_bytes: int = MIB
    ) -> None:
        """Keep the last messages of topics, so that `Topic.recover` sends returning clients the missed ones.

        Args:
            pattern: a pattern of topics, as for `on_broadcast`; the first pattern that matches a topic applies.
            size: how many messages of a topic are kept.
            seconds: how long messages are kept, counted from the last one of the topic.
            wrap: makes the message for clients from a `Publication`, which has the position that clients send back.
            max_bytes: bytes of the messages that a topic keeps, each counted with 150 bytes more; not for Redis. See
                `Options.max_history_bytes` for all topics.

        Raises:
            ConfigurationError: the broker keeps no history, or a topic that matches is in use already.
        """
        self.topics.keep_history(HistoryRule(TopicPattern(pattern), size, seconds, wrap, max_bytes))

    def topic_codec(self, pattern: str, codec: Codec) -> None:
        """Carry the objects of topics in a codec instead of JSON: to other processes, and in histories.

        The App encodes an object once. Connections with that codec get these bytes as they are. Each process decodes
        them once for each other codec of its connections; connections without a codec get JSON text.

        Args:
            pattern: a pattern of topics, as for `on_broadcast`; the first pattern that matches a topic applies.
            codec: such as `MessagePackCodec()`; `ProtobufCodec(MyClass)` for the objects of one generated class.

        Raises:
            ConfigurationError: `codec` is no codec, or a topic that matches is in use already.
        """
        self.topics.use_codec(TopicPattern(pattern), codec)

    def on_broadcast(self, pattern: str) -> Callable[[ListenerT], ListenerT]:
        """Call a def or async def with each topic and message that is broadcast on matching topics; a decorator.

        Every process calls it for the messages from all processes, in order, as they arrive. Messages that are
        recovered from a topic's history after a failure of the broker are delivered to subscribers only.

        Args:
            pattern: "room:*", "*" for all topics, or one name.

        Raises:
            ConfigurationError: the pattern is not valid, or the App runs already.
        """
        return self.topics.listeners.decorator(pattern)

    def presence(self, pattern: str) -> None:
        """Track the users in matching topics, for `Topic.track` and `Topic.present`, and for the clients that see them.

        Args:
            pattern: a pattern of topics, as for `on_broadcast`.

        Raises:
            ConfigurationError: the pattern is not valid, or the App runs already.
        """
        self.topics.presence.turn_on(pattern)

    def on_presence(self, pattern: str) -> Callable[[WatcherT], WatcherT]:
        """Track the users in matching topics, and call a def or async def with each change; a decorator.

        `Topic.track` names the user of a connection, and `Topic.present` returns all users. Every process that has a
        subscriber of the topic calls the function, with the topic and a `PresenceDiff`. Changes within a tenth of a
        second come together, unless `Topic.present` is called meanwhile, which reports them first.

        Args:
            pattern: a pattern of topics, as for `on_broadcast`.

        Raises:
            ConfigurationError: the pattern is not valid, or the App runs already.
        """
        return self.topics.presence.watchers.decorator(pattern)

    def on_occupied(self, pattern: str) -> Callable[[TopicHookT], TopicHookT]:
        """Call a def or async def with each matching topic that gets its first subscriber; a decorator.

        The subscribers of all processes count, and one process calls the function. `docs/howto/call-webhooks.md` says
        what is promised.

        Args:
            pattern: a pattern of topics, as for `on_broadcast`.

        Raises:
            ConfigurationError: the pattern is not valid, or the App runs already.
        """
        return self.topics.occupancy.on_occupied(pattern)

    def on_vacated(self, pattern: str) -> Callable[[TopicHookT], TopicHookT]:
        """Call a def or async def with each matching topic that has no subscriber left in any process; a decorator.

        One process calls it, `Options.absence_delay` after the last subscriber has gone, also if the process of this
        subscriber was killed.

        Args:
            pattern: a pattern of topics, as for `on_broadcast`.

        Raises:
            ConfigurationError: the pattern is not valid, or the App runs already.
        """
        return self.topics.occupancy.on_vacated(pattern)

    def on_user_online(self, hook: UserHookT) -> UserHookT:
        """Call a def or async def with the key of each user that opens a first connection; a decorator.

        The connections of all processes count, and one process calls the function. The key is that of `app.users`.

        Raises:
            ConfigurationError: it does not take one argument, or the App runs already.
        """
        return self.topics.occupancy.on_user_online(hook)

    def on_user_offline(self, hook: UserHookT) -> UserHookT:
        """Call a def or async def with the key of each user that has no connection left in any process; a decorator.

        One process calls it, `Options.absence_delay` after the last connection has ended.

        Raises:
            ConfigurationError: it does not take one argument, or the App runs already.
        """
        return self.topics.occupancy.on_user_offline(hook)

    def webhook(
        self,
        url: str,
        *,
        secret: Secrets,
        events: Iterable[EventType] = EVENT_TYPES,
        topics: Iterable[str] = ("*",),
        allow_http: bool = False,
        options: WebhookOptions | None = None,
    ) -> Webhook:
        """Send events about topics and users to a URL, as signed POST requests. Needs the extra `webhooks`.

        One process of the cluster sends them, several in a request, in order, and again after failures.
        `docs/howto/call-webhooks.md` has the format and the promises. The requests are signed as Standard Webhooks are.

        Args:
            url: an https URL; http for localhost only.
            secret: "whsec_" and 24 to 64 bytes as base64, or another secret of at least 16 bytes. With several secrets
                in a list, a request has a signature of each.
            events: the types of events, by default all: "topic_occupied" and "topic_vacated", as for `on_occupied` and
                `on_vacated`, and "user_online" and "user_offline".
            topics: the patterns of the topics whose events are sent.
            allow_http: accept an http URL of another host; this is logged.
            options: the limits of the webhook.

        Returns:
            the webhook, which has numbers about it.

        Raises:
            ConfigurationError: an argument is not valid, httpx is not installed, or the App runs already.
        """
        self._runner.check_not_running()
        sender = sender_of(url, secret, events, topics, options, allow_http=allow_http)
        self.topics.occupancy.add_reports(sender)
        return Webhook(sender)

    # -- hooks and tasks ---------------------------------------------------------------------------------------------

    def on_startup(self, hook: HookT) -> HookT:
        """Call a def or async def before the App listens; a decorator.

        An exception of the hook ends `run` or `serve`, after the shutdown hooks.

        Raises:
            ConfigurationError: the hook takes arguments, or the App runs already and has called its startup hooks.
        """
        return self._runner.hooks.on_startup(hook)

    def on_shutdown(self, hook: HookT) -> HookT:
        """Call a def or async def after all connections have ended; a decorator.

        Each hook has `Options.drain_timeout`. It can broadcast on topics, but its messages reach other processes only.
        """
        return self._runner.hooks.on_shutdown(hook)

    def every(self, seconds: float) -> Callable[[HookT], HookT]:
        """Call a def or async def periodically while the App runs; a decorator.

        A call that takes longer than the period delays the next one. An exception is logged, and the next call follows.

        Raises:
            ConfigurationError: the time is not positive, or the function takes arguments.
        """
        return self._runner.hooks.background.every(seconds)

    def start_soon(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Run an async def in the background while the App runs: from now on, or from its start.

        The task is cancelled when the App has drained. An exception is logged and ends only the task.

        Raises:
            ConfigurationError: the task is no function that takes the arguments, the App has drained, so that the task
                would not run, or the caller runs in another thread.
        """
        self.topics.check_thread("app.start_soon")
        self._runner.hooks.background.start_soon(task, *arguments)

    # -- running -----------------------------------------------------------------------------------------------------

    def listen(
        self,
        address: str = "127.0.0.1",
        port: int = 8080,
        *,
        tls: TlsArgument | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        proxy_protocol: bool = False,
    ) -> None:
        """Listen on an additional socket; the arguments are those of App.

        Raises:
            ConfigurationError: an argument is not valid, or the App runs already.
        """
        self._mounting.check_not_mounted()
        self._runner.change_listening().add(address, port, tls, unix_path, fd, proxy_protocol=proxy_protocol)

    def rebind(
        self,
        address: str | None = None,
        port: int | None = None,
        *,
        unix_path: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        tls: TlsArgument | None = None,
    ) -> None:
        """Replace the address, port or TLS of the App; None keeps a value. Other sockets of `listen` stay.

        Raises:
            ConfigurationError: an argument is not valid, or the App runs already.
        """
        self._mounting.check_not_mounted()
        self._runner.change_listening().replace_first(address, port, tls, unix_path, fd)

    def configure(
        self,
        *,
        http_host: str | Sequence[str] | None = None,
        broker: str | Broker | None = None,
        broker_key: Keys | None = None,
        trusted_proxies: Iterable[str] | None = None,
        access_log: bool | None = None,
        health_port: int | None = None,
        session_store: str | SessionStore | None = None,
        options: Mapping[str, Any] | None = None,
        **limits: Any,
    ) -> None:
        """Replace arguments of App before it runs; None keeps a value. The command line calls this.

        Args:
            http_host: as for App.
            broker: as for App.
            broker_key: as for App.
            trusted_proxies: as for App.
            access_log: as for App.
            health_port: the port of `health`, whose other arguments stay; an App without one answers on 127.0.0.1.
            session_store: replaces that of the App, which must have one; routes with a store of their own keep it.
            options: new values of some `Options` by their names. Routes with options of their own keep theirs, except
                for those of the whole server such as `drain_timeout`.
            limits: `max_connections`, `max_pending` and the other limits of connections.

        Raises:
            ConfigurationError: an argument is not valid, or the App runs already.
        """
        self._mounting.check_not_mounted()
        self._runner.check_not_running()
        if http_host is not None:
            self.router.set_http_host(http_host)
        if broker is not None:
            self.topics.use_broker(as_broker(broker))
        if broker_key is not None:
            self.topics.codec.use_keys(broker_key)
        given = {name: value for name, value in limits.items() if value is not None}
        changed = replace(self._runner.connection_limits, **given) if given else None
        self._runner.configure(changed, trusted_proxies, access_log=access_log, http_host=http_host)
        if health_port is not None:
            self._runner.change_listening().use_health_port(health_port)
        if session_store is not None:
            self._sessions.use_store(session_store)
        if options:
            self._use_options(replace(self.options, **options))
            self.router.set_server_options(self.options)

    def _use_options(self, options: Options) -> None:
        self.options = options
        for inner in self._mounted:
            inner._use_options(options)

    def run(
        self,
        *,
        backend: str = "asyncio",
        uvloop: bool | None = None,
        workers: int | None = None,
        worker_timeout: float = 30,
        worker_max_age: float | None = None,
        worker_max_connections: float | None = None,
        worker_max_memory: float | None = None,
        log_format: str = "text",
    ) -> None:
        """Run the App until SIGINT or SIGTERM; blocks.

        Without workers, SIGHUP reloads the certificates of `tls`, if they are files.

        At the first signal the App drains: it stops accepting connections, closes every connection with code 1012, and
        waits for them up to `Options.drain_timeout`. A second signal ends the process at once with exit status 130,
        even if a handler hangs. Outside of the main thread no signals arrive, and only `stop` ends the App.

        Args:
            backend: "asyncio" or "trio".
            uvloop: whether asyncio uses uvloop; by default if it is installed.
            workers: how many processes share the listening sockets. Above 1 this process supervises them, and SIGHUP
                replaces them. Each worker runs the program's command line up to this call, which does not return
                there. Without a broker, a bus between the workers carries the messages of topics.
            worker_timeout: seconds in which a worker must listen after its start, and in which its event loop must run
                each time. A worker that exceeds it hangs: its stack is logged, and another one replaces it.
                `math.inf` for no limit.
            worker_max_age: seconds after which a worker is replaced, as at SIGHUP. Each
                worker has a random share between 80 and 100 % of this and of the next two limits, so that not all are
                replaced at the same time.
            worker_max_connections: connections that a worker accepts until it is replaced.
            worker_max_memory: bytes of memory at which a worker is replaced.
            log_format: "text", or "json" for one object a line (`pywsapp.logs.JsonFormatter`); for programs that have
                not set up logging.

        Raises:
            ConfigurationError: an event loop runs already, a library is missing, the App cannot listen, or workers are
                not possible here, or would not see the same sessions.
        """
        check_not_importing("app.run()")
        self._mounting.check_not_mounted()
        if type(workers) is int and workers > 1:
            self._sessions.check_shared()
        limits = WorkerLimits(worker_timeout, worker_max_age, worker_max_connections, worker_max_memory)
        self._runner.run(backend, uvloop, workers, limits, log_format)

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the App inside an anyio program (asyncio or trio) until `stop`, or until cancelled.

        `await task_group.start(app.serve)` returns when the App listens, or was stopped before. The program handles
        signals. A later call runs the App again.

        Raises:
            ConfigurationError: the App runs already, or it cannot listen.
        """
        check_not_importing("app.serve()")
        self._mounting.check_not_mounted()
        await self._runner.serve(task_status=task_status)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as an ASGI application, on an ASGI server or mounted in a website; see `pywsapp.asgi`.

        The ASGI server listens: `port`, `tls` and other settings of sockets have no effect. The App checks the host
        only if `http_host` is given.

        Raises:
            ConfigurationError: the App runs already, or cannot start.
        """
        await self._asgi(scope, receive, send)

    def lifespan(self, site: object = None) -> AbstractAsyncContextManager[None]:
        """Run the App with a website: `FastAPI(lifespan=app.lifespan)`, or `async with app.lifespan():` in its own.

        Frameworks do not start applications that are mounted in them. The App starts before the site answers
        requests, and drains when the site shuts down.

        Args:
            site: the website, which frameworks pass; it is not used.
        """
        return self._asgi.lifespan()

    def stop(self) -> None:
        """Begin to drain. `run` or `serve` returns after the drain.

        With `Options.drain_delay` health checks fail first, and connections continue for that time. Startup hooks that
        still run are cancelled. If the App does not run yet, the next `run` or `serve` returns at once. Does not block.

        Raises:
            ConfigurationError: the caller runs in another thread.
        """
        self.topics.check_thread("app.stop")
        self._runner.stop()

    def stats(self) -> Stats:
        """Return the numbers of this process: connections, handshakes, limits and topics. Does not wait for anything.

        It looks at each connection, because counting what waits would make each message slower. That takes half a
        millisecond for 1,000 connections and up to 64 ms for 100,000, in which no message is handled. `worker_stats`
        lets the event loop go on every 4 ms.
        """
        return self._runner.stats()

    async def worker_stats(self) -> WorkerStats:
        """Return the numbers of all workers together, whichever of them calls it; without workers, those of `stats`.

        Blocks until all workers have answered, for a second at most.
        """
        return await self._runner.worker_stats()

    @property
    def port(self) -> int:
        """The TCP port: the port in use while the App runs, the configured one before."""
        return self._runner.port

    @property
    def urls(self) -> list[str]:
        """The URLs of the App while it runs: "http://localhost:8080", "unix:/run/chat.sock"."""
        return self._runner.urls
