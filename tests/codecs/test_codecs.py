"""Codecs with the real libraries: what they read, what they refuse, and what they write."""

from __future__ import annotations

import json
import math
from typing import Any

import cbor2
import msgspec
import pytest
from google.protobuf.struct_pb2 import Struct as ProtobufStruct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.typed import Join, Login, Logout, Move, Point, Say, Typing

from pywsapp import ConfigurationError, InvalidMessage
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec, ProtobufCodec
from pywsapp.codecs.json_codec import decode_with_standard_library

few = settings(max_examples=30)


class StandardLibrary(JsonCodec):
    """JSON as it is read and written without msgspec."""

    def __init__(self) -> None:
        super().__init__("json")
        self._decode = decode_with_standard_library


CODECS = [JsonCodec(), StandardLibrary(), JsonCodec("orjson"), MessagePackCodec(), CborCodec()]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=["msgspec", "json", "orjson", "msgpack", "cbor"])
JSON = CODECS[:3]

texts = st.text(st.characters(codec="utf-8"), max_size=10)
integers = st.integers(-(2**53), 2**53)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)
messages = st.one_of(
    st.builds(Join, texts),
    st.builds(Say, texts, integers),
    st.builds(Move, integers),
    st.builds(Login, name=texts),
    st.builds(lambda room: Typing(type="typing", room=room), texts),
)
TYPES = {Join: Join, Say: Say, Move: Move, Login: Login, dict: Typing}


@every_codec
@few
@given(value=values)
@example(value=[0.0, -0.0, 1e300, 2**53])
def test_values_come_back(codec: Codec, value: Any) -> None:
    assert repr(codec.decode(codec.encode(value))) == repr(value)


@every_codec
@few
@given(message=messages)
def test_objects_come_back(codec: Codec, message: Any) -> None:
    decode = codec.decoder(TYPES[type(message)])
    assert decode(codec.encode(message)) == message


@every_codec
@few
@given(data=st.binary(max_size=40))
def test_any_bytes_are_read_or_invalid(codec: Codec, data: bytes) -> None:
    message = data if codec.is_binary else data.decode("utf-8", "replace")
    for decode in (codec.decode, codec.decoder(Join | Say), codec.decoder(Login | Logout), codec.decoder(Point)):
        path = "$"
        try:
            decode(message)
        except InvalidMessage as exc:
            path = exc.path
        assert path.startswith("$")


# -- rules for strange values ------------------------------------------------------------------------------------------


@every_codec
def test_the_last_of_two_equal_keys_counts(codec: Codec) -> None:
    twice = {"json": '{"x":1,"x":2}', "msgpack": b"\x82\xa1x\x01\xa1x\x02", "cbor": b"\xa2\x61x\x01\x61x\x02"}
    message: Any = twice[codec.name]
    assert codec.decode(message) == {"x": 2}
    assert codec.decoder(Point)(message) == Point(2)


@pytest.mark.parametrize("codec", JSON, ids=["msgspec", "json", "orjson"])
@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "1e999", '{"x":NaN}'])
def test_numbers_that_are_no_json_are_invalid(codec: Codec, text: str) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode(text)


@pytest.mark.parametrize("codec", JSON, ids=["msgspec", "json", "orjson"])
def test_integers_are_bounded(codec: Codec) -> None:
    assert codec.decode("9" * 4300) == int("9" * 4300)
    with pytest.raises(InvalidMessage):
        codec.decode("9" * 4301)


