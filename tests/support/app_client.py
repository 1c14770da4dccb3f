"""Requests to an App that runs, and a component whose answers tell which route was taken."""

from __future__ import annotations

from typing import Any

from pywsapp import App, Connection, MessageComponent
from support.wire import Answer, handshake, peer_of


async def asked(app: App, request: bytes) -> Answer:
    async with peer_of(app) as peer:
        await peer.send(request)
        return await peer.answer()


async def status(app: App, path: str = "/", **fields: str) -> int:
    """Try a handshake."""
    async with peer_of(app) as peer:
        await peer.send(handshake(path, **fields))
        return (await peer.head())[0]


class Names(MessageComponent):
    """Greets with a name and what was in the path."""

    def __init__(self, name: str = "default") -> None:
        self.name = name

    def on_open(self, conn: Connection) -> None:
        parameters = " ".join(f"{key}={value!r}" for key, value in conn.request.path_params.items())
        conn.send(f"{self.name} {parameters}".strip())


async def greeting(app: App, path: str, **fields: Any) -> str:
    async with peer_of(app) as peer:
        await peer.open(path, **fields)
        return (await peer.frame())[1].decode()
