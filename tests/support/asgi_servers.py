"""ASGI servers in the event loop of a test: uvicorn on asyncio and uvloop, hypercorn on trio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

import anyio
import hypercorn.config
import hypercorn.trio
import sniffio
import uvicorn
from uvicorn.server import ServerState

from pywsapp import ClientConnection, connect
from support.serving import GUARD
from support.wire import HttpResponse, Peer

T = TypeVar("T")


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
    task = unknown_to_anyio(server._serve([sock]))  # `serve` would install signal handlers
    try:
        while not server.started:
            assert not task.done(), "uvicorn did not start"
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        with anyio.fail_after(GUARD, shield=True):
            await task


def unknown_to_anyio(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task in the context that uvicorn has, whose callbacks do not tell anyio which event loop runs."""
    return Context().run(asyncio.create_task, coroutine)


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


async def until(condition: Callable[[], T]) -> T:
    """Wait until a function returns something true, for what has no event; return it."""
    with anyio.fail_after(GUARD):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return found


class SiteServer:
    """The protocols of uvicorn on a port, without its `Server`, which looks every 0.1 s whether it must stop.

    Attributes:
        port: the port.
        state: what the connections share.
    """

    def __init__(self, port: int, state: ServerState) -> None:
        self.port = port
        self.state = state

    async def connection(self) -> Any:
        """Return the protocol of the only connection, when there is one."""
        (protocol,) = await until(lambda: list(self.state.connections))
        return protocol

    async def until_idle(self) -> None:
        """Wait until all connections and calls of the application have ended."""
        await until(lambda: not (self.state.connections or self.state.tasks))


@asynccontextmanager
async def site_server(application: Any, **settings: Any) -> AsyncIterator[SiteServer]:
    """Serve an ASGI application with the protocols of uvicorn on asyncio; the settings are those of uvicorn.

    At the end the connections are closed as uvicorn closes them, and their calls of the application must end.
    """
    config = uvicorn.Config(application, log_config=None, **settings)
    config.load()
    lifespan = config.lifespan_class(config)
    await unknown_to_anyio(lifespan.startup())
    assert not lifespan.should_exit
    site = SiteServer(0, ServerState())
    site.state.default_headers = config.encoded_headers

    def make_protocol() -> asyncio.Protocol:
        protocol: Any = config.http_protocol_class
        made: asyncio.Protocol = protocol(config=config, server_state=site.state, app_state=lifespan.state)
        return made

    loop = asyncio.get_running_loop()
    server = await unknown_to_anyio(loop.create_server(make_protocol, "127.0.0.1", 0, ssl=config.ssl))
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for connection in list(site.state.connections):
            connection.shutdown()
        with anyio.CancelScope(shield=True):
            await site.until_idle()
            await lifespan.shutdown()


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
