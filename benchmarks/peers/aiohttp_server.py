"""The server of aiohttp, on asyncio or with --uvloop on uvloop."""

from __future__ import annotations

import asyncio

from _common import BACKLOG, HOST, MAX_MESSAGE, arguments, run, tls_context
from aiohttp import WSMsgType, web

args = arguments(uvloop=True, tls=True)
chatters: set[web.WebSocketResponse] = set()


async def accept(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=args.deflate, max_msg_size=MAX_MESSAGE)
    await ws.prepare(request)
    return ws


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = await accept(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def chat(request: web.Request) -> web.WebSocketResponse:
    ws = await accept(request)
    chatters.add(ws)
    try:
        async for message in ws:
            text = message.type is WSMsgType.TEXT
            for other in list(chatters):
                if other is not ws and not other.closed:
                    await (other.send_str if text else other.send_bytes)(message.data)
    finally:
        chatters.discard(ws)
    return ws


async def main() -> None:
    app = web.Application()
    app.add_routes([web.get("/echo", echo), web.get("/chat", chat)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, args.port, backlog=BACKLOG, ssl_context=tls_context(args)).start()
    await asyncio.get_running_loop().create_future()


run(main, args.uvloop)
