"""Codecs: objects to messages and back. `App.route(codec=...)` chooses one, or several for the client to choose from.

`JsonCodec` needs no extra, and is the codec of typed components by default. `MessagePackCodec` needs the extra
`msgspec`, `CborCodec` the extra `cbor`, and `ProtobufCodec` the extra `protobuf`. `Codec` is the base of your own.
"""

from pywsapp.codecs.base import Codec
from pywsapp.codecs.cbor import CborCodec
from pywsapp.codecs.json_codec import JsonCodec
from pywsapp.codecs.message_pack import MessagePackCodec
from pywsapp.codecs.protobuf import ProtobufCodec

__all__ = ("CborCodec", "Codec", "JsonCodec", "MessagePackCodec", "ProtobufCodec")
