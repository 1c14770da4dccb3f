#!/usr/bin/env python3
"""The server that is attacked: echoes by handlers of several kinds, a page, and a form.

It prints its ports when it listens, and answers questions (see control.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from attack.control import answer_questions, raise_file_limit
from pywsapp import App, Connection, Deflate, MessageComponent, Options, Request, in_thread

SLOW_SECONDS = 0.01
BLOCKING_SECONDS = 0.05
FEED_SECONDS = 0.02
FEED = os.urandom(65536)
#: What an operator sets who has handlers that can hang; there is no limit by default.
HANDLER_TIMEOUT = 2
#: A peer that is gone while a busy handler stops reading is noticed after two pings.
PING_INTERVAL = 5


class Echo(MessageComponent):
    """Echoes in a def."""

    def on_message(self, conn: Connection, message: Any) -> None:
        """Send the message back."""
        conn.send(message)


class AsyncEcho(MessageComponent):
    """Echoes in an async def."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        """Send the message back."""
        await conn.send(message)


class SlowEcho(MessageComponent):
    """Waits before it echoes, so that messages queue up."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        """Send the message back after a while."""
        await anyio.sleep(SLOW_SECONDS)
        await conn.send(message)


class Hanging(MessageComponent):
    """Never returns from a handler."""

    async def on_message(self, conn: Connection, message: Any) -> None:
        """Wait for ever."""
        await anyio.sleep_forever()

    def on_error(self, conn: Connection, exc: Exception) -> None:
        """Close the connection."""
        conn.close(1011)


class Blocking(MessageComponent):
    """Occupies a thread for each message."""

    @in_thread
    def on_message(self, conn: Connection, message: Any) -> None:
        """Block for a while."""
        time.sleep(BLOCKING_SECONDS)


class Feed(MessageComponent):
    """Sends each connection the same broadcasts."""

    def on_open(self, conn: Connection) -> None:
        """Subscribe it."""
        conn.subscribe("feed")


async def form(request: Request) -> str:
    """Read the body of a request."""
    return str(len(await request.read(65536)))


def make_app(args: argparse.Namespace) -> App:
    """Return the App."""
    app = App(
        "127.0.0.1",
        0,
        options=Options(deflate=Deflate()),
        max_connections=args.max_connections or None,
        max_pending=args.max_pending,
        max_handshakes_per_second=args.max_handshakes_per_second,
        trusted_proxies=["127.0.0.1"] if args.proxy else [],
    )
    app.route("/def", Echo())
    app.route("/async", AsyncEcho())
    app.route("/slow", SlowEcho())
    app.route("/hang", Hanging(), options=Options(handler_timeout=HANDLER_TIMEOUT))
    app.route("/thread", Blocking(), options=Options(cancel_on_disconnect=True, ping_interval=PING_INTERVAL))
    app.route("/feed", Feed())
    app.every(FEED_SECONDS)(lambda: app.topic("feed").broadcast(FEED))
    app.http("/page", lambda _: "a page")
    app.http("/form", form, methods=["POST"])
    if args.tls:
        app.listen("127.0.0.1", 0, tls=args.tls)
    if args.proxy:
        app.listen("127.0.0.1", 0, proxy_protocol=True)
    return app


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--tls", metavar="PEM", help="also listen with TLS")
    parser.add_argument("--proxy", action="store_true", help="also listen for connections with a PROXY header")
    parser.add_argument("--max-connections", type=int, default=300, help="0 for the default of App")
    parser.add_argument("--max-pending", type=int)
    parser.add_argument("--max-handshakes-per-second", type=float)
    args = parser.parse_args()
    raise_file_limit()
    app = make_app(args)
    names = ["plain"] + ["tls"] * bool(args.tls) + ["proxy"] * args.proxy

    async def serve() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            ports = [int(url.rpartition(":")[2]) for url in app.urls]
            await answer_questions(dict(zip(names, ports, strict=True)), lambda: asdict(app.stats()))

    backend = "trio" if args.loop == "trio" else "asyncio"
    anyio.run(serve, backend=backend, backend_options={"use_uvloop": True} if args.loop == "uvloop" else {})


if __name__ == "__main__":
    main()
