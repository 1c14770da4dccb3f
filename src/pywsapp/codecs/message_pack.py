"""MessagePack as binary messages."""

from __future__ import annotations

from typing import Any

from pywsapp._extras import import_extra
from pywsapp.codecs.base import Codec, Decoder
from pywsapp.codecs.kinds import Library, library_of


class MessagePackCodec(Codec):
    """MessagePack as binary messages, under the subprotocol "msgpack"; needs the extra `msgspec`.

    Integers have 64 bits. The only extension types that it accepts are timestamps.

    Raises:
        ConfigurationError: msgspec is not installed.
    """

    name = "msgpack"
    is_binary = True

    def __init__(self) -> None:
        self._msgspec = import_extra("pywsapp.codecs.with_msgspec", "msgspec")

    def __repr__(self) -> str:
        return "MessagePackCodec()"

    def encode(self, value: Any) -> bytes:
        """Return the MessagePack of a value; see `Codec.encode`."""
        data: bytes = self._msgspec.encode_message_pack(value)
        return data

    def decode(self, message: str | bytes) -> Any:
        """Return what MessagePack holds; see `Codec.decode`."""
        return self._msgspec.decode_message_pack(message)

    def decoder(self, kind: Any) -> Decoder:
        """Return a function that reads and validates MessagePack; see `Codec.decoder`."""
        if kind is not Any and library_of(kind) is Library.MSGSPEC:
            decoder: Decoder = self._msgspec.message_pack_decoder(kind)
            return decoder
        return super().decoder(kind)
