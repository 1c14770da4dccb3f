"""uvicorn with its default options, on asyncio, and an ASGI application with the paths of our own server."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from attack.control import answer_questions, certificate, limit_memory, raise_file_limit

SLOW_SECONDS = 0.01
BLOCKING_SECONDS = 0.05
FEED_SECONDS = 0.02
FEED = os.urandom(65536)
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        size, more = 0, True
        while more and size <= 65536:
            event = await receive()
            size += len(event.get("body", b""))
            more = event.get("more_body", False)
        status = 413 if size > 65536 else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"6")]})
        await send({"type": "http.response.body", "body": b"a page"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while scope["path"] == "/feed":
        await asyncio.sleep(FEED_SECONDS)
        await send({"type": "websocket.send", "bytes": FEED})
    while (event := await receive())["type"] == "websocket.receive":
        if scope["path"] == "/hang":
            await asyncio.get_running_loop().create_future()
        if scope["path"] == "/thread":
            await asyncio.to_thread(time.sleep, BLOCKING_SECONDS)
            continue
        if scope["path"] == "/slow":
            await asyncio.sleep(SLOW_SECONDS)
        kind = "text" if event.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: event[kind]})


def server(**options: Any) -> tuple[int, uvicorn.Server, socket.socket]:
    """Return the port, the server, and its socket."""
    config = uvicorn.Config(app, loop="asyncio", lifespan="off", access_log=False, log_level="warning", **options)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock.getsockname()[1], uvicorn.Server(config), sock


async def main() -> None:
    file = certificate()
    servers = {"plain": server()}
    if file is not None:
        servers["tls"] = server(ssl_certfile=file, ssl_keyfile=file)
    tasks = [asyncio.create_task(one.serve([sock])) for _, one, sock in servers.values()]
    while not all(one.started for _, one, _ in servers.values()):  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    await answer_questions({name: port for name, (port, _, _) in servers.items()})
    await asyncio.wait(tasks)


raise_file_limit()
limit_memory()
asyncio.run(main())
