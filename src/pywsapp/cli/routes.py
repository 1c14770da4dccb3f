"""`pywsapp routes`: list the routes of an App."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pywsapp.cli.app_argument import add_app, app_of
from pywsapp.cli.output import write
from pywsapp.cli.parser import add_command
from pywsapp.cli.tables import table

if TYPE_CHECKING:
    from pywsapp.cli.route_table import FoundRoute

_HEADS = ("KIND", "PATH", "HOST", "COMPONENT", "AUTHENTICATE", "ORIGINS", "MESSAGE SIZE", "SUBPROTOCOLS")


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(commands, "routes", _act, help="list the routes of an App, with guards and origins")
    add_app(command)
    command.add_argument("--json", action="store_true", help="write JSON")


def _act(chosen: argparse.Namespace) -> None:
    from pywsapp.cli.route_table import routes_of_app

    routes = routes_of_app(app_of(chosen))
    write(json.dumps([as_json(route) for route in routes], indent=2) + "\n" if chosen.json else text(routes))


def text(routes: Sequence[FoundRoute]) -> str:
    """Return the table of routes; columns without any value are left out."""
    rows = [
        (
            f"{route.kind} {' '.join(route.methods)}".rstrip(),
            route.path,
            route.host,
            f"{route.module}.{route.component}".removeprefix("."),
            route.guard_name or "-",
            route.origins,
            f"{route.options.max_message_size:,}" if route.kind == "websocket" else "",
            ", ".join(route.subprotocols),
        )
        for route in routes
    ]
    if not rows:
        return "no routes\n"
    used = [column for column in range(len(_HEADS)) if any(row[column] for row in rows)]
    return table([_HEADS[column] for column in used], [[row[column] for column in used] for row in rows])


def as_json(route: FoundRoute) -> dict[str, Any]:
    """Return a route as an object of JSON."""
    options = route.options
    found: dict[str, Any] = {
        "kind": route.kind,
        "path": route.path,
        "host": route.host,
        "component": route.component,
        "module": route.module,
        "methods": list(route.methods),
        "authenticate": route.guard_name or None,
        "needs_user": route.needs_user,
        "sessions": route.has_sessions,
    }
    if route.takes_connections:
        found |= {
            "origins": [list(check.allowed_origins) or ["same origin"] for check in route.origin_checks],
            "origin_required": any(check.require_origin for check in route.origin_checks),
            "subprotocols": list(route.subprotocols),
            "rate_limit": route.has_rate_limit,
            "limits": {
                "max_message_size": options.max_message_size,
                "max_outbox": options.max_outbox,
                "max_topics": options.max_topics,
                "max_connection_age": options.max_connection_age,
                "idle_timeout": options.idle_timeout,
            },
        }
    return found
