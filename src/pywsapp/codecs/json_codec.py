"""JSON as text messages."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from pywsapp._extras import import_extra
from pywsapp.codecs.base import Codec, Decoder
from pywsapp.codecs.dumping import dumped
from pywsapp.codecs.kinds import Library, library_of
from pywsapp.exceptions import ConfigurationError, InvalidMessage


def _refuse_constant(name: str) -> Any:
    raise InvalidMessage(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidMessage("a number is out of range")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dumped)
encode_with_standard_library = _encoder.encode


def decode_with_standard_library(message: str | bytes) -> Any:
    """Return what JSON text holds, by the rules of `JsonCodec`."""
    if not isinstance(message, str):
        raise InvalidMessage("a text message was expected")
    try:
        value = _decoder.decode(message)
        if "\\u" in message:  # half of a surrogate pair has no UTF-8 form
            _encoder.encode(value).encode()
    except RecursionError:
        raise InvalidMessage("the message is nested too deeply") from None
    except ValueError as exc:
        raise InvalidMessage(f"the message is no valid JSON: {exc}") from None
    return value


class JsonCodec(Codec):
    """JSON (RFC 8259) as text messages, under the subprotocol "json".

    Numbers that are no JSON, such as NaN, are not accepted. An integer can have 4,300 digits. The nesting is bounded by
    the recursion limit of Python.

    Args:
        library: what writes JSON: "msgspec", "orjson", or "json", which is the standard library. By default msgspec, if
            it is installed. msgspec and orjson write null for a number that is no JSON; with "json", it raises
            ValueError.

    Raises:
        ConfigurationError: there is no such library, or it is not installed.
    """

    name = "json"

    def __init__(self, library: str | None = None) -> None:
        self._msgspec = _installed("pywsapp.codecs.with_msgspec")
        self._encode: Callable[[Any], bytes | str]
        if library not in (None, "json", "msgspec", "orjson"):
            raise ConfigurationError(f'the library of JsonCodec is "json", "msgspec" or "orjson", not {library!r}')
        if library == "orjson":
            self._encode = import_extra("pywsapp.codecs.with_orjson", "orjson").encode
        elif library == "json" or (library is None and self._msgspec is None):
            self._encode = encode_with_standard_library
        else:
            self._encode = import_extra("pywsapp.codecs.with_msgspec", "msgspec").encode_json
        self._decode = decode_with_standard_library if self._msgspec is None else self._msgspec.decode_json

    def __repr__(self) -> str:
        return "JsonCodec()"

    def encode(self, value: Any) -> str:
        """Return the JSON text of a value; see `Codec.encode`."""
        text = self._encode(value)
        return text if isinstance(text, str) else text.decode()

    def decode(self, message: str | bytes) -> Any:
        """Return what JSON text holds; see `Codec.decode`."""
        return self._decode(message)

    def decoder(self, kind: Any) -> Decoder:
        """Return a function that reads and validates JSON text; see `Codec.decoder`."""
        if kind is Any:
            return self._decode
        if library_of(kind) is Library.MSGSPEC:
            decoder: Decoder = import_extra("pywsapp.codecs.with_msgspec", "msgspec").json_decoder(kind)
            return decoder
        return super().decoder(kind)


def _installed(module: str) -> ModuleType | None:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        return None
