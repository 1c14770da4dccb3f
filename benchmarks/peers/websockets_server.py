"""The asyncio server of websockets, on asyncio or with --uvloop on uvloop."""

from __future__ import annotations

import asyncio
import contextlib

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run, tls_context
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

args = arguments(uvloop=True, tls=True)
chatters: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def chat(ws: ServerConnection) -> None:
    chatters.add(ws)
    try:
        async for message in ws:
            broadcast(chatters - {ws}, message)
    finally:
        chatters.discard(ws)


async def handler(ws: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        await (chat if ws.request.path == "/chat" else echo)(ws)


async def main() -> None:
    compression = "deflate" if args.deflate else None
    async with serve(
        handler,
        HOST,
        args.port,
        compression=compression,
        max_size=MAX_MESSAGE,
        backlog=BACKLOG,
        ssl=tls_context(args),
    ):
        await asyncio.get_running_loop().create_future()


run(main, args.uvloop)
