"""The fallback of an App on ASGI servers, and mounted in a site."""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from support.asgi_servers import hosted
from support.event_client import EventClient
from support.fallback_peer import accept, fallback_app
from support.serving import GUARD
from support.topics_peer import Open
from support.wire import Peer

pytestmark = [pytest.mark.anyio, pytest.mark.once]


async def post(port: int, path: str, stream: str, *messages: dict[str, Any], number: int = 1) -> int:
    """Send a batch; return the status."""
    body = json.dumps({"number": number, "messages": [json.dumps(message) for message in messages]}).encode()
    fields = f"Host: localhost\r\nPywsapp-Stream: {stream}\r\nContent-Length: {len(body)}\r\n"
    async with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
        await peer.send(f"POST {path} HTTP/1.1\r\n{fields}\r\n".encode() + body)
        with anyio.fail_after(GUARD):
            return (await peer.head())[0]


@pytest.mark.parametrize("prefix", ["", "/site"])
async def test_messages_in_both_directions(prefix: str) -> None:
    app = fallback_app(Open(), max_connections_per_address=2)
    site = Starlette(routes=[Mount(prefix, app=app)]) if prefix else app
    path = f"{prefix}/live"
    running: Any = app.lifespan() if prefix else nullcontext()
    async with hosted(site) as port, running, EventClient(port) as client:
        fields = await client.open(path, accept=accept()["Accept"])
        assert (client.status, fields["content-type"]) == (200, "text/event-stream")
        stream = json.loads(await client.text())["stream"]
        assert await post(port, path, stream, {"type": "connect", "id": 1}) == 204
        assert json.loads(await client.text())["id"] == 1
        publish = {"type": "publish", "topic": "room:1", "data": "hello", "id": 3}
        subscribe = {"type": "subscribe", "topic": "room:1", "since": None, "id": 2}
        assert await post(port, path, stream, subscribe, publish, number=2) == 204
        assert {json.loads(await client.text())["type"] for _ in range(3)} == {"ok", "message"}
        assert await post(port, path, "x", number=3) == 404
        app.stop()
        assert json.loads(await client.text())["type"] == "disconnect"
        last = await client.event()
        assert last is not None
        assert (last.event, json.loads(last.data)["code"]) == ("close", 1012)
        assert await client.event() is None
