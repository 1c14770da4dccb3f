"""Any message is read by its types or invalid, in every codec; a value that is read can be written and read again.

Readers of unions, handlers by tag, procedures and replies get the input as text and as bytes.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any, Literal, TypedDict

import msgspec
from google.protobuf.struct_pb2 import Struct as ProtobufStruct
from harness import fuzz, instrumented
from pydantic import BaseModel

with instrumented():
    from pywsapp import App, Connection, InvalidMessage, MessageComponent, on, rpc
    from pywsapp._messages.calls import Calls
    from pywsapp._messages.objects import ObjectText, PreparedObject
    from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec
    from pywsapp.codecs.json_codec import decode_with_standard_library


class Join(msgspec.Struct, tag="join"):
    """A Struct with a tag."""

    room: str
    inner: dict[str, list[int]] | None = None


class Say(msgspec.Struct, tag="say"):
    """Another one."""

    text: str


class Typing(TypedDict):
    """A TypedDict with a tag."""

    type: Literal["typing"]
    room: str


class Login(BaseModel):
    """A model of pydantic with a tag."""

    type: Literal["login"] = "login"
    name: str


class Union(MessageComponent):
    """Reads Structs at once."""

    def on_message(self, conn: Connection, message: Join | Say) -> None:
        """Do nothing."""


class Tags(MessageComponent):
    """Looks at the tag of an object first."""

    @on("join")
    def joined(self, conn: Connection, message: Join) -> None:
        """Do nothing."""

    @on("typing")
    def typing(self, conn: Connection, message: Typing) -> None:
        """Do nothing."""

    @on("login")
    def login(self, conn: Connection, message: Login) -> None:
        """Do nothing."""

    @rpc
    def add(self, conn: Connection, a: int, b: list[str], *, c: Login | None = None) -> None:
        """Do nothing."""


APP = App()
CODECS: list[Codec] = [JsonCodec(), MessagePackCodec(), CborCodec()]
APP.route("/union", Union(), codec=CODECS)
APP.route("/tags", Tags(), codec=CODECS)
KINDS: list[Any] = [kind._typed for kind in (Union, Tags)]
CALLS = {codec.name: Calls(codec, 4) for codec in CODECS}
READ_STRUCT = ProtobufCodec().decoder(ProtobufStruct)


def is_plain(value: Any) -> bool:
    """Return whether a value is equal to itself when it is read again."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return not isinstance(value, float) or math.isfinite(value)


def read(codec: Codec, message: str | bytes) -> None:
    for typed in KINDS:
        path, text = "$", ""
        try:
            handler, _ = typed.reader(codec)(message)
            assert callable(handler)
        except InvalidMessage as exc:
            path, text = exc.path, exc.reason
        assert path.startswith("$")
        assert len(text) < 5000
    assert CALLS[codec.name].take(message) is False, "no call was made, so nothing can be a reply"
    try:
        value = codec.decode(message)
    except InvalidMessage:
        return
    assert type(message) is (bytes if codec.is_binary else str)
    if is_plain(value):
        try:
            again = codec.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return  # what has no form in this codec, or is nested as deeply as possible
        assert repr(codec.decode(again)) == repr(value)


def one_input(data: bytes) -> None:
    """Read one input as text and as bytes in every codec."""
    text = data.decode("utf-8", "replace")
    for codec in CODECS:
        read(codec, data)
        read(codec, text)
    for message in (data, text):
        try:
            READ_STRUCT(message)
        except InvalidMessage:
            continue
    with suppress(InvalidMessage):
        decode_with_standard_library(text)
    prepared = PreparedObject(ObjectText(text))
    for codec in CODECS:
        assert prepared.form_for(codec).payload is not None


def seeds() -> list[bytes]:
    values: list[dict[str, Any]] = [
        {"type": "join", "room": "a", "inner": {"x": [1, 2]}},
        {"type": "say", "text": "Zürich \0"},
        {"type": "typing", "room": ""},
        {"type": "login", "name": "Ana"},
        {"type": "join", "room": 1},
        {"type": ["join"]},
        {"id": 7, "method": "add", "params": {"a": 1, "b": ["x"], "c": {"name": "Ana"}}},
        {"id": "x", "method": "add", "params": [1, []]},
        {"id": True, "method": 3, "params": None},
        {"id": 1, "result": {"a": None}},
        {"id": 1, "error": {"code": "no", "message": "x"}},
        {"a": [1.5, -0.0, 2**53, True, None, {"": {}}]},
    ]
    found = [
        message if isinstance(message := codec.encode(value), bytes) else message.encode()
        for value in values
        for codec in CODECS
    ]
    struct = ProtobufStruct()
    struct.update({"a": [1, {"b": "c"}]})
    others = [
        b"[" * 3000,
        b"\x91" * 3000,
        b"\x81" * 3000,
        b'{"type":"say","x":' + b"[" * 500,
        b'[NaN,1e999,"\\ud800",' + b"9" * 400 + b"]",
        b'{"type":"say","type":"join","room":"a"}',
        bytes.fromhex("d81c81d81d00"),
        bytes.fromhex("d82363286129"),
        bytes.fromhex("c4821b7fffffffffffffff01"),
        bytes.fromhex("d6ff00000001"),
        struct.SerializeToString(),
    ]
    return found + others


if __name__ == "__main__":
    fuzz(one_input, seeds())
