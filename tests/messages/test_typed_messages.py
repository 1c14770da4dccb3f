"""`on_message` gets what its annotation names; other messages are answered with an error, and counted."""

from __future__ import annotations

import json
from typing import Any

import anyio.lowlevel
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.serving import serving
from support.typed import Join, Login, Logout, Move, Point, Say, Talk, Typing, talking

from pywsapp import App, ConfigurationError, Connection, InvalidMessage, MessageComponent, Options, in_thread
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec

pytestmark = pytest.mark.anyio
CODECS = [JsonCodec(), MessagePackCodec(), CborCodec()]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


class Structs(MessageComponent):
    """Answers with the type and the fields of each message."""

    def on_message(self, conn: Connection, message: Join | Say) -> None:
        assert isinstance(message, (Join, Say))
        conn.send({"got": type(message).__name__, "message": message})


class Mixed(MessageComponent):
    async def on_message(self, conn: Connection, message: Join | Move | Typing | Login) -> None:
        await anyio.lowlevel.checkpoint()
        conn.send({"got": type(message).__name__, "message": message})


class Models(MessageComponent):
    def on_message(self, conn: Connection, message: Login | Logout) -> None:
        conn.send({"got": type(message).__name__, "message": message})


class Points(MessageComponent):
    def on_message(self, conn: Connection, message: Point) -> None:
        assert isinstance(message, Point)
        conn.send({"sum": message.x + message.y})


class Objects(MessageComponent):
    def on_message(self, conn: Connection, message: dict[str, Any]) -> None:
        conn.send({"keys": sorted(message)})


class Threads(MessageComponent):
    @in_thread
    def on_message(self, conn: Connection, message: Point) -> None:
        anyio.from_thread.run_sync(conn.send, {"sum": message.x + message.y})


class WithUploads(MessageComponent):
    def on_message(self, conn: Connection, message: Say | bytes) -> None:
        conn.send({"got": type(message).__name__})


@every_codec
async def test_structs_are_told_apart_by_their_tags(codec: Codec) -> None:
    async with talking(Structs(), codec) as client:
        answer = await client.ask({"type": "join", "room": "a"})
        assert answer == {"got": "Join", "message": {"type": "join", "room": "a"}}
        answer = await client.ask({"type": "say", "text": "hi"})
        assert answer == {"got": "Say", "message": {"type": "say", "text": "hi", "times": 1}}


@every_codec
async def test_types_of_several_libraries_can_be_mixed(codec: Codec) -> None:
    async with talking(Mixed(), codec) as client:
        for message, kind in [
            ({"type": "join", "room": "a"}, "Join"),
            ({"type": "move", "by": 3}, "Move"),
            ({"type": "typing", "room": "a"}, "dict"),
            ({"type": "login", "name": "Ana"}, "Login"),
        ]:
            answer = await client.ask(message)
            assert answer == {"got": kind, "message": message}
        answer = await client.ask({"type": "move", "by": "3"})
        assert answer["path"] == "$.by"


@every_codec
async def test_models_of_pydantic(codec: Codec) -> None:
    async with talking(Models(), codec) as client:
        answer = await client.ask({"type": "login", "name": "Ana"})
        assert answer == {"got": "Login", "message": {"type": "login", "name": "Ana"}}
        assert (await client.ask({"type": "logout"}))["got"] == "Logout"
        assert (await client.ask({"type": "login", "name": 1}))["path"] == "$.login.name"
        assert (await client.ask({"type": "other"}))["code"] == "invalid_message"


@every_codec
@pytest.mark.parametrize("component", [Points(), Threads()], ids=["def", "in_thread"])
async def test_one_dataclass_needs_no_tag(codec: Codec, component: MessageComponent) -> None:
    async with talking(component, codec) as client:
        assert await client.ask({"x": 3, "y": 4}) == {"sum": 7}
        assert (await client.ask({"x": 3, "y": None}))["path"] == "$.y"


@every_codec
async def test_a_dict_is_any_object(codec: Codec) -> None:
    async with talking(Objects(), codec) as client:
        assert await client.ask({"b": [1], "a": None}) == {"keys": ["a", "b"]}
        assert (await client.ask([1]))["message"] == "an object was expected"


async def test_binary_messages_stay_bytes_beside_types_that_come_as_text() -> None:
    async with talking(WithUploads()) as client:
        assert await client.ask({"type": "say", "text": "hi"}) == {"got": "Say"}
        await client.client.send(b"\x00\x01")
        assert await client.receive() == {"got": "bytes"}


