"""trio-websocket; it has no permessage-deflate."""

from __future__ import annotations

import contextlib

import trio
from _common import HOST, MAX_MESSAGE, arguments
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

args = arguments()
chatters: set[WebSocketConnection] = set()


async def echo(ws: WebSocketConnection) -> None:
    while True:
        await ws.send_message(await ws.get_message())


async def chat(ws: WebSocketConnection) -> None:
    chatters.add(ws)
    try:
        while True:
            message = await ws.get_message()
            for other in list(chatters):
                if other is not ws:
                    try:
                        await other.send_message(message)
                    except ConnectionClosed:
                        chatters.discard(other)
    finally:
        chatters.discard(ws)


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    with contextlib.suppress(ConnectionClosed):
        await (chat if request.path == "/chat" else echo)(ws)


async def main() -> None:
    await serve_websocket(handler, HOST, args.port, None, max_message_size=MAX_MESSAGE)


trio.run(main)
