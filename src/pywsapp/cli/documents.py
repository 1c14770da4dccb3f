"""`pywsapp asyncapi` and `pywsapp types`: write documents of the messages of an App."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pywsapp.cli.app_argument import add_app, app_of
from pywsapp.cli.output import write_utf_8
from pywsapp.cli.parser import add_command


def add_to(commands: Any) -> None:
    """Add both commands to the command line."""
    asyncapi = add_command(commands, "asyncapi", _act, help="write the AsyncAPI document of an App, as JSON")
    types = add_command(commands, "types", _act, help="write the types of the messages of an App for TypeScript")
    for command in (asyncapi, types):
        add_app(command)
        command.add_argument("--output", metavar="FILE", help="write this file, instead of the standard output")
        command.add_argument("--title", default="WebSockets", help="the name of the application")
        command.add_argument("--api-version", metavar="VERSION", default="1.0.0", help="the version of its messages")
    asyncapi.add_argument("--url", help="the URL of the server: wss://chat.example")


def _act(chosen: argparse.Namespace) -> None:
    _write(chosen.output, _document(chosen))


def _document(chosen: argparse.Namespace) -> str:
    """Return the document of an App: AsyncAPI as JSON, or types for TypeScript."""
    from pywsapp._extras import import_extra

    document = app_of(chosen).asyncapi(title=chosen.title, version=chosen.api_version, url=getattr(chosen, "url", None))
    if chosen.command == "types":
        types: str = import_extra("pywsapp._schema.typescript", "msgspec").types_of(document)
        return types
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _write(file: str | None, text: str) -> None:
    """Write a text to a file, or to the standard output."""
    from pywsapp.exceptions import ConfigurationError

    if file is None:
        write_utf_8(text)
        return
    try:
        with open(file, "w", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {file}: {exc.strerror}") from None
