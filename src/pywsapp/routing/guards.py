"""Which routes have a guard, so that an open route beside guarded ones is noticed when the App starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pywsapp._access import Authenticate
from pywsapp.auth.identity import Public
from pywsapp.routing.route import RouteKind, label_of
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
        )
    if public_routes:
        logger.info("these routes need no user (authenticate=public): %s", _listed(public_routes))


def has_guards(component: object) -> bool:
    """Return whether a router has a route that needs a user."""
    found = guards_of(component) if isinstance(component, Router) else ()
    return any(guard is not None and not isinstance(guard, Public) for _, guard in found)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def guards_of(
    router: Router, prefix: str = "", outer: Authenticate | None = None
) -> Iterator[tuple[str, Authenticate | None]]:
    """Yield each route of a router, and of the routers mounted on it, with its guard; health checks are left out.

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
        path = prefix + ("" if route.pattern.text == "/" and prefix else route.pattern.text)
        if isinstance(target, Router):
            yield from guards_of(target, "" if path == "/" else path, guard)
            continue
        if route.kind is not RouteKind.HTTP and getattr(target, "authenticate", None) is not None:
            guard = target.authenticate
        methods = f"{' '.join(route.methods)} " if route.methods else ""
        yield f"{methods}{path} ({label_of(target)})", guard
