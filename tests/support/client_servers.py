"""Servers for tests of the client: an App, the server of `websockets`, and servers of raw bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.to_thread
from websockets.sync.server import serve

from pywsapp import App, Connection, MessageComponent, Refuse
from support.serving import GUARD, Recorder
from support.wire import running


class Server(Recorder):
    """Echoes messages, records requests, and refuses the path /no."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def on_handshake(self, request: Any) -> None:
        self.requests.append(request)
        if request.path == "/no":
            raise Refuse(403, body="no access")

    def on_message(self, conn: Connection, message: Any) -> None:
        conn.send(message)


@asynccontextmanager
async def echoing(component: MessageComponent | None = None, **options: Any) -> AsyncIterator[App]:
    """Run an App that has a component, `Server` by default, at every path."""
    app = App("*", 0, **options)
    app.route("/{rest:path}", component or Server(), allowed_origins=["*"])
    async with running(app):
        yield app


@contextmanager
def silent() -> Iterator[socket.socket]:
    """Run a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Run a server that reads a request, sends `answer` and closes the connection; yield its URL."""
    with silent() as listening:

        def run() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):  # the client can close before it has read everything
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, run)
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"


@asynccontextmanager
async def websockets_server(handler: Any, **options: Any) -> AsyncIterator[str]:
    """Run the server of `websockets` in a thread; yield its host and port."""
    with serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with anyio.fail_after(GUARD):
                yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            await anyio.to_thread.run_sync(thread.join)
