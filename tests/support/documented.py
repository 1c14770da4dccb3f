"""An App with every kind of route and message that a document can show."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, Field

from pywsapp import App, Connection, EchoServer, InvalidMessage, MessageComponent, Router, on, rpc
from pywsapp.auth import ApiKeyAuthenticator, BearerHeader, BearerSubprotocol, QueryToken, TokenAuthenticator, public
from pywsapp.codecs import JsonCodec, MessagePackCodec
from pywsapp.middleware import HandshakeMiddleware


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Join(msgspec.Struct, tag="join"):
    """Enter a room.

    This paragraph is for programmers of the server.
    """

    room: Annotated[str, msgspec.Meta(max_length=32, description="The name of the room.")]
    color: Color = Color.RED


class Branch(msgspec.Struct):
    """A part of a tree."""

    name: str
    children: list[Branch] = []


class Say(msgspec.Struct, tag="say"):
    """Say something to the room."""

    text: str
    at: datetime.datetime | None = None
    data: bytes = b""
    counts: dict[str, int] = {}
    pair: tuple[int, str] = (1, "")
    words: frozenset[str] = frozenset(("one", "two", "three", "four"))
    tree: Branch | None = None


class Joined(msgspec.Struct, tag="joined"):
    """A person has entered the room."""

    name: str
    color: Color = Color.RED
    note: str | msgspec.UnsetType = msgspec.UNSET


class Login(BaseModel):
    """Who you are. */ alert(1) /*"""

    type: Literal["login"] = "login"
    name: str = Field(description="The <b>name</b>.", alias="theName")
    color: Color = Color.BLUE
    parent: Login | None = None


@dataclass
class Point:
    """A place."""

    x: int
    y: int = 0


class Chat(MessageComponent):
    """A chat with rooms.

    This paragraph is for programmers of the server.
    """

    sends = (Joined, Say)

    def on_message(self, conn: Connection, message: Join | Say) -> None: ...


class Board(MessageComponent):
    sends = (dict,)

    @on("move")
    def moved(self, conn: Connection, message: Point) -> None:
        """Move the pointer."""

    @on("free")
    def anything(self, conn: Connection, message: dict[str, Any]) -> None: ...

    @on("login")
    def login(self, conn: Connection, message: Login) -> None: ...

    @rpc
    def add(self, conn: Connection, a: int, b: int = 10) -> int:
        """Add two numbers."""
        return a + b

    @rpc("board.find")
    async def find(self, conn: Connection, near: Point, user: Login | None = None) -> list[Point]:
        return [near]

    @rpc
    def clear(self, conn: Connection) -> None: ...


class Ticker(MessageComponent):
    subprotocols = ("ticker.v1",)
    sends = (str,)

    def on_message(self, conn: Connection, message: str) -> None: ...


class Silent(MessageComponent):
    def on_message(self, conn: Connection, message: Say) -> None: ...

    def on_invalid(self, conn: Connection, error: InvalidMessage) -> None: ...


def make_chat() -> Chat:
    return Chat()


def documented() -> App:
    """Return the App."""
    app = App(port=0, authenticate=TokenAuthenticator(lambda token: "user", BearerSubprotocol(), QueryToken("t")))
    app.route("/chat", Chat(), codec=[JsonCodec(), MessagePackCodec()], authenticate=public)
    app.route("/boards/{id:int}", Board, authenticate=ApiKeyAuthenticator({"a": "x" * 32}, BearerHeader()))
    app.route("/ticker", Ticker())
    app.route("/echo", EchoServer(), http_host="echo.example")
    app.route("/made", make_chat)
    app.http("/page", lambda request: "text")
    inner = Router(codec=MessagePackCodec())
    inner.route("/{room}", Silent())
    inner.route("/", HandshakeMiddleware(Ticker()))
    app.mount("/below/{part}", HandshakeMiddleware(inner))
    return app


def plain() -> App:
    """Return an App whose documents have nothing that is optional."""
    app = App(port=0)
    app.route("/", EchoServer())
    return app
