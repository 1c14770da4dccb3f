"""Requests to a running App, and a component whose first message names the route that was chosen."""

from __future__ import annotations

from typing import Any

from pywsapp import App, Connection, MessageComponent
from support.wire import HttpResponse, handshake, peer_of


async def response_to(app: App, request: bytes) -> HttpResponse:
    """Send a request on a new connection; return the response."""
    async with peer_of(app) as peer:
        await peer.send(request)
        return await peer.response()


async def status(app: App, path: str = "/", **fields: str) -> int:
    """Send a handshake on a new connection; return the status of the response."""
    async with peer_of(app) as peer:
        await peer.send(handshake(path, **fields))
        return (await peer.head())[0]


class Greeter(MessageComponent):
    """Sends its name and the parameters of the path when a connection opens."""

    def __init__(self, name: str = "default") -> None:
        self.name = name

    def on_open(self, conn: Connection) -> None:
        parameters = " ".join(f"{key}={value!r}" for key, value in conn.request.path_params.items())
        conn.send(f"{self.name} {parameters}".strip())


async def greeting(app: App, path: str, **fields: Any) -> str:
    """Open a WebSocket; return the message of `Greeter`."""
    async with peer_of(app) as peer:
        await peer.open(path, **fields)
        return (await peer.frame())[1].decode()
