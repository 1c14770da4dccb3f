"""The command line: `pywsapp demo`, `pywsapp --version`."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence

from pywsapp.demo.chat import make_app
from pywsapp.twin import describe
from pywsapp.values.errors import ConfigurationError
from pywsapp.values.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(prog="pywsapp", description="Real-time WebSocket applications in Python.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"pywsapp {__version__} ({describe()}, Python {platform.python_version()})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="run the chat server with its web page")
    demo.add_argument("--port", type=int, default=8080, help="the port, 0 for a free one (default: 8080)")
    demo.add_argument("--address", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    demo.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="(default: asyncio)")
    chosen = parser.parse_args(arguments)
    try:
        make_app(chosen.port, chosen.address).run(backend=chosen.backend)
    except ConfigurationError as exc:
        parser.exit(1, f"pywsapp: {exc}\n")
    return 0
