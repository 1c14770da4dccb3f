"""Rooms of the AsyncServer of python-socketio, in one process, for `topic_protocol.py`; it prints its port."""

from __future__ import annotations

import socket
from typing import Any

import socketio
from _common import BACKLOG, HOST, arguments

args = arguments(("--host", ["aiohttp", "uvicorn"]))
is_asgi = args.host == "uvicorn"
server = socketio.AsyncServer(
    async_mode="asgi" if is_asgi else "aiohttp",
    cors_allowed_origins="*",
    async_handlers=False,  # otherwise each event has its own task
    ping_interval=3600,
)


@server.event
async def join(sid: str, room: str) -> None:
    await server.enter_room(sid, room)
    await server.emit("joined", to=sid)


@server.event
async def publish(sid: str, room: str, count: int, size: int) -> None:
    value: dict[str, Any] = {"text": "x" * size}
    for _ in range(count):
        await server.emit("message", value, room=room)


listening = socket.create_server((HOST, args.port), backlog=BACKLOG)
print(listening.getsockname()[1], flush=True)
if is_asgi:
    import uvicorn

    # The clients answer no pings.
    config = uvicorn.Config(socketio.ASGIApp(server), log_level="error", loop="uvloop", ws_ping_interval=None)
    uvicorn.Server(config).run([listening])
else:
    import uvloop
    from aiohttp import web

    app = web.Application()
    server.attach(app)
    uvloop.install()
    web.run_app(app, sock=listening, print=None, access_log=None)
