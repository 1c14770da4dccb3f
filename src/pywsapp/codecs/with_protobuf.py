"""Reading and writing Protocol Buffers with protobuf; imported on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pywsapp._extras import missing_extra
from pywsapp.exceptions import InvalidMessage

try:
    from google.protobuf.json_format import Error as MappingError
    from google.protobuf.json_format import MessageToDict
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


def mapping(value: Any) -> dict[str, Any]:
    """Return the JSON mapping of an object of a generated class, as plain values.

    Raises:
        InvalidMessage: the object has none, such as an Any of a class that is not known.
    """
    try:
        found: dict[str, Any] = MessageToDict(value)
    except (MappingError, TypeError, ValueError, RecursionError) as exc:
        raise InvalidMessage(f"the message has no form in JSON: {exc}") from None
    return found


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
