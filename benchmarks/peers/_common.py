"""The common options of all peer servers."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

HOST = "127.0.0.1"
MAX_MESSAGE = 16 * 1024 * 1024
BACKLOG = 1024
#: A choice for `arguments`: the number of processes that share the port. $BROKER has the URL of their broker.
PROCESSES = ("--processes", [str(number) for number in range(1, 17)])


def arguments(*choices: tuple[str, Sequence[str]], uvloop: bool = False, tls: bool = False) -> argparse.Namespace:
    """Parse --port, --deflate, and the choices (name, values); --uvloop and --tls if they are enabled."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--deflate", choices=["on", "off"], default="off")
    if uvloop:
        parser.add_argument("--uvloop", action="store_true")
    if tls:
        parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    for name, values in choices:
        parser.add_argument(name, choices=values, default=values[0])
    args = parser.parse_args()
    args.deflate = args.deflate == "on"
    return args


def tls_context(args: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the SSL context for --tls; None without that option."""
    if args.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*args.tls)
    return context


def run(main: Callable[[], Coroutine[Any, Any, None]], use_uvloop: bool) -> None:
    """Run a coroutine function on asyncio or on uvloop."""
    if use_uvloop:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
