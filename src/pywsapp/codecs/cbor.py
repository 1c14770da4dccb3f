"""CBOR as binary messages."""

from __future__ import annotations

from typing import Any

from pywsapp._extras import import_extra
from pywsapp.codecs.base import Codec


class CborCodec(Codec):
    """CBOR (RFC 8949) as binary messages, under the subprotocol "cbor"; needs the extra `cbor`.

    Integers have 64 bits, and 400 containers can be nested. The only tags that it accepts are dates, UUIDs and
    the mark of CBOR itself. Types other than `dict` need the extra `msgspec`, or `pydantic` for its models.

    Raises:
        ConfigurationError: cbor2 is not installed.
    """

    name = "cbor"
    is_binary = True

    def __init__(self) -> None:
        self._cbor = import_extra("pywsapp.codecs.with_cbor2", "cbor")

    def __repr__(self) -> str:
        return "CborCodec()"

    def encode(self, value: Any) -> bytes:
        """Return the CBOR of a value; see `Codec.encode`."""
        data: bytes = self._cbor.encode(value)
        return data

    def decode(self, message: str | bytes) -> Any:
        """Return what CBOR holds; see `Codec.decode`."""
        return self._cbor.decode(message)
