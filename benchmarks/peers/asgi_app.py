"""An ASGI application without a framework, for uvicorn, hypercorn and granian."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

chatters: dict[object, Send] = {}


async def echo(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] != "websocket.receive":
            return
        text = event.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


async def chat(receive: Receive, send: Send) -> None:
    me = object()
    chatters[me] = send
    try:
        while True:
            event = await receive()
            if event["type"] != "websocket.receive":
                return
            text = event.get("text")
            if text is not None:
                out = {"type": "websocket.send", "text": text}
            else:
                out = {"type": "websocket.send", "bytes": event["bytes"]}
            for key, other in list(chatters.items()):
                if key is not me:
                    try:
                        await other(out)
                    except Exception:  # servers raise different exceptions for a closed connection
                        chatters.pop(key, None)
    finally:
        chatters.pop(me, None)


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    if scope["type"] != "websocket":
        await send({"type": "http.response.start", "status": 426, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    handler = {"/echo": echo, "/chat": chat}.get(scope["path"])
    if handler is None:
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "websocket.accept"})
    await handler(receive, send)
