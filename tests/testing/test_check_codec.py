"""`check_codec`: every codec keeps the rules, and each rule finds a codec that breaks it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from pywsapp import InvalidMessage
from pywsapp.codecs import CborCodec, Codec, JsonCodec, MessagePackCodec
from pywsapp.codecs.json_codec import decode_with_standard_library
from pywsapp.testing import CODEC_CHECKS, check_codec

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class StandardLibrary(JsonCodec):
    """JSON as it is read without msgspec."""

    def __init__(self) -> None:
        super().__init__("json")
        self._decode = decode_with_standard_library


@pytest.mark.parametrize("check", CODEC_CHECKS.values(), ids=CODEC_CHECKS.keys())
@pytest.mark.parametrize("make", [JsonCodec, StandardLibrary, MessagePackCodec, CborCodec, lambda: JsonCodec("orjson")])
async def test_our_codecs(make: Any, check: Any) -> None:
    await check(make)


class Unguarded(Codec):
    """Raises what the standard library raises."""

    name = "json"

    def encode(self, value: Any) -> Any:
        return json.dumps(value)

    def decode(self, message: str | bytes) -> Any:
        return json.loads(message)


class Pickle(Unguarded):
    """Sends what nobody should."""

    is_binary = True

    def encode(self, value: Any) -> Any:
        return pickle.dumps(value)

    def decode(self, message: str | bytes) -> Any:
        raise InvalidMessage("never")


class Renamed(JsonCodec):
    name = "my json"


class Bytes(JsonCodec):
    def encode(self, value: Any) -> Any:
        return super().encode(value).encode()


class Floats(JsonCodec):
    def decode(self, message: str | bytes) -> Any:
        return json.loads(super().encode(super().decode(message)), parse_int=float)


class Careless(JsonCodec):
    def encode(self, value: Any) -> Any:
        return json.dumps(value, default=str)


class Both(JsonCodec):
    def decode(self, message: str | bytes) -> Any:
        return super().decode(message if isinstance(message, str) else message.decode("latin-1") or "0")


class First(JsonCodec):
    def decode(self, message: str | bytes) -> Any:
        try:
            return super().decode(message)
        except InvalidMessage:
            if message == '{"a":1}{"a":1}':
                return {"a": 1}
            raise


class Lists(JsonCodec):
    def decoder(self, kind: Any) -> Any:
        return self.decode


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (Renamed, "its name is a subprotocol: 'my json' cannot be a subprotocol"),
        (Bytes, "messages are of one kind: encode returned bytes"),
        (Floats, "objects come back as they were"),
        (Careless, "what it cannot encode raises a type error: encode accepted"),
        (Unguarded, "garbage is an invalid message: decode raised"),
        (Both, "messages of the other kind are invalid: decode accepted"),
        (First, "what follows a value is invalid: decode accepted two values"),
        (Lists, r"decoders check that a dict is an object: decoder\(dict\) accepted \[1\]"),
        (Pickle, "objects come back as they were"),
    ],
)
async def test_a_broken_rule_is_found(make: Any, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        await check_codec(make)
