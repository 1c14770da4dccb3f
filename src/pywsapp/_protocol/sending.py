"""The sending half of a WebSocket: encodes messages as frames, masked and compressed as negotiated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pywsapp._protocol.deflate import PerMessageDeflate, is_worth_compressing
from pywsapp._protocol.frames import encode_frame, encode_masked_frame, encode_text_frame, frame_head
from pywsapp._protocol.opcodes import BINARY, FIN, RSV1, TEXT
from pywsapp._protocol.prepared import PreparedMessage, Sendable, not_utf8, payload_of
from pywsapp._protocol.traffic import OTHER_TRAFFIC, Traffic
from pywsapp.options import SlowConsumer

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import DeflateParameters
    from pywsapp.options import Options

#: From this size in bytes on, writing two pieces costs less than joining them.
LARGE = 32 * 1024

_TEXT_FRAME, _BINARY_FRAME = FIN | TEXT, FIN | BINARY


class Sender:
    """The encoder of one connection's messages.

    Attributes:
        client: True for the client role.
        traffic: counts the messages of the connection, in both directions, with those of other connections.

    Args:
        client: True for the client role; clients mask their frames.
        options: the limits.
        deflate: the negotiated parameters of permessage-deflate, or None without it.
    """

    __slots__ = ("_deflate", "_options", "_plain", "_window_bits", "client", "traffic")

    def __init__(self, *, client: bool, options: Options, deflate: DeflateParameters | None = None) -> None:
        self.client = client
        self.traffic: Traffic = OTHER_TRAFFIC
        self._options = options
        self._deflate: PerMessageDeflate | None = None
        self._window_bits = 0
        if deflate is not None and options.deflate is not None:
            self._deflate = PerMessageDeflate(deflate, options.deflate, client=client)
            self._window_bits = deflate.client_max_window_bits if client else deflate.server_max_window_bits
        self._plain = self._deflate is None and not client  # frames are neither masked nor compressed

    def encode(self, message: Sendable | PreparedMessage, compress: bool | None = None) -> bytes:
        """Return the frame for a message.

        Args:
            message: text, bytes, or a message prepared for several connections.
            compress: False never compresses the message, True always does, and None decides as `Deflate` says; only
                where permessage-deflate was negotiated.

        Raises:
            TypeError: the message is neither text nor bytes.
            ConfigurationError: the text has no UTF-8 form.
        """
        if self._plain:
            if type(message) is str:
                try:
                    return encode_text_frame(_TEXT_FRAME, message)
                except UnicodeEncodeError as exc:
                    raise not_utf8(exc) from None
            if type(message) is bytes:
                return encode_frame(_BINARY_FRAME, message)
        if isinstance(message, PreparedMessage):
            return self.encode_prepared(message)
        opcode, payload = payload_of(message)
        return self._encode_payload(opcode, payload, compress)

    def _encode_payload(self, opcode: int, payload: bytes, compress: bool | None) -> bytes:
        if self._compresses(payload, compress) and (compress is not None or is_worth_compressing(payload)):
            assert self._deflate is not None
            if self._options.slow_consumer is not SlowConsumer.CLOSE:
                self._deflate.reset()  # this message may be dropped, so the next one must not refer to it
            return self._frame(FIN | RSV1 | opcode, self._deflate.compress(payload))
        return self._frame(FIN | opcode, payload)

    def encode_large(self, message: bytes, compress: bool | None = None) -> bytes | tuple[bytes, bytes]:
        """Return the frame for a large binary message; as its head and its payload if that saves a copy."""
        if self._plain:
            return frame_head(FIN | BINARY, len(message)), message
        return self.encode(message, compress)

    def encode_prepared(self, message: PreparedMessage) -> bytes:
        """Return the frame for a message prepared for several connections; each delivery of a broadcast calls this."""
        if self._plain:
            return message.plain_frame()
        if self.client:
            return self._encode_payload(message.opcode, message.payload, message.compress)
        config = self._options.deflate
        if not self._compresses(message.payload, message.compress):
            return message.plain_frame()
        assert self._deflate is not None
        assert config is not None
        self._deflate.reset()  # this message is compressed elsewhere, so the next one must not refer to it
        return message.deflated_frame(self._window_bits, config)

    def _compresses(self, payload: bytes, compress: bool | None) -> bool:
        config = self._options.deflate
        if self._deflate is None or config is None:
            return False
        return len(payload) >= config.threshold if compress is None else compress

    def _frame(self, first: int, payload: bytes) -> bytes:
        return encode_masked_frame(first, payload) if self.client else encode_frame(first, payload)
