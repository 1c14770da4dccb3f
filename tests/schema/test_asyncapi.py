"""The AsyncAPI document of an App."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel
from support.documented import Board, Chat, Join, documented

from pywsapp import App, ConfigurationError, Connection, MessageComponent, on, rpc
from pywsapp.codecs import CborCodec, ProtobufCodec

pytestmark = pytest.mark.once


class Box(BaseModel):
    size: int


class User(BaseModel):
    name: str
    friend: User | None = None


class Post(msgspec.Struct):
    by: User


class Short(msgspec.Struct, omit_defaults=True, frozen=True):
    number: int = 0


class Long(msgspec.Struct):
    short: Short = Short()
    more: list[Short] = []


class On(BaseModel):
    type: Literal["on"]


class Off(BaseModel):
    type: Literal["off"]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return documented().asyncapi(title="Test", version="2.1", description="A *test*.", url="wss://chat.example/ws/")


def of(component: Any, **route: Any) -> dict[str, Any]:
    """Return the document of a component on the path /."""
    app = App(port=0)
    app.route("/", component, **route)
    return app.asyncapi()


def taking(kind: Any) -> MessageComponent:
    """Return a component with messages of a type."""

    class Component(MessageComponent):
        def on_message(self, conn: Connection, message: Any) -> None: ...

    Component.on_message.__annotations__["message"] = kind
    return Component()


def messages(document: dict[str, Any], operation: str) -> list[str]:
    return [found["$ref"].rpartition("/")[2] for found in document["operations"][operation]["messages"]]


def test_head(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == {"title": "Test", "version": "2.1", "description": "A *test*."}
    assert document["servers"] == {"server": {"host": "chat.example", "protocol": "wss", "pathname": "/ws"}}


def test_channels_are_the_routes_with_components(document: dict[str, Any]) -> None:
    assert {name: (found["address"], found["title"]) for name, found in document["channels"].items()} == {
        "below_part": ("/below/{part}/", "Ticker"),
        "below_part_room": ("/below/{part}/{room}", "Silent"),
        "boards_id": ("/boards/{id}", "Board"),
        "chat": ("/chat", "Chat"),
        "echo": ("/echo", "EchoServer"),
        "made": ("/made", "Chat"),
        "ticker": ("/ticker", "Ticker"),
    }
    assert document["channels"]["boards_id"]["parameters"] == {"id": {"description": "An integer."}}
    assert list(document["channels"]["below_part_room"]["parameters"]) == ["part", "room"]
    assert document["channels"]["chat"]["description"] == "A chat with rooms."


def test_bindings_have_hosts_and_subprotocols(document: dict[str, Any]) -> None:
    def fields(channel: str) -> Any:
        binding = document["channels"][channel]["bindings"]["ws"]
        return {name: found["enum"] for name, found in binding.get("headers", {}).get("properties", {}).items()}

    assert fields("chat") == {"Sec-WebSocket-Protocol": ["json", "msgpack"]}
    assert fields("ticker") == {"Sec-WebSocket-Protocol": ["ticker.v1"]}
    assert fields("echo") == {"Host": ["echo.example"]}
    assert fields("made") == {}


def test_operations_of_typed_messages(document: dict[str, Any]) -> None:
    assert messages(document, "chat_receive") == ["Join", "Say"]
    assert messages(document, "chat_send") == ["Joined", "Say", "ErrorMessage"]
    assert messages(document, "boards_id_receive") == ["Move", "Free", "Login"]
    assert messages(document, "below_part_room_receive") == ["Say_msgpack"]
    assert "below_part_room_send" not in document["operations"], "on_invalid sends no error"
    assert document["channels"]["below_part_room"]["x-codecs"] == ["msgpack"]


def test_operations_of_text_and_bytes(document: dict[str, Any]) -> None:
    assert messages(document, "echo_receive") == ["Text", "Binary"]
    assert messages(document, "ticker_receive") == messages(document, "ticker_send") == ["Text"]
    found = document["components"]["messages"]
    assert found["Text"]["payload"] == {"type": "string"}
    assert found["Text"]["contentType"] == "text/plain"
    assert found["Binary"]["contentType"] == "application/octet-stream"


def test_procedures_are_requests_with_replies(document: dict[str, Any]) -> None:
    operation = document["operations"]["boards_id_call_add"]
    assert operation["action"] == "receive"
    assert operation["description"] == "Add two numbers."
    assert messages(document, "boards_id_call_add") == ["AddCall"]
    replies = [found["$ref"].rpartition("/")[2] for found in operation["reply"]["messages"]]
    assert replies == ["AddReply", "CallError"]
    call = document["components"]["messages"]["AddCall"]["payload"]
    assert call["properties"]["method"] == {"const": "add"}
    assert call["properties"]["params"] == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 10}},
        "additionalProperties": False,
        "required": ["a"],
    }
    assert document["components"]["messages"]["AddReply"]["payload"]["properties"]["result"] == {"type": "integer"}
    assert "boards_id_call_board_find" in document["operations"]
    assert document["components"]["messages"]["BoardFindCall"]["name"] == "board.find"
    clear = document["components"]["messages"]["ClearCall"]["payload"]
    assert clear["required"] == ["method"]


def test_messages_have_tags_and_descriptions(document: dict[str, Any]) -> None:
    found = document["components"]["messages"]
    assert found["Join"]["name"] == "join"
    assert found["Join"]["description"] == "Enter a room."
    assert found["Join"]["payload"] == {"$ref": "#/components/schemas/Join"}
    assert found["Move"]["description"] == "Move the pointer."
    assert found["Move"]["payload"]["properties"]["type"] == {"const": "move"}
    assert found["Move"]["payload"]["required"] == ["type", "x"]
    assert found["Free"]["payload"]["additionalProperties"] is True
    assert found["ErrorMessage"]["payload"]["required"] == ["type", "code", "message", "path"]


def test_schemas(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert list(schemas) == sorted(schemas)
    say = schemas["Say"]["properties"]
    assert say["pair"]["items"] == [{"type": "integer"}, {"type": "string"}]
    assert say["pair"]["additionalItems"] is False
    assert say["words"]["default"] == ["four", "one", "three", "two"]
    assert say["tree"]["anyOf"] == [{"$ref": "#/components/schemas/Branch"}, {"type": "null"}]
    assert schemas["Join"]["description"] == "Enter a room."
    assert schemas["Join"]["properties"]["room"]["maxLength"] == 32
    assert schemas["Join"]["properties"]["color"]["allOf"] == [{"$ref": "#/components/schemas/Color"}]
    assert schemas["Login"]["required"] == ["type", "theName"]
    assert "Color2" not in schemas, "an enumeration of both libraries is one schema"


def test_what_only_the_server_sends_has_all_fields(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Joined"]["required"] == ["type", "name", "color"], "note can be UNSET"
    assert schemas["Say"]["required"] == ["type", "text"], "clients send it too"
    assert schemas["Point"]["required"] == ["x"], "it is in a parameter and in a result"


def test_what_leaves_defaults_out_has_optional_fields() -> None:
    class Component(MessageComponent):
        sends = (Long,)

    schemas = of(Component())["components"]["schemas"]
    assert schemas["Long"]["required"] == ["short", "more"]
    assert not schemas["Short"].get("required")


def test_security_is_that_of_the_innermost_guard(document: dict[str, Any]) -> None:
    def schemes(operation: str) -> list[str]:
        security = document["operations"][operation].get("security", [])
        return [found["$ref"].rpartition("/")[2] for found in security]

    assert schemes("chat_receive") == []
    assert schemes("boards_id_call_add") == ["bearerHeader"]
    assert schemes("ticker_receive") == ["subprotocol-bearer", "query-t"]
    found = document["components"]["securitySchemes"]
    assert found["bearerHeader"]["type"] == "http"
    assert found["query-t"] == {"type": "httpApiKey", "in": "query", "name": "t"}


def test_the_document_is_json_and_always_the_same() -> None:
    """Also in another process, where sets have another order."""
    code = "import json; from support.documented import documented; print(json.dumps(documented().asyncapi()))"
    tests = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path]), "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert done.stderr == ""
    assert done.stdout == json.dumps(documented().asyncapi()) + "\n"
    assert "0x" not in done.stdout


# -- names -------------------------------------------------------------------------------------------------------------


def test_types_with_the_same_name_are_told_apart() -> None:
    app = App(port=0)
    app.route("/a", taking(Box))
    app.route("/b", taking(msgspec.defstruct("Box", [("text", str)])))
    found = app.asyncapi()
    assert list(found["components"]["schemas"]["Box"]["properties"]) == ["text"]
    assert list(found["components"]["schemas"]["Box2"]["properties"]) == ["size"]
    assert messages(found, "a_receive") == ["Box2"]
    assert messages(found, "b_receive") == ["Box"]


def test_messages_with_the_same_name_are_told_apart() -> None:
    app = App(port=0)
    app.route("/a", Board())

    class Third(MessageComponent):
        @rpc
        def add(self, conn: Connection, text: str) -> None: ...

        @on("login")
        def login(self, conn: Connection, message: dict[str, Any]) -> None: ...

    app.route("/b", Third())
    found = app.asyncapi()
    assert messages(found, "a_call_add") == ["AddCall"]
    assert messages(found, "b_call_add") == ["AddCall2"]
    assert messages(found, "b_receive") == ["Login2"], "Login is the schema of another type"


def test_routes_with_the_same_words_are_told_apart() -> None:
    app = App(port=0)
    app.route("/a/b", Chat())
    app.route("/a_b", Chat())
    app.route("/", Chat())
    assert sorted(app.asyncapi()["channels"]) == ["a_b", "a_b2", "root"]


# -- kinds of types ----------------------------------------------------------------------------------------------------


def test_a_model_inside_of_a_struct() -> None:
    schemas = of(taking(Post))["components"]["schemas"]
    assert schemas["Post"]["properties"]["by"] == {"$ref": "#/components/schemas/User"}
    assert schemas["User"]["properties"]["friend"]["anyOf"][0] == {"$ref": "#/components/schemas/User"}


def test_protobuf_is_binary() -> None:
    found = of(taking(Struct), codec=ProtobufCodec())["components"]["messages"]["Struct_protobuf"]
    assert found["contentType"] == "application/x-protobuf"
    assert found["payload"]["format"] == "binary"
    assert "google.protobuf.Struct" in found["payload"]["description"]


def test_text_beside_binary_objects() -> None:
    assert messages(of(taking(dict[str, Any] | str), codec=CborCodec()), "root_receive") == ["AnyObject_cbor", "Text"]


def test_unions_of_models_keep_their_order() -> None:
    class Switch(MessageComponent):
        sends = (On | Off,)

        def on_message(self, conn: Connection, message: On | Off) -> None: ...

    assert messages(of(Switch()), "root_receive") == ["On", "Off"]
    assert messages(of(Switch()), "root_send") == ["On", "Off", "ErrorMessage"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_sends_with_something_else() -> None:
    class Wrong(MessageComponent):
        sends = (Chat, int)

    with pytest.raises(ConfigurationError, match=r"Wrong\.sends has Chat, which is no type of messages"):
        of(Wrong())


def test_sends_without_a_list() -> None:
    class Wrong(MessageComponent):
        sends = Join  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match=r"Wrong\.sends is a list of types: write sends = \[Joined, Said\]"):
        of(Wrong())


def test_a_type_without_a_schema() -> None:
    class Strange(msgspec.Struct):
        number: complex

    class Component(MessageComponent):
        sends = (Strange,)

    with pytest.raises(ConfigurationError, match=r"^Strange has no JSON Schema: .*complex"):
        of(Component())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"title": ""}, "title must be a text, not ''"),
        ({"version": 1}, "version must be a text, not 1"),
        ({"url": "https://chat.example"}, "url must be that of the server, such as 'wss://chat.example'"),
        ({"url": "wss://me:secret@chat.example"}, "url must be that of the server"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        App(port=0).asyncapi(**arguments)


def test_an_app_without_routes() -> None:
    found = App(port=0).asyncapi()
    assert found["channels"] == found["operations"] == {}
