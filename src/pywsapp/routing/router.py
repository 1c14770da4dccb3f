"""Which component or handler a request goes to, by its path and its host.

Three kinds of routes share one table: WebSocket components, handlers of plain HTTP, and mounts, which take everything
below a prefix. The table is sorted so that the first route that fits is the right one: a route of its own host before
one of any host, then by the specificity of the path. A mount is as specific as its prefix followed by a `path`
parameter, so one at "/" takes what no other route took.

HostPattern. A router answers to the hosts it is told; the App's is "localhost" unless told otherwise. Without that, DNS
rebinding reaches even a server that listens on 127.0.0.1 only: a page at evil.example lets its own name resolve to
127.0.0.1, connects to itself, and is of the same origin as what answers. But the browser sends `Host: evil.example`,
and no route answers to that. The router's default lets any IP address pass as Host, too. That opens nothing: a
rebound page is at a name and so sends the name, while a page that asks for an address in so many words has another
origin than the server, which the origin check sees. And health checks, and people who type http://127.0.0.1:8080, get
through. A host that is given to a single route means that host and nothing else.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from pywsapp._protocol.http import TOKEN
from pywsapp.component import (
    Accept,
    ComponentFactory,
    HandshakeAnswer,
    MessageComponent,
    check_component,
    make_component,
    normalized,
    then,
)
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.options import Options
from pywsapp.routing.host_pattern import HostPattern
from pywsapp.routing.path_pattern import REST_OF_PATH, PathPattern

#: Takes a request, is a def or an async def, and returns a Response, str, bytes, dict, list or None.
HttpHandler = Callable[[Request], Any]

_MAX_NAMED_HOSTS = 100  # a peer may invent hosts without end; after so many they are refused without a log line
_MAX_HOST_CHARACTERS = 100
logger = logging.getLogger("pywsapp")


class RouteKind(str, Enum):
    """What a route leads to."""

    WEBSOCKET = "websocket"
    HTTP = "http"
    MOUNT = "mount"


class RouteInfo(NamedTuple):
    """A line of `Router.routes()`."""

    kind: str
    host: str
    path: str
    component: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    kind: RouteKind
    hosts: HostPattern
    pattern: PathPattern
    target: Any  # an HttpHandler, or else what make_component takes
    subprotocols: Sequence[str] | None = None
    require_subprotocol: bool = False
    options: Options | None = None

    def match(self, path: str) -> tuple[dict[str, Any], str] | None:
        """Give the path's parameters and what a mount leaves of the path."""
        if self.kind is RouteKind.MOUNT:
            return self.pattern.match_prefix(path)
        params = self.pattern.match(path)
        return None if params is None else (params, path)

    def sort_key(self) -> tuple[Any, ...]:
        parts = self.pattern.specificity
        if self.kind is RouteKind.MOUNT:
            parts = (*(parts if self.pattern.text != "/" else ()), REST_OF_PATH)
        return self.hosts.specificity, parts, self.pattern.shape

    def info(self) -> RouteInfo:
        return RouteInfo(self.kind.value, self.hosts.text, self.pattern.text, _label(self.target))


