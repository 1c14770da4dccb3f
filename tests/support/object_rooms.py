"""An App with a room whose clients have different codecs, for tests of objects that many connections get."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from pywsapp import App, Connection, MessageComponent
from pywsapp.brokers.base import Broker
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec
from support.serving import serving
from support.typed import Talk

#: A route of each client of a test.
ALL = ("json", "msgpack", "msgpack", "cbor", "protobuf", "raw")


class Counting(MessagePackCodec):
    """Counts how often it encodes."""

    encoded = 0

    def encode(self, value: Any) -> bytes:
        self.encoded += 1
        return super().encode(value)


class Room(MessageComponent):
    """Subscribes every connection, and says so."""

    def __init__(self) -> None:
        self.conns: list[Connection] = []

    async def on_open(self, conn: Connection) -> None:
        self.conns.append(conn)
        await conn.subscribe("room")
        conn.send("ready")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        assert conn.app is not None
        await conn.app.topic("room").recover(conn, str(message) or None)


class CodecRooms:
    """An App with a room for clients of each codec.

    Args:
        broker: of the App.
        kind: the generated class that clients of "protobuf" read; None if they get JSON.
    """

    def __init__(self, broker: Broker | None = None, kind: Any = None) -> None:
        self.counting = Counting()
        self.codecs: dict[str, Codec | None] = {
            "json": JsonCodec(),
            "msgpack": self.counting,
            "cbor": CborCodec(),
            "protobuf": ProtobufCodec(kind),
            "raw": None,
        }
        self.room = Room()
        self.app = App("*", 0, broker=broker, authenticate=lambda request: "ana")
        for name, codec in self.codecs.items():
            self.app.route(f"/{name}", self.room, allowed_origins=["*"], codec=codec)

    async def clients(self, stack: AsyncExitStack, *names: str) -> list[Talk]:
        server = await stack.enter_async_context(serving(self.app))
        clients = []
        for name in names:
            client = await stack.enter_async_context(server.client(f"/{name}"))
            codec = self.codecs[name]
            has_json = isinstance(codec, ProtobufCodec) and codec.kind is None
            clients.append(Talk(client, None if has_json else codec))
            assert await client.message() == "ready"
        return clients
