"""The routes of an App as a document shows them: whole paths, with what lies around a component taken off."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pywsapp._messages.choosing import default_codec
from pywsapp._messages.typed import TypedMessages, prepare
from pywsapp.codecs.base import Codec
from pywsapp.component import MessageComponent
from pywsapp.routing.route import RouteKind
from pywsapp.routing.router import Router


class DocumentedRoute(NamedTuple):
    """A route with a component.

    Args:
        path: the whole path pattern, also below mounts.
        host: the hosts of the route, if it has some of its own; None is any host of the App.
        component: the class of the component; None if it is not known.
        codecs: the codecs of its connections; none if messages are text and bytes.
        subprotocols: the subprotocols that clients can offer, those of the codecs included.
        guard: what authenticates the clients; None if there is nothing.
    """

    path: str
    host: str | None
    component: type[MessageComponent] | None
    codecs: tuple[Codec, ...]
    subprotocols: tuple[str, ...]
    guard: Any

    @property
    def typed(self) -> TypedMessages | None:
        """The messages that the handlers of the component accept; None for text and bytes."""
        typed = None if self.component is None else self.component._typed
        return typed if isinstance(typed, TypedMessages) else None


def routes_of(
    router: Router, prefix: str = "", host: str | None = None, codecs: tuple[Codec, ...] = (), guard: Any = None
) -> Iterator[DocumentedRoute]:
    """Return the routes of a router that lead to components, also those of routers below it.

    Args:
        router: the router.
        prefix: the path of its mount.
        host: the hosts of its mount, if it has some of its own.
        codecs: the codecs of the routers around it.
        guard: the guard around it.
    """
    codecs = router._codecs or codecs
    guard = guard if router.authenticate is None else router.authenticate
    for route in sorted(router.routes_with_targets(), key=lambda route: (route.pattern.text, route.hosts.text)):
        if route.kind is RouteKind.HTTP:
            continue
        own_host = host if route.hosts is router._default else route.hosts.text
        own_guard = guard if route.authenticate is None else route.authenticate
        target, own_guard = _inside(route.target, own_guard)
        path = f"{prefix}{route.pattern.text}" if route.pattern.text != "/" or not prefix else f"{prefix}/"
        if route.kind is RouteKind.MOUNT:
            if isinstance(target, Router):
                yield from routes_of(target, path.rstrip("/"), own_host, codecs, own_guard)
            continue
        kind = _class_of(target)
        own_codecs = route.codecs or codecs
        subprotocols = route.subprotocols
        if subprotocols is None:
            subprotocols = getattr(kind if isinstance(target, type) else target, "subprotocols", ())
        names = subprotocols if isinstance(subprotocols, (list, tuple)) else ()  # a property can change its value
        found = DocumentedRoute(path, own_host, kind, own_codecs, (), own_guard)
        names = tuple(dict.fromkeys((*names, *(codec.name for codec in own_codecs))))
        if found.typed is not None and not own_codecs:
            own_codecs = (default_codec(),)
        yield found._replace(codecs=own_codecs, subprotocols=names)


def _inside(target: Any, guard: Any) -> tuple[Any, Any]:
    """Return the component inside of all middleware, and the innermost guard."""
    while True:
        own = getattr(target, "authenticate", None)
        if own is not None and not isinstance(target, Router):
            guard = own
        inner = getattr(target, "component", None)
        if not isinstance(target, MessageComponent) or inner is None:
            return target, guard
        target = inner


def _class_of(target: Any) -> type[MessageComponent] | None:
    """Return the class of a component; for a function that makes one, what its annotation says."""
    if isinstance(target, MessageComponent):
        return type(target)
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isfunction(target):
        try:
            target = typing.get_type_hints(target).get("return")
        except (NameError, TypeError):  # a name that exists for type checkers only
            return None
    if not isinstance(target, type) or not issubclass(target, MessageComponent):
        return None
    prepare(target)
    return target
