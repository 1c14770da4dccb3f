"""The router: which component or handler a request goes to, by its path and its host.

One table holds three kinds of routes: WebSocket components, handlers of plain HTTP, and mounts, which match every path
below a prefix. The table is sorted so that the first route that matches is the right one: a route with a host of its
own before one for any host, then by the specificity of the path. A mount is as specific as its prefix followed by a
`path` parameter, so a mount at "/" matches only what no other route matches.

Hosts. A router answers only to the hosts that it is configured for; the default of an App is "localhost". Without this
check, DNS rebinding reaches even a server that listens on 127.0.0.1 only: a page at evil.example makes its own name
resolve to 127.0.0.1, connects to itself, and then has the same origin as the server. But the browser sends `Host:
evil.example`, and no route answers to that. The router's default also accepts any IP address as Host. This is safe: a
rebound page was loaded by a name and so sends the name, while a page that connects to an address in its URL has another
origin than the server, which the origin check refuses. Health checks need it, and developers who open
http://127.0.0.1:8080. A host that is given for a single route means exactly that host.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from typing_extensions import Unpack

from pywsapp._access import (
    Authenticate,
    ask_handler,
    ask_handshake,
    ask_request,
    check_authenticate,
    check_has_no_guard,
    refuse_after_guard,
    set_guard,
)
from pywsapp._authorize import Authorize, check_authorize
from pywsapp._hooks import check_component, checked_subprotocols, make_component, then
from pywsapp._log_fields import log_fields
from pywsapp._messages.choosing import Codecs, check_can_read, check_has_no_protocol, checked_codecs, note_codecs
from pywsapp._signatures import check_takes
from pywsapp.component import Accept, ComponentFactory, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.options import SERVER_WIDE, Options, check_not_server_wide
from pywsapp.routing.events import EventSettings, EventStreams
from pywsapp.routing.fallback import check_has_fallback, note_fallback, takes_request
from pywsapp.routing.host_pattern import HostPattern, check_not_bind_all, default_hosts
from pywsapp.routing.passing_on import accepted, ask_mounted, note_rules, passed_on
from pywsapp.routing.path_pattern import REST_OF_PATH, PathPattern
from pywsapp.routing.responses import HttpHandler, as_response
from pywsapp.routing.route import READING, Route, RouteInfo, RouteKind, checked_methods, label_of

_MAX_NAMED_HOSTS = 100  # peers can invent any number of hosts; further ones are refused without a log line
_MAX_HOST_CHARACTERS = 100
logger = logging.getLogger("pywsapp")


class Router(MessageComponent):
    """Hands each request to the most specific route for its path and host (Ratchet's Http\\Router).

    Args:
        http_host: the host or hosts for routes that have none of their own; None or `"*"` is any host.
        server_options: the options of the server; see `route`.
        authenticate: the guard of every route that has none of its own; see `pywsapp.auth`.
        authorize: decides which topics the connections of the routes may use, where what is inside has no opinion; see
            `MessageComponent.authorize`.
        codec: the codec of every route that has none of its own, or several; see `route`.

    Raises:
        ConfigurationError: `http_host` is no valid host, `authenticate` or `authorize` takes other arguments, or
            `codec` is no codec.
    """

    _passes_on = True

    def __init__(
        self,
        http_host: str | Iterable[str] | None = None,
        *,
        server_options: Options | None = None,
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        codec: Codecs | None = None,
    ) -> None:
        self._codecs = checked_codecs(codec)
        self.authenticate = check_authenticate(authenticate, "the App or Router")
        self.authorize = check_authorize(authorize, "the App or Router")
        self._default = default_hosts(http_host)
        self._server_options = Options() if server_options is None else server_options
        if not isinstance(self._server_options, Options):
            raise ConfigurationError(f"options must be an Options, not {server_options!r}")
        self._routes: list[Route] = []
        self._named_hosts: set[str] = set()

    def set_http_host(self, http_host: str | Iterable[str] | None) -> None:
        """Change the host or hosts for routes that have none of their own, also for existing routes.

        Raises:
            ConfigurationError: `http_host` is no valid host, or two routes would then match the same requests.
        """
        before, self._default = self._default, default_hosts(http_host)
        routes, self._routes = self._routes, []
        for route in routes:
            self._add(replace(route, hosts=self._default) if route.hosts is before else route)

    def set_server_options(self, options: Options) -> None:
        """Change the options of the server, also those that existing routes repeat."""
        self._server_options = options
        wide = {name: getattr(options, name) for name in SERVER_WIDE}
        for number, route in enumerate(self._routes):
            if route.options is not None:
                self._routes[number] = replace(route, options=replace(route.options, **wide))

    def route(
        self,
        path: str,
        component: MessageComponent | ComponentFactory,
        *,
        http_host: str | None = None,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        options: Options | None = None,
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        codec: Codecs | None = None,
        fallback: bool = False,
    ) -> None:
        """Route WebSocket handshakes to a component.

        Args:
            path: a `PathPattern`; its parameters are in `request.path_params`.
            component: an instance for all connections, or a class or function that makes one for each.
            http_host: only this host, `"*.example.com"` for subdomains, `"*"` for any; None is the router's.
            subprotocols: choose among these instead of the component's own, the preferred one first.
            require_subprotocol: refuse clients that offer none of the subprotocols with status 426.
            options: limits for these connections instead of the server's. Options that only the server reads
                (`pywsapp.options.SERVER_WIDE`) must have their defaults or the values of `server_options`.
            authenticate: the guard of this route; None is that of the router, a mount or an App around it.
            authorize: decides which topics its connections may use, after the component and before the router.
            codec: the codec of its connections, such as `JsonCodec()`. If a list has several, a client chooses one by
                its name as the subprotocol; the first one is for clients that choose none.
            fallback: as for `App.route`, but for pages of the same origin only.

        Raises:
            ConfigurationError: an argument is not valid, another route has the same shape, the component has an
                `authenticate` of its own as well, or the codec cannot read the messages that the component accepts.
        """
        codecs = checked_codecs(codec)
        if authenticate is not None:
            check_has_no_guard(component, f"the route {path!r}")
        if options is not None:
            check_not_server_wide(options, self._server_options, "a route")
        target = check_component(component)
        if codecs or subprotocols is not None:
            check_has_no_protocol(target, f"the route {path!r}")
        check_can_read(target, codecs or self._codecs, subprotocols)
        if fallback:
            check_has_fallback(target, f"the route {path!r}")
        self._add(
            Route(
                kind=RouteKind.WEBSOCKET,
                hosts=self._hosts(http_host),
                pattern=PathPattern(path),
                target=target,
                subprotocols=None if subprotocols is None else checked_subprotocols(subprotocols, "subprotocols"),
                require_subprotocol=require_subprotocol,
                options=options,
                authenticate=check_authenticate(authenticate, f"the route {path!r}"),
                authorize=check_authorize(authorize, f"the route {path!r}"),
                codecs=codecs,
                has_fallback=fallback,
            )
        )

    def http(
        self,
        path: str,
        handler: HttpHandler,
        *,
        methods: Iterable[str] = ("GET",),
        http_host: str | None = None,
        is_probe: bool = False,
        authenticate: Authenticate | None = None,
    ) -> None:
        """Route plain HTTP requests to a handler.

        Args:
            path: a `PathPattern`.
            handler: a `def` or `async def` that takes the request and returns a `Response`, or a str (text/plain),
                bytes, a dict or list (JSON) or None (204).
            methods: the methods that the handler answers; "GET" includes "HEAD". Other methods get status 405.
            http_host: as in `route`.
            is_probe: whether the handler answers also when the server has too many connections or drains; for health
                checks.
            authenticate: as in `route`.

        Raises:
            ConfigurationError: an argument is not valid, or another route has the same shape and method.
        """
        check_takes(handler, ("request",), label_of(handler) if callable(handler) else f"the handler of {path!r}")
        self._add(
            Route(
                kind=RouteKind.HTTP,
                hosts=self._hosts(http_host),
                pattern=PathPattern(path),
                target=handler,
                methods=checked_methods(methods),
                is_probe=is_probe,
                authenticate=check_authenticate(authenticate, f"the route {path!r}"),
            )
        )

    def events(
        self,
        path: str,
        topic: str,
        prepare: Callable[[HttpHandler], HttpHandler] = lambda handler: handler,
        **settings: Unpack[EventSettings],
    ) -> None:
        """Stream a topic as server-sent events; see `App.events`, also for the settings.

        Args:
            path: a `PathPattern`.
            topic: the name of the topic, with placeholders.
            prepare: puts something around the handler of the route, sessions for instance.
            settings: the other settings.

        Raises:
            ConfigurationError: an argument is not valid, or another route has the same shape and method.
        """
        pattern = PathPattern(path)
        streams = EventStreams(pattern.parameters, topic, settings, self._server_options)
        self._add(
            Route(
                kind=RouteKind.HTTP,
                hosts=self._hosts(settings.get("http_host")),
                pattern=pattern,
                target=prepare(streams),
                methods=("GET",),
                authenticate=check_authenticate(settings.get("authenticate"), f"the route {path!r}"),
                authorize=check_authorize(settings.get("authorize"), f"the route {path!r}"),
            )
        )

    def mount(
        self,
        path: str,
        component: MessageComponent | ComponentFactory,
        *,
        http_host: str | None = None,
        authenticate: Authenticate | None = None,
    ) -> None:
        """Route every request below a path to another component, such as a Router or a StaticFolder.

        The component sees the request with the prefix removed from `request.path`, and the parameters of both paths;
        `request` of the connection keeps the whole path.

        Args:
            path: the prefix, a `PathPattern` without a path parameter; `""` or `"/"` matches what no route matches.
            component: as in `route`.
            http_host: as in `route`.
            authenticate: the guard of everything below the path that has none of its own.

        Raises:
            ConfigurationError: an argument is not valid, or another mount has the same shape.
        """
        if component is self:
            raise ConfigurationError("a router cannot be mounted on itself")
        pattern = PathPattern(PathPattern(path or "/").text.rstrip("/") or "/")
        if pattern.specificity[-1] == REST_OF_PATH:
            raise ConfigurationError(
                f"{path!r}: a mount matches the whole rest of the path anyway; leave the last part out"
            )
        target = check_component(component)
        self._add(
            Route(
                kind=RouteKind.MOUNT,
                hosts=self._hosts(http_host),
                pattern=pattern,
                target=target,
                authenticate=check_authenticate(authenticate, f"the mount {path!r}"),
            )
        )

    def routes(self) -> list[RouteInfo]:
        """Return the routes in the order in which they are tried."""
        return [route.info() for route in self._routes]

    def routes_with_targets(self) -> tuple[Route, ...]:
        """Return the routes with what they lead to, in the same order."""
        return tuple(self._routes)

    def is_probe(self, request: Request) -> bool:
        """Return whether a plain request goes to a handler that answers also above `max_connections`."""
        for route, params, rest in self._matching(request):
            if route.kind is RouteKind.HTTP and request.method in route.methods:
                return route.is_probe
            if route.kind is RouteKind.MOUNT:
                inner = passed_on(request, route, params, rest)
                return isinstance(route.target, Router) and route.target.is_probe(inner)
        return False

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Return the decision of the component at the request's path and host.

        Raises:
            Refuse: no WebSocket component has this path and host; status 404.
        """
        note_rules(request, self)
        if self._codecs:
            note_codecs(request, self._codecs)
        known = False
        for route, params, rest in self._matching(request):
            if route.kind is not RouteKind.HTTP:
                note_rules(request, route)
                if route.codecs:
                    note_codecs(request, route.codecs)
                if route.has_fallback:
                    note_fallback(request, route)
                component = make_component(route.target)
                answer = ask_handshake(component, passed_on(request, route, params, rest))
                return then(answer, partial(accepted, route, component))
            known = True
        refuse = Refuse(404, body="there is no WebSocket here, only plain HTTP") if known else self._not_found(request)
        return refuse_after_guard(request, refuse)

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Return the answer of the handler or component at the request's path and host.

        A handler of plain HTTP comes before a WebSocket component, even if the component's path is more specific.

        Raises:
            Refuse: no route has this path and host, status 404; or a route has, for other methods, status 405.
        """
        note_rules(request, self)
        websocket: tuple[Route, dict[str, Any], str] | None = None
        allowed: tuple[str, ...] = ()
        for route, params, rest in self._matching(request):
            if route.kind is RouteKind.WEBSOCKET:
                websocket = websocket or (route, params, rest)
            elif route.kind is RouteKind.HTTP:
                if request.method in route.methods:
                    note_rules(request, route)
                    routed = passed_on(request, route, params, rest)
                    answer = ask_handler(route.target, routed)
                    return then(answer, partial(as_response, route.target))
                allowed += route.methods
            elif websocket is None and not allowed:
                return ask_mounted(request, route, params, rest)
            else:
                break
        if websocket is not None:
            if request.method in READING or takes_request(websocket[0], request, self._server_options):
                set_guard(request, websocket[0].authenticate)
                return ask_request(make_component(websocket[0].target), passed_on(request, *websocket))
            allowed = (*READING, *allowed)
        if allowed:
            names = ", ".join(dict.fromkeys(allowed))
            return refuse_after_guard(request, Refuse(405, {"Allow": names}, f"the methods here are {names}"))
        return refuse_after_guard(request, self._not_found(request))

    def _matching(self, request: Request) -> Iterator[tuple[Route, dict[str, Any], str]]:
        for route in self._routes:
            if route.hosts.match(request.host) and (found := route.match(request.path)) is not None:
                yield route, *found

    def _not_found(self, request: Request) -> Refuse:
        """Return why no route matches; a wrong host is hard to find, so the log names those that are served.

        The client does not learn them, because they can be names of internal machines.
        """
        served = list(dict.fromkeys(route.hosts.text for route in self._routes if route.match(request.path)))
        if not served:
            return Refuse(404, body="there is nothing at this path")
        host, names = ascii(request.host[:_MAX_HOST_CHARACTERS]), ", ".join(served)
        if host not in self._named_hosts and len(self._named_hosts) < _MAX_NAMED_HOSTS:
            self._named_hosts.add(host)
            logger.warning(
                "refused a request for host %s: its path is served for %s only; "
                "if that is your own host, set it as http_host of the App or of the route ('*' for any)",
                host,
                names,
                extra=log_fields("request.host_refused", host=request.host),
            )
        return Refuse(404, body=f"host {host} is not served here; the log of the server names the hosts that are")

    def _hosts(self, http_host: str | None) -> HostPattern:
        if http_host is None:
            return self._default
        check_not_bind_all(http_host)
        return HostPattern(http_host)

    def _add(self, route: Route) -> None:
        for other in self._routes:
            if route.conflicts_with(other):
                raise ConfigurationError(
                    f"route twice: {route.pattern.text!r} ({label_of(route.target)}) and {other.pattern.text!r} "
                    f"({label_of(other.target)}) match the same {route.kind.value} requests of host {route.hosts.text}"
                )
        self._routes.append(route)
        self._routes.sort(key=Route.sort_key)
