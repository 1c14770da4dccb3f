"""The asyncio server of websockets with its default options, and the paths of our own server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
import time
from pathlib import Path

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from attack.control import answer_questions, certificate, limit_memory, raise_file_limit

SLOW_SECONDS = 0.01
BLOCKING_SECONDS = 0.05


FEED_SECONDS = 0.02
FEED = os.urandom(65536)
readers: set[ServerConnection] = set()


async def feed() -> None:
    while True:
        await asyncio.sleep(FEED_SECONDS)
        broadcast(readers, FEED)


async def handler(ws: ServerConnection) -> None:
    assert ws.request is not None
    path = ws.request.path
    if path == "/feed":
        readers.add(ws)
        await ws.wait_closed()
        readers.discard(ws)
        return
    with contextlib.suppress(ConnectionClosed):
        async for message in ws:
            if path == "/hang":
                await asyncio.get_running_loop().create_future()
            if path == "/thread":
                await asyncio.to_thread(time.sleep, BLOCKING_SECONDS)
                continue
            if path == "/slow":
                await asyncio.sleep(SLOW_SECONDS)
            await ws.send(message)


async def main() -> None:
    contexts: dict[str, ssl.SSLContext | None] = {"plain": None}
    file = certificate()
    if file is not None:
        context = contexts["tls"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for name, one in contexts.items():
            server = await stack.enter_async_context(serve(handler, "127.0.0.1", 0, ssl=one))
            ports[name] = next(iter(server.sockets)).getsockname()[1]
        feeding = asyncio.create_task(feed())
        await answer_questions(ports)
        feeding.cancel()


raise_file_limit()
limit_memory()
asyncio.run(main())