@pytest.mark.parametrize("codec", JSON, ids=["msgspec", "json", "orjson"])
@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udc00":1}', '["\\ud83d x"]'])
def test_half_of_a_surrogate_pair_is_invalid(codec: Codec, text: str) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode(text)
    assert codec.decode('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_what_is_written_for_a_number_that_is_no_json() -> None:
    assert JsonCodec().encode({"x": math.nan}) == '{"x":null}'
    assert JsonCodec("orjson").encode({"x": math.inf}) == '{"x":null}'
    with pytest.raises(ValueError, match="JSON"):
        JsonCodec("json").encode({"x": math.nan})


@every_codec
def test_objects_of_an_application_are_written(codec: Codec) -> None:
    value = {"points": [Point(1)], "join": Join("a"), "login": Login(name="Ana")}
    written = {
        "points": [{"x": 1, "y": 0}],
        "join": {"type": "join", "room": "a"},
        "login": {"type": "login", "name": "Ana"},
    }
    assert codec.decode(codec.encode(value)) == written


# -- CBOR --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        cbor2.dumps(2**70),
        cbor2.dumps({1, 2}),
        bytes.fromhex("d81c81d81d00"),  # a list that contains itself
        bytes.fromhex("d82363") + b"(a)",  # a regular expression
        bytes.fromhex("c482") + bytes.fromhex("1b7fffffffffffffff01"),  # 10 to the power of 2**63
        bytes.fromhex("d9ffff01"),  # a tag that is not known
        bytes.fromhex("0101"),
        bytes.fromhex("81" * 401 + "01"),
        b"\x61\xff",
    ],
)
def test_cbor_that_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        CborCodec().decode(data)


def test_cbor_of_other_implementations() -> None:
    codec = CborCodec()
    assert codec.decode(bytes.fromhex("d9d9f7a10102")) == {1: 2}  # with the mark of CBOR
    assert codec.decode(bytes.fromhex("9f0102ff")) == [1, 2]  # of indefinite length
    assert codec.decode(bytes.fromhex("fb7ff0000000000000")) == math.inf


# -- MessagePack -------------------------------------------------------------------------------------------------------


def test_extension_types_of_message_pack() -> None:
    codec = MessagePackCodec()
    assert codec.decode(b"\xd6\xff\x00\x00\x00\x01").timestamp() == 1
    with pytest.raises(InvalidMessage, match="the extension type 5 is not known"):
        codec.decode(b"\xd4\x05\x00")


# -- Protocol Buffers --------------------------------------------------------------------------------------------------


def test_protobuf() -> None:
    codec = ProtobufCodec()
    decode = codec.decoder(Timestamp)
    assert decode(codec.encode(Timestamp(seconds=5))) == Timestamp(seconds=5)
    with pytest.raises(InvalidMessage, match="no valid Timestamp"):
        decode(b"\xff")
    with pytest.raises(InvalidMessage, match="a binary message was expected"):
        decode("text")
    with pytest.raises(TypeError, match="not dict"):
        codec.encode({"seconds": 5})
    assert json.loads(codec.encode_error({"type": "error"})) == {"type": "error"}


def test_deep_protobuf_is_invalid() -> None:
    """A Struct of google.protobuf nests itself: a Value is a list of Values."""
    data = b""
    for _ in range(5000):
        size = len(data)
        head = b""
        while True:
            head += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
            size >>= 7
            if not size:
                break
        data = b"\x0a" + head + data
    with pytest.raises(InvalidMessage):
        ProtobufCodec().decoder(ProtobufStruct)(data + b"\x0b" * 5000)


@pytest.mark.parametrize("kind", [dict, Any, Point, Timestamp | Point])
def test_types_that_protobuf_cannot_read(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="ProtobufCodec cannot read"):
        ProtobufCodec().decoder(kind)


def test_a_generated_class_needs_its_codec() -> None:
    with pytest.raises(ConfigurationError, match="choose ProtobufCodec"):
        JsonCodec().decoder(Timestamp)


def test_the_library_of_json() -> None:
    with pytest.raises(ConfigurationError, match='is "json", "msgspec" or "orjson"'):
        JsonCodec("simplejson")
    assert JsonCodec("json").encode([1, "ü"]) == '[1,"ü"]'


def test_types_that_msgspec_cannot_read() -> None:
    class Strange:
        pass

    class Holder(msgspec.Struct):
        both: Point | Move  # msgspec cannot tell two dataclasses apart

    for codec in (JsonCodec(), MessagePackCodec(), CborCodec()):
        with pytest.raises(ConfigurationError, match="msgspec cannot read Holder"):
            codec.decoder(Holder)
        with pytest.raises(InvalidMessage):
            codec.decoder(Strange)(codec.encode({}))
