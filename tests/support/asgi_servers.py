"""ASGI servers in the event loop of a test: uvicorn on asyncio and uvloop, hypercorn on trio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import hypercorn.config
import hypercorn.trio
import sniffio
import uvicorn

from pywsapp import ClientConnection, connect
from support.serving import GUARD
from support.wire import HttpResponse, Peer


@asynccontextmanager
async def hosted(application: Any, **settings: Any) -> AsyncIterator[int]:
    """Serve an ASGI application; return the port.

    Args:
        application: the application.
        settings: further settings of uvicorn, which hypercorn does not get.
    """
    sock = socket.create_server(("127.0.0.1", 0))  # the server closes it
    port = sock.getsockname()[1]
    serving = _uvicorn if sniffio.current_async_library() == "asyncio" else _hypercorn
    async with serving(application, sock, settings):
        yield port


@asynccontextmanager
async def _uvicorn(application: Any, sock: socket.socket, settings: dict[str, Any]) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, **settings))
    task = asyncio.create_task(server._serve([sock]))  # `serve` would install signal handlers
    try:
        while not server.started:
            assert not task.done(), "uvicorn did not start"
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        with anyio.fail_after(GUARD, shield=True):
            await task


@asynccontextmanager
async def _hypercorn(application: Any, sock: socket.socket, settings: dict[str, Any]) -> AsyncIterator[None]:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.errorlog = None
    ended = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: Any) -> None:
            await hypercorn.trio.serve(application, config, shutdown_trigger=ended.wait, task_status=task_status)

        await tasks.start(run)
        try:
            yield
        finally:
            ended.set()


async def ask(port: int, request: bytes) -> HttpResponse:
    """Send a plain request on a new connection; return the response."""
    async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.send(request)
        return await peer.response()


def chat(port: int, path: str = "/chat", **options: Any) -> Any:
    """Connect to a path of a server."""
    return connect(f"ws://127.0.0.1:{port}{path}", **options)


async def exchange(conn: ClientConnection, message: str | bytes) -> str | bytes:
    """Send a message, and return the next one that comes."""
    await conn.send(message)
    with anyio.fail_after(GUARD):
        return await conn.receive()
