"""picows.websockets, the API of websockets on picows; on asyncio or with --uvloop on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run
from picows.websockets import ConnectionClosed, broadcast, serve

args = arguments(uvloop=True)
chatters: set[Any] = set()


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def chat(ws: Any) -> None:
    chatters.add(ws)
    try:
        async for message in ws:
            broadcast(chatters - {ws}, message)
    finally:
        chatters.discard(ws)


async def handler(ws: Any) -> None:
    with contextlib.suppress(ConnectionClosed):
        await (chat if ws.request.path == "/chat" else echo)(ws)


async def main() -> None:
    compression = "deflate" if args.deflate else None
    async with serve(handler, HOST, args.port, compression=compression, max_size=MAX_MESSAGE, backlog=BACKLOG):
        await asyncio.get_running_loop().create_future()


run(main, args.uvloop)
