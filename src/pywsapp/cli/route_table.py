"""The routes of an App with what lies around them: whole paths, guards, origins, sessions, options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pywsapp.app import App
from pywsapp.auth.identity import Public
from pywsapp.middleware.origin import OriginCheck
from pywsapp.middleware.rate_limit import RateLimit
from pywsapp.middleware.session import SessionMiddleware
from pywsapp.options import Options
from pywsapp.routing.events import EventStreams
from pywsapp.routing.route import Route, RouteKind, label_of
from pywsapp.routing.router import Router
from pywsapp.routing.static import StaticFolder

WEBSOCKET, EVENTS, HTTP, FILES, PROBE = "websocket", "events", "http", "files", "health"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRoute:
    """One route of an App, as a client reaches it.

    Attributes:
        kind: "websocket", "events", "http", "files" or "health".
        path: the whole path pattern; it ends with "/..." if everything below it is meant.
        host: the hosts that it answers to.
        component: the name of the component, handler or folder.
        module: the module of the component.
        methods: the HTTP methods.
        guard: what authenticates clients; None if there is nothing.
        origin_checks: the checks of pages around it, the outermost first.
        has_sessions: whether its requests have sessions.
        has_rate_limit: whether a `RateLimit` is around it.
        subprotocols: the subprotocols that a client can offer.
        options: the limits of its connections.
    """

    kind: str
    path: str
    host: str
    component: str
    module: str = ""
    methods: tuple[str, ...] = ()
    guard: Any = None
    origin_checks: tuple[OriginCheck, ...] = ()
    has_sessions: bool = False
    has_rate_limit: bool = False
    subprotocols: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)

    @property
    def label(self) -> str:
        """The route in a message: `GET /page (show)`."""
        methods = f"{' '.join(self.methods)} " if self.methods else ""
        return f"{methods}{self.path} ({self.component})"

    @property
    def needs_user(self) -> bool:
        """Whether a guard refuses clients without a user."""
        return self.guard is not None and not isinstance(self.guard, Public)

    @property
    def takes_connections(self) -> bool:
        """Whether clients can connect: by a WebSocket or an event stream."""
        return self.kind in (WEBSOCKET, EVENTS)

    @property
    def any_origin(self) -> bool:
        """Whether pages of every site can connect, although the origin is checked."""
        return bool(self.origin_checks) and all(
            "*" in check.allowed_origins or "null" in check.allowed_origins for check in self.origin_checks
        )

    @property
    def same_origin(self) -> bool:
        """Whether only pages of the server's own host can connect."""
        return any(not check.allowed_origins for check in self.origin_checks)

    @property
    def guard_name(self) -> str:
        """The guard as a text; empty if there is none."""
        guard = inspect.unwrap(self.guard) if callable(self.guard) else self.guard
        if guard is None:
            return ""
        if isinstance(guard, Public):
            return "public"
        return getattr(guard, "__qualname__", type(guard).__name__)

    @property
    def origins(self) -> str:
        """The pages that can connect, as a text; empty where no page connects."""
        if not self.takes_connections:
            return ""
        if not self.origin_checks:
            return "not checked"
        texts = [", ".join(check.allowed_origins) or "same origin" for check in self.origin_checks]
        required = " (required)" if any(check.require_origin for check in self.origin_checks) else ""
        return " and ".join(dict.fromkeys(texts)) + required


def routes_of_app(app: App) -> list[FoundRoute]:
    """Return the routes of an App and of everything that is mounted on it, sorted by their paths."""
    outer = FoundRoute(kind="", path="", host=app.router._default.text, component="", options=app.options)
    return sorted(_routes(app.router, outer), key=lambda route: (route.path, route.host, route.kind, route.methods))


def _routes(router: Router, outer: FoundRoute) -> Iterator[FoundRoute]:
    """Yield the routes of a router.

    Args:
        router: the router.
        outer: what lies around it; its `path` is the prefix, without a slash at the end.
    """
    if router.authenticate is not None:
        outer = replace(outer, guard=router.authenticate)
    for route in router.routes_with_targets():
        is_root = route.pattern.text == "/"
        found = replace(
            outer,
            path=outer.path + ("" if is_root and outer.path else route.pattern.text),
            host=outer.host if route.hosts is router._default else route.hosts.text,
            guard=outer.guard if route.authenticate is None else route.authenticate,
            options=route.options or outer.options,
            methods=route.methods,
        )
        if route.kind is RouteKind.HTTP:
            yield _handler_route(route, found)
        else:
            yield from _component_routes(route, found)


def _handler_route(route: Route, found: FoundRoute) -> FoundRoute:
    handler = inspect.unwrap(route.target)
    kind = PROBE if route.is_probe else EVENTS if isinstance(handler, EventStreams) else HTTP
    found = replace(
        found,
        kind=kind,
        component=label_of(handler).rpartition("<locals>.")[2],
        module=getattr(handler, "__module__", "") if kind == HTTP else "",
        has_sessions=found.has_sessions or handler is not route.target,
    )
    if isinstance(handler, EventStreams):
        found = replace(
            found,
            component=f"topic {handler._topic.text}",
            origin_checks=(*found.origin_checks, handler._origins),
            options=handler._settings.options or found.options,
        )
    return found


def _component_routes(route: Route, found: FoundRoute) -> Iterator[FoundRoute]:
    target: Any = route.target
    while hasattr(target, "component"):  # middleware
        found = replace(
            found,
            guard=found.guard if target.authenticate is None else target.authenticate,
            origin_checks=(*found.origin_checks, target) if isinstance(target, OriginCheck) else found.origin_checks,
            has_sessions=found.has_sessions or isinstance(target, SessionMiddleware),
            has_rate_limit=found.has_rate_limit or isinstance(target, RateLimit),
        )
        target = target.component
    if isinstance(target, Router):
        yield from _routes(target, replace(found, path=found.path.rstrip("/"), methods=()))
        return
    if getattr(target, "authenticate", None) is not None:
        found = replace(found, guard=target.authenticate)
    below = f"{found.path.rstrip('/')}/..." if route.kind is RouteKind.MOUNT else found.path
    if isinstance(target, StaticFolder):
        yield replace(found, kind=FILES, path=below, component=target.directory)
        return
    named = target if isinstance(target, type) or not hasattr(target, "on_open") else type(target)
    subprotocols = route.subprotocols
    if subprotocols is None:
        declared = getattr(target, "subprotocols", ())
        subprotocols = declared if isinstance(declared, (list, tuple)) else ()  # a property can change its value
    codecs = tuple(codec.name for codec in route.codecs)
    yield replace(
        found,
        kind=WEBSOCKET,
        path=below,
        component=label_of(target),
        module=getattr(named, "__module__", ""),
        subprotocols=tuple(dict.fromkeys((*subprotocols, *codecs))),
    )
