"""Annotations of `on_message`: what stays text and bytes, and mistakes, which are found when a component is routed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Union

import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.typed import Join, Login, Move, Point, Say

from pywsapp import Accept, App, ConfigurationError, Connection, EchoServer, MessageComponent, RateLimit, Request
from pywsapp.codecs import CborCodec, JsonCodec, MessagePackCodec, ProtobufCodec

Raw = str | bytes


@dataclass
class Other:
    x: int


@dataclass
class Unfinished:
    x: Missing  # type: ignore[name-defined] # noqa: F821


class Stop(msgspec.Struct, tag="join"):
    room: str


#: What the annotations of the tests name. `Decimal` is missing, as if it were imported for type checkers only.
NAMES: dict[str, Any] = {
    "Annotated": Annotated,
    "Any": Any,
    "Join": Join,
    "Login": Login,
    "MessageComponent": MessageComponent,
    "Move": Move,
    "Other": Other,
    "Point": Point,
    "Raw": Raw,
    "Request": Request,
    "Say": Say,
    "Stop": Stop,
    "Timestamp": Timestamp,
    "Unfinished": Unfinished,
    "Union": Union,
}


def component(annotation: str) -> type[MessageComponent]:
    """Return a component with an annotation for `message`, in the form of text."""
    source = f"class Chat(MessageComponent):\n    def on_message(self, conn, message: {annotation!r}): ...\n"
    namespace = {**NAMES, "__name__": __name__}
    exec(source, namespace)
    kind: type[MessageComponent] = namespace["Chat"]
    return kind


@pytest.mark.parametrize(
    "annotation", ["str", "bytes", "str | bytes", "Any", "object", "Raw", "Union[str, bytes]", "Annotated[str, 1]"]
)
def test_text_and_bytes_take_the_same_path_as_before(annotation: str) -> None:
    kind = component(annotation)
    before = kind.on_message
    App().route("/", kind())
    assert kind.on_message is before
    assert kind._typed is None


def test_a_component_without_annotations_stays_as_it_is() -> None:
    class Plain(MessageComponent):
        def on_message(self, conn, message): ...  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202

    before = Plain.on_message
    for routed in (Plain, EchoServer):
        App().route("/", routed)
    assert Plain.on_message is before
    assert EchoServer.on_message.__module__ == "pywsapp.component"


def test_a_subclass_without_types_takes_messages_as_they_come() -> None:
    class Typed(MessageComponent):
        def on_message(self, conn: Connection, message: Point) -> None: ...

    class Untyped(Typed):
        def on_message(self, conn: Connection, message: Any) -> None: ...

    before = Untyped.on_message
    App().route("/typed", Typed())
    App().route("/untyped", Untyped())
    assert Untyped.on_message is before
    assert Untyped._typed is None
    assert Typed._typed is not None


def test_a_subclass_calls_the_handler_of_its_base_class() -> None:
    seen: list[Any] = []

    class Base(MessageComponent):
        def on_message(self, conn: Connection, message: Point) -> None:
            seen.append(message)

    class Derived(Base):
        def on_message(self, conn: Connection, message: Point) -> None:
            super().on_message(conn, message)

    for routed in (Base(), Derived()):
        App().route("/", routed)
    conn: Any = None
    Derived().on_message(conn, Point(1))
    assert seen == [Point(1)]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "Chat.on_message: int is no type of messages. Use str, bytes, dict"),
        ("list[Point]", "is no type of messages"),
        ("Point | None", "NoneType is no type of messages"),
        ("Any | Point", "is no type of messages"),
        ("Request", "Request is no type of messages"),
        ("Point | Other", "Point needs a tag, which tells it from the other types"),
        ("Join | Point", 'write class Point(msgspec.Struct, tag="..."), or a field type: Literal["..."]'),
        ("Join | Stop", "two types have the tag 'join'"),
        ("Timestamp | Join", "use one protobuf class"),
        ("Unfinished", "msgspec cannot read Unfinished: name 'Missing' is not defined"),
        ("Missing", "the annotation 'Missing' cannot be read: name 'Missing' is not defined"),
        ("Decimal", "import them at run time, not for type checkers only"),
        ("Timestamp", "choose ProtobufCodec"),
        ("Join | str", "the messages of the codec 'json' are str"),
    ],
)
def test_mistakes_name_the_class_and_what_is_possible(annotation: str, text: str) -> None:
    kind = component(annotation)
    for make in (lambda: kind, kind, lambda: RateLimit(kind(), messages_per_second=1)):
        with pytest.raises(ConfigurationError) as caught:
            App().route("/", make())
        assert text in str(caught.value)


@pytest.mark.parametrize("codec", [MessagePackCodec(), CborCodec()])
def test_bytes_beside_types_need_a_codec_of_text(codec: Any) -> None:
    with pytest.raises(ConfigurationError, match="are bytes"):
        App().route("/", component("Join | bytes")(), codec=codec)
    App().route("/", component("Join | str")(), codec=codec)


def test_a_protobuf_class_is_read_by_its_codec() -> None:
    App().route("/", component("Timestamp")(), codec=ProtobufCodec())
    with pytest.raises(ConfigurationError, match="ProtobufCodec cannot read Join"):
        App().route("/", component("Join")(), codec=[JsonCodec(), ProtobufCodec()])


def test_types_of_all_libraries_are_accepted() -> None:
    for annotation in [
        "Join | Say | Move | Login",
        "dict",
        "dict[str, Any]",
        "Union[Join, Say]",
        "Annotated[Point, 1]",
    ]:
        App().route("/", component(annotation)())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements came with Python 3.12")
def test_an_alias_of_a_union() -> None:
    namespace = dict(NAMES)
    exec("type Message = Join | Say", namespace)
    kind = component("Message")
    kind.on_message.__globals__["Message"] = namespace["Message"]
    App().route("/", kind())


def test_types_of_an_enclosing_function() -> None:
    class Local(msgspec.Struct):
        x: int

    class Chat(MessageComponent):
        def on_message(self, conn: Connection, message: Local) -> None:
            assert isinstance(message, Local)

    App().route("/", Chat())


def test_a_component_that_an_accept_names_is_checked() -> None:
    from pywsapp._access import ask_handshake

    class Inner(MessageComponent):
        def on_message(self, conn: Connection, message: Point) -> None: ...

    class Outer(MessageComponent):
        def on_handshake(self, request: Request) -> Accept:
            return Accept(component=Inner())

    assert Inner._typed is None
    ask_handshake(Outer(), Request(method="GET", path="/"))
    assert Inner._typed is not None


def test_subprotocols_name_the_codecs() -> None:
    codecs = [JsonCodec(), CborCodec()]
    for subprotocols in (["chat.v1"], ["json"]):
        with pytest.raises(ConfigurationError, match=r"add .*'cbor' to the subprotocols"):
            App().route("/", EchoServer(), codec=codecs, subprotocols=subprotocols)
    App().route("/", EchoServer(), codec=codecs, subprotocols=["cbor", "json", "chat.v1"])
    App().route("/", EchoServer(), codec=JsonCodec(), subprotocols=["chat.v1"])


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        (JsonCodec, r"not a class: write JsonCodec\(\)"),
        ("json", r"such as JsonCodec\(\)"),
        ([], r"such as JsonCodec\(\)"),
        ([JsonCodec(), "json"], r"not 'json'"),
        ([JsonCodec(), JsonCodec()], "two codecs have the same name: json, json"),
    ],
)
def test_codecs_are_checked(codec: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        App(codec=codec)
    with pytest.raises(ConfigurationError, match=text):
        App().route("/", EchoServer(), codec=codec)
