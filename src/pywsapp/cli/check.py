"""`pywsapp check`: list the routes of an App, and warn about unsafe settings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pywsapp.cli import routes
from pywsapp.cli.app_argument import add_app, app_of
from pywsapp.cli.failures import ProgramFailed
from pywsapp.cli.options import EPILOG, add_options, complete, configure
from pywsapp.cli.output import folded, width_of_terminal, write
from pywsapp.cli.parser import add_command
from pywsapp.cli.tables import safe

if TYPE_CHECKING:
    from pywsapp.app import App
    from pywsapp.cli.safety import Finding

#: The exit status of an App that cannot be loaded, or has settings that are not valid.
CANNOT_LOAD = 2


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(
        commands,
        "check",
        _act,
        help="list the routes of an App, and warn about unsafe settings",
        description="List the routes of an App and warn about unsafe settings. The options are those of run, so that "
        "you can check what a server will run. Nothing listens, and no hook is called",
        epilog=EPILOG,
    )
    add_app(command)
    command.add_argument("--json", action="store_true", help="write JSON")
    command.add_argument("--fail-on-warning", action="store_true", help="end with status 1 if there are warnings")
    add_options(command)


def _act(chosen: argparse.Namespace) -> int:
    from pywsapp.exceptions import ConfigurationError

    try:
        complete(chosen, chosen.parser)
        app = app_of(chosen)
        configure(app, chosen)
    except ProgramFailed as exc:
        sys.stderr.write(str(exc))
        return CANNOT_LOAD
    except ConfigurationError as exc:
        sys.stderr.write(f"pywsapp: {exc}\n")
        return CANNOT_LOAD
    return _report(app, chosen)


def _report(app: App, chosen: argparse.Namespace) -> int:
    from pywsapp.cli.route_table import routes_of_app
    from pywsapp.cli.safety import WARNING, findings

    found_routes = routes_of_app(app)
    found = findings(app, found_routes, 1 if chosen.workers is None else chosen.workers)
    if chosen.json:
        content = {
            "app": chosen.app,
            "limits": _limits(app),
            "routes": [routes.as_json(route) for route in found_routes],
            "findings": [finding._asdict() for finding in found],
        }
        write(json.dumps(content, indent=2) + "\n")
    else:
        write(f"{routes.text(found_routes)}\n{_limits_text(app)}{_text(found)}")
    return int(chosen.fail_on_warning and any(finding.level == WARNING for finding in found))


def _limits(app: App) -> dict[str, Any]:
    limits = app._runner.connection_limits
    return {
        "max_connections": limits.max_connections,
        "max_connections_per_address": limits.max_connections_per_address,
        "max_connections_per_user": limits.max_connections_per_user,
        "max_handshakes_per_second": limits.max_handshakes_per_second,
        "max_message_size": app.options.max_message_size,
    }


def _limits_text(app: App) -> str:
    named = [f"{name} {'-' if value is None else f'{value:,}'}" for name, value in _limits(app).items()]
    return folded(f"limits: {', '.join(named)}", width_of_terminal(), indent=4)


def _text(found: Sequence[Finding]) -> str:
    width = width_of_terminal()
    lines = []
    for one in found:
        lines.append(folded(f"{one.level} {one.name}: {safe(one.text)}", width, indent=2))
        lines.append(folded(f"    {one.fix}", width, indent=4))
    warnings = sum(one.level == "warning" for one in found)
    counts = f"{_count(warnings, 'warning')}, {_count(len(found) - warnings, 'note')}\n"
    return "".join(["\n" if lines else "", *lines, counts])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
