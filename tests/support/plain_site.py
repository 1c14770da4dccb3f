"""A website for tests: an ASGI application of plain requests that records its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywsapp import App
from support.wire import Peer, peer_of, running

#: The event loops on which uvicorn's protocols run.
SITE_BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class PlainSite:
    """An ASGI application whose answers are functions, by their paths.

    Attributes:
        paths: the paths of the requests, in order.
        events: what happened to the lifespan.
        state: what the startup puts into the state of the requests.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.events: list[str] = []
        self.state: dict[str, Any] = {}
        self._answers: dict[str, Callable[[Any, Receive, Send], Awaitable[None]]] = {}

    def at(self, path: str) -> Callable[[Any], Any]:
        """Answer the requests of a path with a function that takes scope, receive and send; a decorator."""

        def decorator(answer: Any) -> Any:
            self._answers[path] = answer
            return answer

        return decorator

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        self.paths.append(scope["path"])
        answer = self._answers.get(scope["path"])
        if answer is None:
            await respond(send, f"{scope['method']} {scope['path']}".encode())
        else:
            await answer(scope, receive, send)

    async def _live(self, scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        self.events.append("startup")
        scope["state"].update(self.state)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.events.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


async def respond(send: Send, body: bytes, status: int = 200) -> None:
    """Send a whole response."""
    fields = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    """Return the whole body of a request."""
    body, has_more = b"", True
    while has_more:
        event = await receive()
        assert event["type"] == "http.request"
        body += event["body"]
        has_more = event["more_body"]
    return body


@asynccontextmanager
async def served(site: Any, app: App | None = None, **arguments: Any) -> AsyncIterator[tuple[App, Peer]]:
    """Serve a site on an App; yield the App and a connected client."""
    app = app or App("*", 0)
    app.site(site, **arguments)
    async with running(app), peer_of(app) as peer:
        yield app, peer
