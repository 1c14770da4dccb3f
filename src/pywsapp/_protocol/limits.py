"""The checks that wsproto lacks for the frames that `WebSocket` passes to it, as one of its extensions.

wsproto calls an enabled extension with the header of each frame before it keeps any payload, and with each piece of
payload. A close code that the extension returns instead of a value fails the connection.
"""

from __future__ import annotations

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

_NO_RSV = RsvBits(False, False, False)
_RSV1 = RsvBits(True, False, False)
_BAD_GATEWAY = b"\x03\xf6"  # 1014
_TRY_AGAIN = b"\x03\xf5"  # 1013


class FrameLimits(Extension):
    """The limit for a frame that wsproto reads, and the close code that wsproto does not know.

    Args:
        max_size: bytes that the payload of a data frame may have.
        has_deflate: whether the first frame of a message may have RSV1.

    Attributes:
        reason: why this extension failed the connection; empty if wsproto found the fault.
        bad_gateway: the peer closed with 1014. wsproto does not know that code, so it gets 1013 instead.
    """

    name = "pywsapp-limits"

    def __init__(self, max_size: int, has_deflate: bool) -> None:
        self.reason = ""
        self.bad_gateway = False
        self._max_size = max_size
        self._has_deflate = has_deflate
        self._closing = False

    def enabled(self) -> bool:
        """Return True: wsproto must call this extension although nothing was negotiated for it."""
        return True

    def offer(self) -> bool:  # pragma: no cover - an abstract method of wsproto, which only its handshake calls
        """Return False: this extension is never offered to a peer."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Check the header of a frame."""
        self._closing = opcode is Opcode.CLOSE
        if opcode.iscontrol():
            return _NO_RSV
        if payload_length > self._max_size:
            self.reason = f"the message is larger than {self._max_size} bytes"
            return CloseReason.MESSAGE_TOO_BIG
        return _RSV1 if self._has_deflate and opcode is not Opcode.CONTINUATION else _NO_RSV

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Return a piece of payload, with 1013 instead of the close code 1014."""
        if self._closing and data[:2] == _BAD_GATEWAY:
            self.bad_gateway = True
            return _TRY_AGAIN + data[2:]
        return data
