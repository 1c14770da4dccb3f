"""The argument that names an App, which several commands have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pywsapp.cli.parser import Parser

if TYPE_CHECKING:
    from pywsapp import App


def add_app(command: Parser) -> None:
    """Add the arguments that name an App."""
    command.add_argument(
        "app", metavar="MODULE[:APP]", help="the App: chat:app, chat (its app), or shop.web:make_app --factory"
    )
    command.add_argument("--factory", action="store_true", help="APP is a function that makes the App")


def app_of(chosen: argparse.Namespace) -> App:
    """Import the App that the arguments name; see `find_app`."""
    from pywsapp.cli.loading import find_app

    return find_app(chosen.app, factory=chosen.factory)
