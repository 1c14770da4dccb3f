"""The AsyncServer of python-socketio on uvicorn; its processes use AsyncRedisManager."""

from __future__ import annotations

import os
from typing import Any

import socketio
from _common import PROCESSES, arguments
from _processes import serve, share

args = arguments(PROCESSES)
listening = share(args.port, int(args.processes))
server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(os.environ["BROKER"]),
    cors_allowed_origins="*",
    # Otherwise each event has its own task, and events arrive at Redis out of order.
    async_handlers=False,
)


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await server.enter_room(sid, "chat")


@server.event
async def m(sid: str, data: str) -> None:
    await server.emit("m", data, room="chat", skip_sid=sid)


serve(socketio.ASGIApp(server), listening)
