"""Requests with cookies to a running App, and a component whose messages name what to do with the session."""

from __future__ import annotations

import json
from typing import Any

from pywsapp import App, Connection, MessageComponent, Request
from support.serving import message_frame
from support.wire import Peer, get, peer_of


async def fetched(app: App, path: str = "/", cookie: str = "", method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Return the status, the fields and the body of a plain answer."""
    request = get(path, method).replace(b"\r\n\r\n", f"\r\nCookie: {cookie}\r\n\r\n".encode())
    async with peer_of(app) as peer:
        await peer.send(request)
        status, headers, body = await peer.response()
        return status, headers, body.decode()


def cookie_of(headers: dict[str, str]) -> str:
    """Return the name and the value of the cookie that an answer sets."""
    return headers["set-cookie"].partition(";")[0]


async def opened(app: App, path: str = "/chat", cookie: str = "") -> tuple[Peer, dict[str, str]]:
    """Open a WebSocket; return the client and the fields of the response."""
    peer = peer_of(app)
    return peer, await peer.open(path, b"", **({"cookie": cookie} if cookie else {}))


async def told(peer: Peer, message: str) -> Any:
    """Send a message to a `Counter`, and return its answer."""
    await peer.send(message_frame(message))
    text = (await peer.frame())[1].decode()
    return json.loads(text) if text.startswith("{") else text


class Counter(MessageComponent):
    """Counts handshakes and messages in the session, except for a handshake with the query `look`.

    A message is the name of a method of the session, or "show".
    """

    def __init__(self) -> None:
        self.failed: list[Exception] = []

    def on_handshake(self, request: Request) -> None:
        if request.query_string != "look":
            request.session["handshakes"] = request.session.get("handshakes", 0) + 1

    async def on_message(self, conn: Connection, message: Any) -> None:
        session = conn.session
        if message == "save":
            session["messages"] = session.get("messages", 0) + 1
            await session.save()
        elif message != "show":
            await getattr(session, message)()
        await conn.send(json.dumps({**session, "new": session.is_new}))

    async def on_error(self, conn: Connection, exc: Exception) -> None:
        self.failed.append(exc)
        await conn.send(f"{type(exc).__name__}: {exc}")


def counting(store: Any = "memory", **options: Any) -> tuple[App, Counter]:
    """Return an App with a `Counter` at /chat, and the component."""
    app, counter = App("*", 0, session_store=store, **options), Counter()
    app.route("/chat", counter)
    return app, counter
