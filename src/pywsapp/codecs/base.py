"""The port to codecs: objects to messages and back. Applications can bring their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from pywsapp._extras import import_extra
from pywsapp.codecs.kinds import Library, library_of
from pywsapp.exceptions import ConfigurationError, InvalidMessage

#: Reads one message: takes its text or bytes, returns the object, and raises `InvalidMessage`.
Decoder = Callable[[str | bytes], Any]


class Codec(ABC):
    """Turns objects into messages, and messages into objects; the base class of every codec.

    A codec of your own needs `name`, `is_binary`, `encode` and `decode`. Its methods never block, and can be called for
    many connections. `pywsapp.testing.check_codec` checks it.

    Attributes:
        name: the subprotocol by which a client chooses this codec, such as "json".
        is_binary: whether its messages are binary messages; they are text messages otherwise.
    """

    name: str
    is_binary: bool = False

    @abstractmethod
    def encode(self, value: Any) -> str | bytes:
        """Return the message for a value: a `str`, or `bytes` for a binary codec.

        Raises:
            TypeError: the codec has no form for the value, or for a part of it.
            ValueError: the value is out of range.
        """

    @abstractmethod
    def decode(self, message: str | bytes) -> Any:
        """Return the content of a message, as `dict`, `list`, `str`, numbers, `bool` and None.

        Its nesting is bounded. If two keys in one object are equal, the last one counts.

        Raises:
            InvalidMessage: the message cannot be read; the text is for the client.
        """

    def encode_error(self, error: dict[str, Any]) -> str | bytes:
        """Return the message for an error; by default what `encode` returns."""
        return self.encode(error)

    def decoder(self, kind: Any) -> Decoder:
        """Return a function that reads messages of one type, and validates them.

        Args:
            kind: a class, or a union of classes; `Any` is what `decode` returns, without validation.

        Raises:
            ConfigurationError: the codec cannot read the type, or a library is not installed.
        """
        decode = self.decode
        if kind is Any:
            return decode
        convert = self.converter(kind)
        return lambda message: convert(decode(message))

    def converter(self, kind: Any) -> Callable[[Any], Any]:
        """Return a function that validates a result of `decode`, and makes an object of it.

        The function raises `InvalidMessage`.

        Args:
            kind: as for `decoder`.

        Raises:
            ConfigurationError: the codec cannot read the type, or a library is not installed.
        """
        library = library_of(kind)
        if library is Library.NONE:
            return _checked_object
        if library is Library.PROTOBUF:
            raise ConfigurationError(f"the codec {self.name!r} cannot read {kind!r}: choose ProtobufCodec")
        if library is Library.PYDANTIC:
            made = import_extra("pywsapp.codecs.with_pydantic", "pydantic").converter(kind)
        else:
            made = import_extra("pywsapp.codecs.with_msgspec", "msgspec").converter(kind, is_text=not self.is_binary)
        converter: Callable[[Any], Any] = made
        return converter


def _checked_object(value: Any) -> Any:
    if type(value) is not dict:
        raise InvalidMessage("an object was expected")
    return value
