"""`pywsapp demo`: run a chat server with a web page."""

from __future__ import annotations

import argparse
from typing import Any

from pywsapp.cli.options import EPILOG, add_options, complete, run_app
from pywsapp.cli.parser import add_command


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    add_options(add_command(commands, "demo", _act, help="run a chat server with a web page", epilog=EPILOG))


def _act(chosen: argparse.Namespace) -> None:
    from pywsapp._demo.chat import make_app

    complete(chosen, chosen.parser)
    app = make_app(broker=chosen.broker)
    chosen.broker = None
    run_app(app, chosen)
