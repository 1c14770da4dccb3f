"""Reading and writing Protocol Buffers with protobuf; imported on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.exceptions import InvalidMessage

try:
    from google.protobuf.message import DecodeError, EncodeError
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "protobuf") from exc


def decoder(kind: Any) -> Callable[[str | bytes], Any]:
    """Return a function that reads objects of a generated class."""

    def read(message: str | bytes) -> Any:
        if not isinstance(message, bytes):
            raise InvalidMessage("a binary message was expected")
        try:
            value = parse(message)
        except (DecodeError, RecursionError):
            raise InvalidMessage(f"the message is no valid {kind.DESCRIPTOR.name}") from None
        if not value.IsInitialized():
            raise InvalidMessage("a required field is missing")
        return value

    parse = kind.FromString
    return read


def encode(value: Any) -> bytes:
    """Return the bytes of an object of a generated class.

    Raises:
        ValueError: a required field is missing.
    """
    try:
        data: bytes = value.SerializeToString()
    except EncodeError as exc:
        raise ValueError(str(exc)) from None
    return data
