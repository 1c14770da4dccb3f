#!/usr/bin/env python3
"""The server that is attacked: echoes by a def, an async def and a slow async def handler.

It prints its port when it listens.
"""

from __future__ import annotations

import argparse
from typing import Any

import anyio

from pywsapp import App, Connection, Deflate, MessageComponent, Options

SLOW_SECONDS = 0.01


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


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--max-connections", type=int, default=300)
    args = parser.parse_args()
    options = Options(deflate=Deflate())
    app = App("127.0.0.1", 0, options=options, max_connections=args.max_connections)
    app.route("/def", Echo())
    app.route("/async", AsyncEcho())
    app.route("/slow", SlowEcho())

    async def serve() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(app.serve)
            print(app.port, flush=True)

    backend = "trio" if args.loop == "trio" else "asyncio"
    anyio.run(serve, backend=backend, backend_options={"use_uvloop": True} if args.loop == "uvloop" else {})


if __name__ == "__main__":
    main()
