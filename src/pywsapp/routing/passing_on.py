"""Passing a request on from a router: its notes on the request, and its additions to the answer."""

from __future__ import annotations

import copy
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Protocol

from pywsapp._access import Authenticate, after_guard, ask_request, set_guard
from pywsapp._authorize import Authorize, note_authorize
from pywsapp._hooks import as_accept, make_component
from pywsapp.component import Accept, HandshakeAnswer, MessageComponent
from pywsapp.http import Request, Response
from pywsapp.routing.responses import with_slash
from pywsapp.routing.route import READING, Route, RouteKind, path_below


class Owner(Protocol):
    """A router or a route, which can have rules of its own."""

    @property
    def authenticate(self) -> Authenticate | None:
        """The guard."""

    @property
    def authorize(self) -> Authorize | None:
        """The functions that decide about topics."""


def note_rules(request: Request, owner: Owner) -> None:
    """Note the guard and the `authorize` of a request; a plain one can be for an event stream."""
    set_guard(request, owner.authenticate)
    if owner.authorize is not None:
        note_authorize(request, owner.authorize)


def passed_on(request: Request, route: Route, params: dict[str, Any], rest: str) -> Request:
    """Return the request for what a route leads to: for a mount a copy with the rest of the path.

    Args:
        request: the request.
        route: the route that matches it.
        params: the parameters of the route.
        rest: the part of the path that a mount does not match.
    """
    if params:
        request.path_params.update(params)
    origin = request._origin
    if origin is None:
        pattern = request._route = route.pattern.text
    else:  # below a mount, whose request has the pattern of the mount
        pattern = origin._route = path_below(request._route, route.pattern.text)
    if route.kind is not RouteKind.MOUNT:
        return request
    inner = copy.copy(request)  # shares path_params, so conn.request has those of the inner routes too
    inner.path = rest or "/"
    inner._route = pattern
    inner._mount_hosts = f"{request._mount_hosts}{route.hosts.text}; "
    return inner


def ask_mounted(request: Request, route: Route, params: dict[str, Any], rest: str) -> Response | Awaitable[Response]:
    """Return the answer of what is mounted to a plain request; the arguments are those of `passed_on`."""
    set_guard(request, route.authenticate)
    if not rest and request.method in READING:
        redirect = with_slash(request)  # before the guard removes a token from the query
        return after_guard(request, lambda: redirect)
    return ask_request(make_component(route.target), passed_on(request, route, params, rest))


def accepted(route: Route, component: MessageComponent, answer: HandshakeAnswer) -> Accept:
    """Add the route's settings to the component's answer, which takes precedence."""
    accept = as_accept(answer, component)
    if route.subprotocols is None and route.options is None and not route.require_subprotocol:
        return accept
    return replace(
        accept,
        subprotocols=route.subprotocols if accept.subprotocols is None else accept.subprotocols,
        require_subprotocol=accept.require_subprotocol or route.require_subprotocol,
        options=route.options if accept.options is None else accept.options,
    )
