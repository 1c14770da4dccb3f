"""The arguments `codec` and `message_type` of a client, and how its messages are read."""

from __future__ import annotations

from typing import Any

from pywsapp._messages.annotations import accepted_types
from pywsapp._messages.choosing import Codecs, checked_codecs, chosen_codec, default_codec
from pywsapp._messages.reading import accepted_decoder
from pywsapp.codecs.base import Codec, Decoder
from pywsapp.exceptions import ConfigurationError, InvalidMessage

#: The type of messages as they came.
AS_THEY_CAME = str | bytes


class ClientMessages:
    """The typed messages of a client; connections of one loop share them.

    Args:
        codecs: its codecs, of which the server chooses one; JSON if there are none.
        message_type: the type of the messages that it receives.

    Attributes:
        codecs: the codecs that were named.

    Raises:
        ConfigurationError: one of the codecs cannot read the type, or a library is not installed.
    """

    def __init__(self, codecs: tuple[Codec, ...], message_type: Any) -> None:
        self.codecs = codecs
        self._message_type = message_type
        self._decoders: dict[tuple[Codec, Any], Decoder | None] = {}
        for codec in codecs or (default_codec(),):
            self.decoder(codec, message_type)

    def choose(self, subprotocol: str | None) -> tuple[Codec, Decoder | None]:
        """Return the codec for a subprotocol, and what reads the messages; None if they stay as they came."""
        codec = chosen_codec(self.codecs, subprotocol)
        return codec, self.decoder(codec, self._message_type)

    def decoder(self, codec: Codec, kind: Any) -> Decoder | None:
        """Return what reads messages of a type; None if they stay as they came. It is made once for each type.

        Raises:
            ConfigurationError: the codec cannot read the type, or a library is not installed.
        """
        try:
            if (codec, kind) not in self._decoders:
                self._decoders[codec, kind] = make_decoder(codec, kind)
            return self._decoders[codec, kind]
        except TypeError:  # an annotation that has no hash
            return make_decoder(codec, kind)


def messages_of_client(codec: Codecs | None, message_type: Any) -> ClientMessages | None:
    """Return the typed messages of a client; None if all messages stay as they are.

    Raises:
        ConfigurationError: one of the arguments is invalid, or a library is not installed.
    """
    codecs = checked_codecs(codec)
    return None if not codecs and message_type == AS_THEY_CAME else ClientMessages(codecs, message_type)


def make_decoder(codec: Codec | None, kind: Any) -> Decoder | None:
    """Return what reads messages of a type; None if they stay as they came.

    Args:
        codec: the codec of the connection; None if it has none.
        kind: a class or a union; `str` and `bytes` alone refuse the other kind of messages.

    Raises:
        ConfigurationError: the codec cannot read the type, or there is none, or a library is not installed.
    """
    if kind is str or kind is bytes:
        return _read_text if kind is str else _read_bytes
    if isinstance(kind, (int, float)):
        raise ConfigurationError(f"message_type: {kind!r} is no type of messages; write receive(timeout={kind!r})")
    accepted = accepted_types(kind, "message_type")
    if not accepted.types:
        return None
    if codec is None:
        raise ConfigurationError(
            "messages are read by a codec: write connect(url, codec=JsonCodec()), or connect(url, message_type=...)"
        )
    return accepted_decoder(codec, accepted, "message_type")


def _read_text(message: str | bytes) -> str:
    if not isinstance(message, str):
        raise InvalidMessage("a text message was expected")
    return message


def _read_bytes(message: str | bytes) -> bytes:
    if not isinstance(message, bytes):
        raise InvalidMessage("a binary message was expected")
    return message
