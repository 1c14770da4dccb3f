"""Handlers by tag: `@on("join")`."""

from __future__ import annotations

from typing import Any

import anyio.lowlevel
import msgspec
import pytest
from support.typed import Join, Login, Move, Point, Say, Typing, talking

from pywsapp import App, ConfigurationError, Connection, InvalidMessage, MessageComponent, on
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec

pytestmark = pytest.mark.anyio
every_codec = pytest.mark.parametrize(
    "codec", [JsonCodec(), MessagePackCodec(), CborCodec()], ids=lambda codec: codec.name
)


class Opened(msgspec.Struct, tag="opened", tag_field="event"):
    door: str


class Chat(MessageComponent):
    """Its types are Structs with these tags, so msgspec tells them apart."""

    @on("join")
    def joined(self, conn: Connection, message: Join) -> None:
        conn.send({"joined": message.room})

    @on("say")
    async def on_say(self, conn: Connection, message: Say) -> None:
        await anyio.lowlevel.checkpoint()
        conn.send({"said": message.text})


class Anything(Chat):
    """Has types of all kinds, also those without a tag."""

    @on("point")
    def point(self, conn: Connection, message: Point) -> None:
        conn.send({"sum": message.x + message.y})

    @on("move")
    def move(self, conn: Connection, message: Move) -> None:
        conn.send({"by": message.by})

    @on("typing")
    def typing(self, conn: Connection, message: Typing) -> None:
        conn.send({"typing": message["room"]})

    @on("login")
    def login(self, conn: Connection, message: Login) -> None:
        conn.send({"login": message.name})

    @on("other")
    def other(self, conn: Connection, message: Any) -> None:
        conn.send({"fields": sorted(message)})


class Quiet(Anything):
    """Overrides a handler; the mark of the base class stays."""

    def point(self, conn: Connection, message: Point) -> None:
        conn.send({"quiet": message.x})


class Doors(MessageComponent):
    @on("opened")
    def opened(self, conn: Connection, message: Opened) -> None:
        conn.send({"door": message.door})

    @on("shut")
    def shut(self, conn: Connection, message: dict[str, Any]) -> None:
        conn.send({"shut": message["door"]})


@every_codec
@pytest.mark.parametrize("component", [Chat(), Anything()], ids=["structs", "all kinds"])
async def test_the_tag_chooses_the_handler(codec: Codec, component: MessageComponent) -> None:
    async with talking(component, codec) as client:
        assert await client.ask({"type": "join", "room": "a"}) == {"joined": "a"}
        assert await client.ask({"type": "say", "text": "hi"}) == {"said": "hi"}
        assert await client.ask({"type": "join", "room": 1}) == {
            "type": "error",
            "code": "invalid_message",
            "message": "Expected `str`, got `int`",
            "path": "$.room",
        }
        for other in ["sing", None, 3, ["join"], {"a": "b"}]:
            assert (await client.ask({"type": other}))["path"] == "$.type"
        assert (await client.ask({"room": "a"}))["code"] == "invalid_message"
        assert (await client.ask(["join"]))["code"] == "invalid_message"


@every_codec
async def test_types_without_a_tag_have_that_of_their_handler(codec: Codec) -> None:
    async with talking(Anything(), codec) as client:
        assert await client.ask({"type": "point", "x": 1, "y": 2}) == {"sum": 3}
        assert await client.ask({"type": "move", "by": 3}) == {"by": 3}
        assert await client.ask({"type": "typing", "room": "a"}) == {"typing": "a"}
        assert await client.ask({"type": "login", "name": "Ana"}) == {"login": "Ana"}
        assert await client.ask({"type": "other", "x": None}) == {"fields": ["type", "x"]}


async def test_a_subclass_overrides_a_handler() -> None:
    async with talking(Quiet()) as client:
        assert await client.ask({"type": "point", "x": 1}) == {"quiet": 1}
    async with talking(Anything()) as client:
        assert await client.ask({"type": "point", "x": 1}) == {"sum": 1}


async def test_the_tag_field_is_that_of_the_structs() -> None:
    async with talking(Doors()) as client:
        assert await client.ask({"event": "opened", "door": "front"}) == {"door": "front"}
        assert await client.ask({"event": "shut", "door": "back"}) == {"shut": "back"}
        assert (await client.ask({"type": "opened", "door": "front"}))["path"] == "$.event"


async def test_a_handler_can_refuse_a_message() -> None:
    class Rooms(MessageComponent):
        @on("join")
        def joined(self, conn: Connection, message: Join) -> None:
            raise InvalidMessage("there is no such room", "$.room")

    async with talking(Rooms()) as client:
        assert await client.ask({"type": "join", "room": "x"}) == {
            "type": "error",
            "code": "invalid_message",
            "message": "there is no such room",
            "path": "$.room",
        }


# -- mistakes ----------------------------------------------------------------------------------------------------------


def both() -> type[MessageComponent]:
    class Both(Chat):
        def on_message(self, conn: Connection, message: Join) -> None: ...

    return Both


def doubled() -> type[MessageComponent]:
    class Doubled(Chat):
        @on("join")
        def again(self, conn: Connection, message: Join) -> None: ...

    return Doubled


def other_tag() -> type[MessageComponent]:
    class OtherTag(MessageComponent):
        @on("enter")
        def entered(self, conn: Connection, message: Join) -> None: ...

    return OtherTag


def two_types() -> type[MessageComponent]:
    class TwoTypes(MessageComponent):
        @on("join")
        def joined(self, conn: Connection, message: Join | Say) -> None: ...

    return TwoTypes


def two_fields() -> type[MessageComponent]:
    class TwoFields(Doors):
        @on("join")
        def joined(self, conn: Connection, message: Join) -> None: ...

    return TwoFields


def no_message() -> type[MessageComponent]:
    class NoMessage(MessageComponent):
        @on("join")
        def joined(self, conn: Connection) -> None: ...

    return NoMessage


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (both, "Both has both on_message and handlers with @on"),
        (doubled, "Doubled.again: another handler has the tag 'join' already"),
        (other_tag, "OtherTag.entered: the tag is 'enter', but Join has the tag 'join'"),
        (two_types, "TwoTypes.joined: the messages with one tag have one type"),
        (two_fields, "TwoFields: the types of its handlers have different tag fields"),
        (no_message, "NoMessage.joined must take (self, conn, message)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__name__,
)
def test_mistakes_are_found_when_the_component_is_routed(make: Any, text: str) -> None:
    for component in (make(), make()()):
        with pytest.raises(ConfigurationError) as caught:
            App().route("/", component)
        assert text in str(caught.value)


@pytest.mark.parametrize("tag", [None, "", 3])
def test_a_tag_is_a_text(tag: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'such as "join"'):
        on(tag)


def test_the_decorator_needs_a_tag() -> None:
    with pytest.raises(ConfigurationError, match=r'write @on\("join"\) above'):
        on(test_the_decorator_needs_a_tag)  # type: ignore[arg-type]