class Router(MessageComponent):
    """Hands every request to the route that its path and host fit best (Ratchet's Http\\Router).

    Args:
        http_host: the host or hosts that routes answer to which name none themselves; None or `"*"` is any.

    Raises:
        ConfigurationError: no valid host.
    """

    def __init__(self, http_host: str | Iterable[str] | None = None) -> None:
        self._default = HostPattern(http_host, or_address=True)
        self._routes: list[_Route] = []
        self._named_hosts: set[str] = set()

    def route(
        self,
        path: str,
        component: MessageComponent | ComponentFactory,
        *,
        http_host: str | None = None,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        options: Options | None = None,
    ) -> None:
        """Route WebSocket handshakes to a component.

        Args:
            path: a `PathPattern`; its parameters are in `request.path_params`.
            component: one for all connections, or a class or function that makes one for each.
            http_host: only this host, `"*.example.com"` for subdomains, `"*"` for any; None is the router's.
            subprotocols: choose among these instead of the component's own, the preferred one first.
            require_subprotocol: refuse with 426 whoever offers none of them.
            options: limits for these connections instead of the server's.

        Raises:
            ConfigurationError: one of these is not valid, or another route has the same shape.
        """
        if not isinstance(options, Options | None):
            raise ConfigurationError(f"options must be an Options, not {options!r}")
        self._add(
            _Route(
                kind=RouteKind.WEBSOCKET,
                hosts=self._hosts(http_host),
                pattern=PathPattern(path),
                target=check_component(component),
                subprotocols=_checked_subprotocols(subprotocols),
                require_subprotocol=require_subprotocol,
                options=options,
            )
        )

    def http(self, path: str, handler: HttpHandler, *, http_host: str | None = None) -> None:
        """Route plain GET and HEAD requests to a handler.

        Args:
            path: a `PathPattern`.
            handler: takes the request, `def` or `async def`; returns a `Response`, or a str (text/plain), bytes,
                a dict or list (JSON) or None (204).
            http_host: as in `route`.

        Raises:
            ConfigurationError: no valid path or handler, or another route has the same shape.
        """
        _check_http_handler(handler)
        self._add(_Route(kind=RouteKind.HTTP, hosts=self._hosts(http_host), pattern=PathPattern(path), target=handler))

    def mount(self, path: str, component: MessageComponent | ComponentFactory, *, http_host: str | None = None) -> None:
        """Hand everything below a path to another component: a Router, a StaticFolder.

        It sees the request with the prefix removed from `request.path`, and the parameters of both paths; the
        connection's own `request` keeps the whole path.

        Args:
            path: the prefix, a `PathPattern` without a path parameter; `""` or `"/"` takes what no route took.
            component: as in `route`.
            http_host: as in `route`.

        Raises:
            ConfigurationError: one of these is not valid, or another mount has the same shape.
        """
        if component is self:
            raise ConfigurationError("a router cannot be mounted on itself")
        pattern = PathPattern(PathPattern(path or "/").text.rstrip("/") or "/")
        if pattern.specificity[-1] == REST_OF_PATH:
            raise ConfigurationError(
                f"{path!r}: a mount takes the whole rest of the path anyway; leave the last part out"
            )
        target = check_component(component)
        self._add(_Route(kind=RouteKind.MOUNT, hosts=self._hosts(http_host), pattern=pattern, target=target))

    def routes(self) -> list[RouteInfo]:
        """List the routes in the order in which they are tried."""
        return [route.info() for route in self._routes]

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Hand a handshake over to the component of its route.

        Raises:
            Refuse: with 404 if there is no WebSocket of that path and host.
        """
        known = False
        for route, params, rest in self._fitting(request):
            if route.kind is not RouteKind.HTTP:
                component = make_component(route.target)
                answer = component.on_handshake(_routed(request, route, params, rest))
                return then(answer, partial(_accepted, route, component))
            known = True
        if known:
            raise Refuse(404, body="there is no WebSocket here, only plain HTTP")
        raise self._nothing(request)

    def on_request(self, request: Request) -> Response | Awaitable[Response]:
        """Hand a plain HTTP request to the handler or component of its route.

        Raises:
            Refuse: with 404 if there is no route of that path and host, with 405 if the method is neither GET nor HEAD.
        """
        found = None
        for fitting in self._fitting(request):
            kind = fitting[0].kind
            if kind is RouteKind.WEBSOCKET:
                found = found or fitting  # unless a less specific route is a handler: that one was meant
            else:
                found = fitting if kind is RouteKind.HTTP or found is None else found
                break
        if found is None:
            raise self._nothing(request)
        return self._answer(request, *found)

    def _answer(
        self, request: Request, route: _Route, params: dict[str, Any], rest: str
    ) -> Response | Awaitable[Response]:
        if route.kind is RouteKind.MOUNT:
            if not rest and request.method in ("GET", "HEAD"):
                return with_slash(request)
            return make_component(route.target).on_request(_routed(request, route, params, rest))
        if request.method not in ("GET", "HEAD"):
            raise Refuse(405, {"Allow": "GET, HEAD"}, "only GET and HEAD are answered here")
        routed = _routed(request, route, params, rest)
        if route.kind is RouteKind.HTTP:
            return then(route.target(routed), partial(_response, route.target))
        return make_component(route.target).on_request(routed)

    def _fitting(self, request: Request) -> Iterator[tuple[_Route, dict[str, Any], str]]:
        for route in self._routes:
            if route.hosts.match(request.host) and (found := route.match(request.path)) is not None:
                yield route, *found

    def _nothing(self, request: Request) -> Refuse:
        """Tell why nothing fits; a wrong host is the mistake that costs people hours, so it is spelled out."""
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
            )
        return Refuse(404, body=f"host {host} is not served here, only {names}; the server sets it with http_host")

    def _hosts(self, http_host: str | None) -> HostPattern:
        return self._default if http_host is None else HostPattern(http_host)

    def _add(self, route: _Route) -> None:
        for other in self._routes:
            if (route.kind, route.hosts.text, route.pattern.shape) == (
                other.kind,
                other.hosts.text,
                other.pattern.shape,
            ):
                raise ConfigurationError(
                    f"route twice: {route.pattern.text!r} ({_label(route.target)}) and {other.pattern.text!r} "
                    f"({_label(other.target)}) take the same {route.kind.value} requests of host {route.hosts.text}"
                )
        self._routes.append(route)
        self._routes.sort(key=_Route.sort_key)


def with_slash(request: Request) -> Response:
    """Send the client to the same path with a slash behind it, so that relative links below it work.

    The Location is relative (RFC 9110 section 10.2.2): a mount may have cut the path, and one that begins with two
    slashes would name another host.
    """
    location = quote(request.path.rpartition("/")[2], safe="", errors="replace") + "/"
    query = f"?{request.query_string}" if request.query_string else ""
    return Response(status=308, headers={"Location": location + query, "Cache-Control": "no-cache"})


def _routed(request: Request, route: _Route, params: dict[str, Any], rest: str) -> Request:
    request.path_params.update(params)
    if route.kind is not RouteKind.MOUNT:
        return request
    inner = copy.copy(request)  # shares path_params, so that conn.request has those of the inner routes too
    inner.path = rest or "/"
    return inner


def _accepted(route: _Route, component: MessageComponent, answer: HandshakeAnswer) -> Accept:
    """Fill in what the route says where the component's own answer says nothing."""
    accept = normalized(answer, component)
    if route.subprotocols is None and route.options is None and not route.require_subprotocol:
        return accept
    return replace(
        accept,
        subprotocols=route.subprotocols if accept.subprotocols is None else accept.subprotocols,
        require_subprotocol=accept.require_subprotocol or route.require_subprotocol,
        options=route.options if accept.options is None else accept.options,
    )