async def test_classes_of_protocol_buffers() -> None:
    class Clock(MessageComponent):
        async def on_message(self, conn: Connection, message: Timestamp) -> None:
            conn.send(Timestamp(seconds=message.seconds + 1))
            with pytest.raises(ConfigurationError, match="ProtobufCodec"):
                await conn.call("confirm")

    async with talking(Clock(), ProtobufCodec()) as client:
        await client.client.send(Timestamp(seconds=5).SerializeToString())
        assert await client.client.message() == Timestamp(seconds=6).SerializeToString()
        await client.client.send(b"\xff")
        error = await client.client.message()
        assert isinstance(error, str), "an error has no class of its own"
        assert json.loads(error)["message"] == "the message is no valid Timestamp"


async def test_text_and_bytes_can_still_be_sent() -> None:
    class Plain(MessageComponent):
        def on_message(self, conn: Connection, message: Point) -> None:
            conn.send("text")
            conn.send(b"bytes")
            conn.send(bytearray(b"array"), compress=True)

    async with talking(Plain()) as client:
        await client.send({"x": 1})
        assert [await client.client.message() for _ in range(3)] == ["text", b"bytes", b"array"]


# -- invalid messages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ('{"type":"say","text":1}', {"message": "Expected `str`, got `int`", "path": "$.text"}),
        ('{"type":"say"}', {"message": "Object missing required field `text`", "path": "$"}),
        ('{"type":"sing"}', {"message": "Invalid value 'sing'", "path": "$.type"}),
        ('{"type":"say","x":' + "[" * 100_000, {"message": "the message is nested too deeply", "path": "$"}),
        (b"{}", {"message": "a text message was expected", "path": "$"}),
    ],
    ids=["wrong field", "missing field", "unknown tag", "too deep", "bytes"],
)
async def test_the_client_learns_what_is_wrong(message: str | bytes, error: dict[str, str]) -> None:
    async with talking(Structs()) as client:
        await client.client.send(message)
        assert await client.receive() == {"type": "error", "code": "invalid_message", **error}
        assert (await client.ask({"type": "join", "room": "a"}))["got"] == "Join"


@pytest.mark.parametrize("component", [Structs(), Models(), Mixed()], ids=["msgspec", "pydantic", "mixed"])
async def test_the_error_repeats_little_of_what_the_client_sent(component: MessageComponent) -> None:
    async with talking(component) as client:
        await client.send({"type": "x" * 100_000})
        assert len(await client.client.message()) < 1200


async def test_too_many_invalid_messages_close_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    app = App("*", 0)
    async with talking(Structs(), app=app, options=Options(max_invalid_messages=3)) as client:
        for _ in range(3):
            assert (await client.ask([]))["type"] == "error"
        assert await client.closed() == 1007
        assert app.stats().limits["invalid_messages"] == 3
    assert len([record for record in caplog.records if "invalid message" in record.message]) == 1


async def test_the_component_can_decide_about_invalid_messages() -> None:
    class Strict(Structs):
        async def on_invalid(self, conn: Connection, error: InvalidMessage) -> None:
            await anyio.lowlevel.checkpoint()
            conn.send({"wrong": error.path})
            conn.close(1008, "no")

    async with talking(Strict()) as client:
        assert await client.ask({"type": "say", "text": 1}) == {"wrong": "$.text"}
        assert await client.closed() == 1008


async def test_an_exception_of_on_invalid_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Structs):
        def on_invalid(self, conn: Connection, error: InvalidMessage) -> None:
            raise RuntimeError("on purpose")

    async with talking(Failing()) as client:
        await client.send([])
        assert await client.closed() == 1011
    assert "on purpose" in caplog.text


# -- choosing a codec --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["route", "app"])
@pytest.mark.parametrize(("offer", "chosen"), [("msgpack", 1), ("cbor, msgpack", 1), ("cbor", 2), (None, 0)])
async def test_the_subprotocol_chooses_the_codec(offer: str | None, chosen: int, scope: str) -> None:
    codecs = [JsonCodec(), MessagePackCodec(), CborCodec()]
    app = App("*", 0, codec=codecs if scope == "app" else MessagePackCodec())
    app.route("/", Points(), allowed_origins=["*"], codec=codecs if scope == "route" else None)
    headers = "" if offer is None else f"Sec-WebSocket-Protocol: {offer}\r\n"
    async with serving(app) as server, server.client(headers=headers) as client:
        assert await Talk(client, codecs[chosen]).ask({"x": 1, "y": 2}) == {"sum": 3}


async def test_a_component_without_types_can_send_objects_on_a_route_with_a_codec() -> None:
    class Greeter(MessageComponent):
        def on_message(self, conn: Connection, message: str | bytes) -> None:
            assert isinstance(message, bytes)
            conn.send(Join("a"))

    async with talking(Greeter(), MessagePackCodec()) as client:
        assert await client.ask({}) == {"type": "join", "room": "a"}


async def test_an_object_without_a_codec_is_refused_with_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(MessageComponent):
        def on_message(self, conn: Connection, message: str) -> None:
            conn.send({"a": 1})

    async with talking(Wrong()) as client:
        await client.send("x")
        assert await client.closed() == 1011
    assert "codec=JsonCodec()" in caplog.text
