"""Which routes have a guard, which accept pages of every site, so that they are noticed at the start; and fallbacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pywsapp._access import Authenticate
from pywsapp._log_fields import log_fields
from pywsapp.auth.identity import Public
from pywsapp.middleware.origin import OriginCheck
from pywsapp.middleware.session import SessionMiddleware
from pywsapp.routing.route import RouteKind, label_of, path_below
from pywsapp.routing.router import Router

logger = logging.getLogger("pywsapp")

_MAX_NAMED = 20


def log_guards(component: object) -> None:
    """Log which routes need no user, if other routes of a router have a guard."""
    if not has_guards(component):
        return
    found = list(guards_of(component)) if isinstance(component, Router) else []
    open_routes = [name for name, guard in found if guard is None]
    public_routes = [name for name, guard in found if isinstance(guard, Public)]
    if open_routes:
        logger.warning(
            "other routes need a user, but these have no authenticate: %s; write authenticate=public if they need none",
            _listed(open_routes),
            extra=log_fields("routes.no_guard", routes=_listed(open_routes)),
        )
    if public_routes:
        logger.info(
            "these routes need no user (authenticate=public): %s",
            _listed(public_routes),
            extra=log_fields("routes.public", routes=_listed(public_routes)),
        )


def log_origins(component: object) -> None:
    """Log which routes accept handshakes of pages of every site; a warning if such a page can act as a user."""
    found = list(_open_to_pages(component)) if isinstance(component, Router) else []
    with_users = [name for name, has_users in found if has_users]
    others = [name for name, has_users in found if not has_users]
    if with_users:
        logger.warning(
            "a page of any site can connect with the cookies of your users to: %s; list your pages in allowed_origins "
            "in place of '*' or 'null'",
            _listed(with_users),
            extra=log_fields("routes.any_origin", routes=_listed(with_users)),
        )
    if others:
        logger.info(
            "pages of any site can connect (allowed_origins has '*' or 'null'): %s",
            _listed(others),
            extra=log_fields("routes.any_origin", routes=_listed(others)),
        )


def _open_to_pages(
    router: Router, prefix: str = "", *, is_open: bool | None = None, has_users: bool = False
) -> Iterator[tuple[str, bool]]:
    """Yield each WebSocket route that accepts pages of every site, and whether it has a guard or sessions.

    Args:
        router: the router.
        prefix: the path that it is mounted on.
        is_open: whether all origin checks around it accept every page; None if there is none.
        has_users: whether there is a guard or a session around it.
    """
    has_users = has_users or _needs_user(router.authenticate)
    for route in router.routes_with_targets():
        if route.kind is RouteKind.HTTP:
            continue
        target: Any = route.target
        open_here, users_here = is_open, has_users or _needs_user(route.authenticate)
        while hasattr(target, "component"):  # middleware
            if isinstance(target, OriginCheck):
                accepts_all = "*" in target.allowed_origins or "null" in target.allowed_origins
                open_here = accepts_all and open_here is not False
            users_here = users_here or _needs_user(target.authenticate) or isinstance(target, SessionMiddleware)
            target = target.component
        path = path_below(prefix, route.pattern.text)
        if isinstance(target, Router):
            below = "" if path == "/" else path
            yield from _open_to_pages(target, below, is_open=open_here, has_users=users_here)
        elif open_here:
            yield f"{path} ({label_of(target)})", users_here or _needs_user(getattr(target, "authenticate", None))


def _needs_user(guard: object) -> bool:
    return guard is not None and not isinstance(guard, Public)


def has_guards(component: object) -> bool:
    """Return whether a router has a route that needs a user."""
    found = guards_of(component) if isinstance(component, Router) else ()
    return any(_needs_user(guard) for _, guard in found)


def has_fallback(component: object) -> bool:
    """Return whether a route of a router has a fallback for networks that block WebSockets."""
    while hasattr(component, "component"):  # middleware
        component = component.component
    if not isinstance(component, Router):
        return False
    return any(route.has_fallback or has_fallback(route.target) for route in component.routes_with_targets())


def _is_for_operators(target: object) -> bool:
    owner = getattr(target, "__self__", target)  # of a method that handles requests
    return getattr(owner, "is_for_operators", False) is True


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def guards_of(
    router: Router, prefix: str = "", outer: Authenticate | None = None
) -> Iterator[tuple[str, Authenticate | None]]:
    """Yield each route of a router, and of the routers mounted on it, with its guard.

    Health checks and the pages of operators are left out: whether they have a guard says nothing about the other ones.

    Args:
        router: the router.
        prefix: the path that it is mounted on.
        outer: the guard around it.
    """
    if router.authenticate is not None:
        outer = router.authenticate
    for route in router.routes_with_targets():
        if route.is_probe:
            continue
        guard = outer if route.authenticate is None else route.authenticate
        target: Any = route.target
        while route.kind is not RouteKind.HTTP and hasattr(target, "component"):  # middleware
            guard = target.authenticate or guard
            target = target.component
        if _is_for_operators(target):
            continue
        path = path_below(prefix, route.pattern.text)
        if isinstance(target, Router):
            yield from guards_of(target, "" if path == "/" else path, guard)
            continue
        if route.kind is not RouteKind.HTTP and getattr(target, "authenticate", None) is not None:
            guard = target.authenticate
        methods = f"{' '.join(route.methods)} " if route.methods else ""
        yield f"{methods}{path} ({label_of(target)})", guard
