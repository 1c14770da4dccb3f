"""`pywsapp run`: run the App of a module."""

from __future__ import annotations

import argparse
from typing import Any

from pywsapp.cli.app_argument import add_app, app_of
from pywsapp.cli.options import EPILOG, add_options, complete, run_app
from pywsapp.cli.parser import add_command


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(commands, "run", _act, help="run the App of a module", epilog=EPILOG)
    add_app(command)
    add_options(command)


def _act(chosen: argparse.Namespace) -> None:
    complete(chosen, chosen.parser)
    run_app(app_of(chosen), chosen)
