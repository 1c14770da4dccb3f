"""Message types of each library, and a client that speaks a codec to a route of an App."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import msgspec
from pydantic import BaseModel

from pywsapp import App, MessageComponent
from pywsapp.codecs import Codec
from support.serving import CLOSE, Client, close_code, close_frame, serving


class Join(msgspec.Struct, tag="join"):
    room: str


class Say(msgspec.Struct, tag="say"):
    text: str
    times: int = 1


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Move:
    by: int
    type: Literal["move"] = "move"


class Typing(TypedDict):
    type: Literal["typing"]
    room: str


class Login(BaseModel):
    type: Literal["login"] = "login"
    name: str


class Logout(BaseModel):
    type: Literal["logout"] = "logout"


class Talk:
    """A client that sends and receives objects.

    Args:
        client: sends and receives messages.
        codec: turns them into objects; None for JSON.
    """

    def __init__(self, client: Client, codec: Codec | None = None) -> None:
        self.client = client
        self._codec = codec

    async def send(self, *values: Any) -> None:
        await self.client.send(*[json.dumps(v) if self._codec is None else self._codec.encode(v) for v in values])

    async def receive(self) -> Any:
        message = await self.client.message()
        return json.loads(message) if self._codec is None else self._codec.decode(message)

    async def closed(self) -> int:
        """Answer the close frame of the server, which comes next; return its code."""
        opcode, payload = await self.client.receive()
        assert opcode == CLOSE, payload
        await self.client.stream.send(close_frame())
        await self.client.read_to_end()
        return close_code(payload)

    async def ask(self, value: Any) -> Any:
        await self.send(value)
        return await self.receive()


@asynccontextmanager
async def talking(
    component: MessageComponent, codec: Codec | None = None, *, app: App | None = None, **route: Any
) -> AsyncIterator[Talk]:
    """Route a component on an App, and connect a client to it."""
    app = app or App("*", 0)
    app.route("/", component, allowed_origins=["*"], codec=codec, **route)
    async with serving(app) as server, server.client() as client:
        yield Talk(client, codec)
