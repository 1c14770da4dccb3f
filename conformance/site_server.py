#!/usr/bin/env python3
"""The echo servers on uvicorn under test: python conformance/site_server.py --port 8080 --application app."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from limits import MEBIBYTE, OPTIONS
from pywsapp import App, EchoServer
from pywsapp.asgi.uvicorn import Protocol

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class WideProtocol(Protocol):
    """The protocol with the limits that the largest cases need."""

    options = OPTIONS


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Echo every message; an ASGI application."""
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] != "websocket.receive":
            return
        await send({**event, "type": "websocket.send"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--application", choices=("app", "asgi"), required=True)
    args = parser.parse_args()
    app = App(options=OPTIONS)
    app.route("/", EchoServer(), allowed_origins=["*"])
    uvicorn.run(
        app if args.application == "app" else echo,
        port=args.port,
        loop=args.backend,
        ws=WideProtocol,
        ws_max_size=16 * MEBIBYTE,
        lifespan="on" if args.application == "app" else "off",
        log_level="warning",
    )


if __name__ == "__main__":
    main()
