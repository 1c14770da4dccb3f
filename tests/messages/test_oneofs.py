"""Handlers for the fields of a oneof of Protocol Buffers: `@on("join")` beside `on_message`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from support.chat_pb2 import Hello, Join, Say
from support.serving import GUARD
from support.typed import Point
from support.wire import running

from pywsapp import App, ConfigurationError, Connection, InvalidMessage, MessageComponent, connect, on, rpc
from pywsapp.codecs import Codec, JsonCodec, ProtobufCodec

pytestmark = pytest.mark.anyio


class Chat(MessageComponent):
    """Takes a class that protoc has generated: a Value is a number, a Struct, a list or something else."""

    @on("struct_value")
    def structured(self, conn: Connection, message: Struct) -> None:
        conn.send(Value(string_value=f"struct {sorted(message)}"))

    @on("list_value")
    async def listed(self, conn: Connection, message: Any) -> None:
        if not message.values:
            raise InvalidMessage("the list is empty")
        conn.send(Value(string_value=f"{type(message).__name__} {len(message)}"))

    def on_message(self, conn: Connection, message: Value) -> None:
        conn.send(Value(string_value=f"other {message.WhichOneof('kind')}"))


async def test_the_field_that_is_set_chooses_the_handler() -> None:
    app, sent, empty = App("*", 0), [Value(), Value(), Value(number_value=1), Value()], Value(list_value=ListValue())
    app.route("/", Chat(), allowed_origins=["*"], codec=ProtobufCodec())
    sent[0].struct_value.update({"room": "tea"})
    sent[1].list_value.extend([1, 2])
    with anyio.fail_after(GUARD):
        async with (
            running(app),
            connect(f"ws://127.0.0.1:{app.port}/", codec=ProtobufCodec(), message_type=Value) as conn,
        ):
            for message in sent:
                await conn.send(message)
            received = [(await conn.receive()).string_value for _ in sent]
            assert received == ["struct ['room']", "ListValue 2", "other number_value", "other None"]
            conn.send(empty)
            assert "the list is empty" in await conn.receive(str)
            conn.send(b"\xff")
            assert "no valid Value" in await conn.receive(str)
            with pytest.raises(ConfigurationError, match=r"conn\.call need another codec"):
                await conn.call("add")


def test_a_subclass_adds_a_handler() -> None:
    class More(Chat):
        @on("bool_value")
        def truth(self, conn: Connection, message: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"More\.truth: the field bool_value is no message"):
        App().route("/", More(), codec=ProtobufCodec())


def taking(**handlers: tuple[str, Any]) -> type[MessageComponent]:
    """Return a component for a Hello with handlers: tags and types by their names."""

    def on_message(self: Any, conn: Connection, message: Any) -> None: ...

    on_message.__annotations__["message"] = Hello
    methods: dict[str, Any] = {"on_message": on_message}
    for name, (tag, kind) in handlers.items():

        def method(self: Any, conn: Connection, message: Any) -> None: ...

        method.__name__ = name
        method.__annotations__["message"] = kind
        methods[name] = on(tag)(method)
    return type("Chat", (MessageComponent,), methods)


@pytest.mark.parametrize(
    ("handlers", "text"),
    [
        ({"said": ("say", Say), "joined": ("join", Join)}, None),
        ({"said": ("talk", Say)}, r"Chat: @on\('talk'\) names no field of a oneof of Hello"),
        ({"named": ("id", Say)}, r"@on\('id'\) names no field of a oneof"),
        ({"said": ("say", Join)}, r"Chat\.said: the field say is of the class Say, not Join"),
        ({"said": ("say", Point)}, "the field say is of the class Say, not Point"),
        ({"said": ("say", dict)}, "the field say is of the class Say, not dict"),
        ({"said": ("say", Say), "joined": ("joined", Join)}, "are for fields of one oneof, not of several"),
    ],
)
def test_handlers_that_contradict_the_class(handlers: Any, text: str | None) -> None:
    if text is None:
        App().route("/", taking(**handlers)(), codec=ProtobufCodec())
        return
    with pytest.raises(ConfigurationError, match=text):
        App().route("/", taking(**handlers)(), codec=ProtobufCodec())


@pytest.mark.parametrize("codec", [None, JsonCodec()])
def test_other_codecs_cannot_read_the_class(codec: Codec | None) -> None:
    with pytest.raises(ConfigurationError, match="choose ProtobufCodec"):
        App().route("/", Chat(), codec=codec)


def test_handlers_by_tag_and_procedures_need_another_codec() -> None:
    class Tagged(MessageComponent):
        @on("join")
        def joined(self, conn: Connection, message: Any) -> None: ...

    class Calls(Chat):
        @rpc
        def add(self, conn: Connection, a: int) -> int:
            return a

    class Both(MessageComponent):
        @on("join")
        def joined(self, conn: Connection, message: Any) -> None: ...

        def on_message(self, conn: Connection, message: Point) -> None: ...

    for component, text in (
        (Tagged, "@on needs an on_message"),
        (Calls, r"@rpc and conn\.call need another"),
        (Both, "has both"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            App().route("/", component(), codec=ProtobufCodec())
