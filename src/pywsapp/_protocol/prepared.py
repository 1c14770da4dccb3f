"""A message to send: checked once, and encoded at most once for each wire format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pywsapp._protocol.deflate import compress_shared, is_worth_compressing
from pywsapp._protocol.frames import encode_frame
from pywsapp._protocol.opcodes import BINARY, FIN, RSV1, TEXT
from pywsapp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from pywsapp.options import Deflate

Sendable = str | bytes | bytearray | memoryview


def payload_of(message: Sendable) -> tuple[int, bytes]:
    """Return the opcode and the payload of a message.

    Raises:
        TypeError: the message is neither text nor bytes.
        ConfigurationError: the text has no UTF-8 form.
    """
    if isinstance(message, str):
        try:
            return TEXT, message.encode()
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from None
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BINARY, bytes(message)
    raise TypeError(
        f"a message is a str or bytes, not {type(message).__name__}; "
        "encode it, for instance with json.dumps, or give the route a codec: codec=JsonCodec() of pywsapp.codecs"
    )


def not_utf8(exc: UnicodeEncodeError) -> ConfigurationError:
    """Return the exception for text that has no UTF-8 form."""
    return ConfigurationError(f"a text message must be encodable as UTF-8: {exc}")


class WireFormat(Protocol):
    """A form of messages other than WebSocket frames."""

    def encode(self, message: PreparedMessage) -> bytes:
        """Return the bytes of a message."""


class PreparedMessage:
    """A message for many connections, encoded once for each wire format among them.

    Create one to send the same message at different times; `broadcast` creates its own. The wire formats of a server
    are the plain one and, for each compression window in use, one without context takeover. The bytes of the latter
    refer to no earlier message, so that every connection with that window can read them.

    Args:
        message: text or bytes.
        compress: False never compresses the message, True always does, and None decides as `Deflate`
            says; only where permessage-deflate was negotiated.

    Attributes:
        publication: the `Publication` that the message was made from; None if its topic keeps no history.
    """

    __slots__ = ("_frames", "_plain", "compress", "opcode", "payload", "publication")

    def __init__(self, message: Sendable, *, compress: bool | None = None) -> None:
        self.opcode, self.payload = payload_of(message)
        self.compress = False if compress is None and not is_worth_compressing(self.payload) else compress
        self._plain: bytes | None = None
        self._frames: dict[tuple[int, int, int] | WireFormat, bytes] | None = None
        self.publication: Any = None

    def plain_frame(self) -> bytes:
        """Return the uncompressed, unmasked frame."""
        frame = self._plain
        if frame is None:
            frame = self._plain = encode_frame(FIN | self.opcode, self.payload)
        return frame

    def deflated_frame(self, bits: int, config: Deflate) -> bytes:
        """Return the unmasked frame, compressed with a window of `bits` and no reference to earlier messages."""
        key = (bits, config.level, config.mem_level)
        if self._frames is None:
            self._frames = {}
        frame = self._frames.get(key)
        if frame is None:
            payload = compress_shared(self.payload, bits, config)
            frame = self._frames[key] = encode_frame(FIN | RSV1 | self.opcode, payload)
        return frame

    def _frame_in(self, wire_format: WireFormat) -> bytes:
        """Return the message in another wire format."""
        if self._frames is None:
            self._frames = {}
        frame = self._frames.get(wire_format)
        if frame is None:
            frame = self._frames[wire_format] = wire_format.encode(self)
        return frame
