"""Protocol Buffers as binary messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pywsapp._extras import import_extra
from pywsapp.codecs.base import Codec, Decoder
from pywsapp.codecs.json_codec import encode_with_standard_library
from pywsapp.codecs.kinds import is_protobuf, name_of_kind
from pywsapp.exceptions import ConfigurationError, InvalidMessage

_NEEDS_CLASS = (
    "ProtobufCodec cannot read messages without a generated class: @on needs an on_message that takes a class with a "
    "oneof, and @rpc and conn.call need another codec"
)


class ProtobufCodec(Codec):
    """Protocol Buffers as binary messages, under the subprotocol "protobuf"; needs the extra `protobuf`.

    A route has one generated class for the messages that it accepts. For several kinds of messages, that class has a
    `oneof` of the others, and `@on` marks the handlers of its fields. An invalid message is answered with JSON, as a
    text message.

    Args:
        kind: the generated class of the objects of a topic, for `App.topic_codec`. A route needs none, because its
            handler names the class.

    Raises:
        ConfigurationError: `kind` is no generated class, or protobuf is not installed.
    """

    name = "protobuf"
    is_binary = True

    def __init__(self, kind: Any = None) -> None:
        if kind is not None and not is_protobuf(kind):
            raise ConfigurationError(f"ProtobufCodec takes a generated class, not {kind!r}")
        self._protobuf = import_extra("pywsapp.codecs.with_protobuf", "protobuf")
        self.kind = kind

    def __repr__(self) -> str:
        return f"ProtobufCodec({'' if self.kind is None else name_of_kind(self.kind)})"

    def encode(self, value: Any) -> bytes:
        """Return the bytes of an object of a generated class; see `Codec.encode`."""
        if not is_protobuf(type(value)):
            raise TypeError(f"ProtobufCodec sends objects of generated classes, not {type(value).__name__}")
        if self.kind is not None and not isinstance(value, self.kind):
            raise TypeError(f"{self!r} sends objects of that class only, not {type(value).__name__}")
        data: bytes = self._protobuf.encode(value)
        return data

    def encode_error(self, error: dict[str, Any]) -> str:
        """Return an error as JSON text, because it has no generated class."""
        return encode_with_standard_library(error)

    def decode(self, message: str | bytes) -> Any:
        """Return the JSON mapping of an object of the codec's class; see `Codec.decode`.

        Raises:
            InvalidMessage: the bytes are no object of that class, or the codec has no class.
        """
        if self.kind is None:
            raise InvalidMessage("the type of the message is not known")
        return self._protobuf.mapping(self.decoder(self.kind)(message))

    def decoder(self, kind: Any) -> Decoder:
        """Return a function that reads objects of a generated class; see `Codec.decoder`."""
        if kind is Any:
            raise ConfigurationError(_NEEDS_CLASS)
        if not is_protobuf(kind):
            raise ConfigurationError(
                f"ProtobufCodec cannot read {name_of_kind(kind)}: annotate `message` with one generated class, "
                "which can have a oneof of others"
            )
        decoder: Decoder = self._protobuf.decoder(kind)
        return decoder

    def converter(self, kind: Any) -> Callable[[Any], Any]:
        """Raise ConfigurationError: handlers by tag and procedures need a codec that reads objects."""
        raise ConfigurationError(_NEEDS_CLASS)