def _response(handler: HttpHandler, value: Any) -> Response:
    if isinstance(value, Response):
        return value
    if isinstance(value, (str, bytes)):
        return Response(value)
    if isinstance(value, (dict, list)):
        return Response.json(value)
    if value is None:
        return Response(status=204)
    raise TypeError(f"{_label(handler)} must return a Response, str, bytes, dict, list or None, not {value!r}")


def _checked_subprotocols(subprotocols: Any) -> tuple[str, ...] | None:
    if subprotocols is None:
        return None
    if isinstance(subprotocols, str):
        raise ConfigurationError(f"subprotocols is a list: write [{subprotocols!r}]")
    for name in subprotocols:
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name for a subprotocol: letters, digits and !#$%&'*+-.^_`|~ only")
    return tuple(subprotocols)


def _check_http_handler(handler: HttpHandler) -> None:
    if not callable(handler):
        raise ConfigurationError(f"an HTTP route needs a function that takes the request, not {handler!r}")
    try:
        inspect.signature(handler).bind("request")
    except TypeError as exc:
        raise ConfigurationError(f"{_label(handler)} must take (request): {exc}") from None
    except ValueError:
        return  # a builtin without a signature


def _label(target: object) -> str:
    """Name a component, class or function for people: `Chat`, `OriginCheck(Chat)`."""
    if not isinstance(target, MessageComponent):
        return getattr(target, "__qualname__", type(target).__name__)
    inner = getattr(target, "component", None)
    name = type(target).__name__
    return f"{name}({_label(inner)})" if isinstance(inner, MessageComponent) or callable(inner) else name
