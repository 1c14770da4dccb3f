"""The client of a fallback connection, in memory: events down, POST requests up."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywsapp import App, ConnectionClosed, HandshakeError, TopicComponent
from pywsapp.testing import TestClient, TestEventStream, TestResponse
from support.topics_peer import JSON, TopicsPeer, app_of

#: What takes the place of the id of a stream that the test has not opened.
UNKNOWN_STREAM = f"{'0' * 16}.x"


class FallbackSocket:
    """A fallback connection with the methods of `TestWebSocket` that `TopicsPeer` uses.

    Args:
        client: the client of a node.
        stream: the event stream.
        subprotocol: the protocol that was asked for.
        arguments: those of all requests, such as `headers`.

    Attributes:
        posts_by: the client of the node that gets the POST requests.
        id: the id of the stream.
        number: the number of the last batch.
        ended: the fields of the last event; None before it.
    """

    def __init__(
        self, client: TestClient, stream: TestEventStream, subprotocol: str, arguments: dict[str, Any]
    ) -> None:
        self.posts_by = client
        self.stream = stream
        self.subprotocol = subprotocol
        self.id = ""
        self.number = 0
        self.ended: dict[str, Any] | None = None
        self._arguments = arguments
        self._queued: list[Any] = []

    def send(self, message: str | bytes) -> None:
        self._queued.append(message if isinstance(message, str) else {"base64": b64encode(message).decode()})

    def send_json(self, value: Any) -> None:
        self.send(json.dumps(value))

    async def receive(self) -> str | bytes:
        """Send what waits, and return the next message of the server."""
        if self._queued:
            messages, self._queued = self._queued, []
            response = await self.post(messages)
            assert response.status == 204, response
        event = await self.stream.receive()
        if event.event == "close":
            self.ended = json.loads(event.data)
            raise ConnectionClosed(f"ended: {event.data}")
        return b64decode(event.data) if event.event == "binary" else event.data

    async def post(self, messages: list[Any], number: int | None = None, **fields: Any) -> TestResponse:
        """Send a batch; its number is that after the last one by default."""
        if number is None:
            number = self.number = self.number + 1
        return await self.post_body({"number": number, "messages": messages, **fields})

    async def post_body(self, body: Any, *, stream: str | None = None, **arguments: Any) -> TestResponse:
        """Send a POST request; a value that is no bytes is sent as JSON."""
        given = {**self._arguments, **arguments}
        headers = {"Pywsapp-Stream": self.id if stream is None else stream, **given.pop("headers", {})}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.posts_by.post(self.stream.path, body=content, headers=headers, **given)

    async def end(self) -> dict[str, Any]:
        """Return the fields of the last event; messages before it are dropped."""
        while self.ended is None:
            try:
                await self.receive()
            except ConnectionClosed:
                break
        assert self.ended is not None
        await self.stream.assert_ended()
        return self.ended


def accept(subprotocol: str = JSON) -> dict[str, str]:
    """Return the header field that asks for the event stream of a fallback."""
    return {"Accept": f"text/event-stream;protocol={subprotocol}"}


async def refused(client: TestClient, path: str = "/live", **arguments: Any) -> int | None:
    """Return the status with which the event stream of a fallback is refused."""
    arguments["headers"] = {**arguments.get("headers", {}), **accept()}
    with pytest.raises(HandshakeError) as caught:
        async with client.events(path, **arguments):
            pass
    return caught.value.status


@asynccontextmanager
async def fallback_socket(
    client: TestClient, path: str = "/live", *, subprotocol: str = JSON, **arguments: Any
) -> AsyncIterator[FallbackSocket]:
    """Open a fallback connection for the time of a block; `arguments` are those of all requests."""
    opening = {**arguments, "headers": {**arguments.get("headers", {}), **accept(subprotocol)}}
    async with client.events(path, **opening) as stream:
        socket = FallbackSocket(client, stream, subprotocol, arguments)
        first = await stream.receive()
        assert first.event == "open"
        socket.id = json.loads(first.data)["stream"]
        yield socket


@asynccontextmanager
async def fallback_peer(
    client: TestClient, path: str = "/live", *, connects: bool = True, **arguments: Any
) -> AsyncIterator[TopicsPeer]:
    """Open a fallback connection that speaks the protocol of topics, for the time of a block."""
    async with fallback_socket(client, path, **arguments) as socket:
        peer = TopicsPeer(socket)
        if connects:
            await peer.connect()
        yield peer


def fallback_app(component: TopicComponent, **settings: Any) -> App:
    """Return the App of `app_of` with a fallback."""
    return app_of(component, {"fallback": True}, **settings)
