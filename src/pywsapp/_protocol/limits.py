"""The limits that wsproto lacks, as one of its extensions, with a bounded permessage-deflate.

wsproto calls an enabled extension with the header of each frame before it keeps any payload, with each piece of
payload, and at the end of each frame. A close code that the extension returns instead of a value fails the connection.
One `FrameLimits` serves one wsproto connection: from the first fragment of a message to its last, or one control frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from pywsapp.exceptions import ProtocolError

if TYPE_CHECKING:
    from pywsapp._protocol.deflate import PerMessageDeflate
    from pywsapp.options import Options

_NO_RSV = RsvBits(False, False, False)
_RSV1 = RsvBits(True, False, False)
_BAD_GATEWAY = b"\x03\xf6"  # 1014
_TRY_AGAIN = b"\x03\xf5"  # 1013


class FrameLimits(Extension):
    """The limits of one message that wsproto reads.

    Attributes:
        reason: why this extension failed the connection; empty if wsproto found the fault.
        bad_gateway: the peer closed with 1014. wsproto does not know that code, so it gets 1013 instead.
    """

    name = "pywsapp-limits"

    def __init__(self, options: Options, deflate: PerMessageDeflate | None) -> None:
        self.reason = ""
        self.bad_gateway = False
        self._options = options
        self._deflate = deflate
        self._closing = False
        self._unlimited = False
        self._compressed = False
        self._fragments = 0
        self._size = 0

    def enabled(self) -> bool:
        """Return True: wsproto must call this extension although nothing was negotiated for it."""
        return True

    def offer(self) -> bool:
        """Return False: this extension is never offered to a peer."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Check the header of a frame.

        wsproto calls this again for the same frame while bytes of the masking key are missing, so nothing is counted
        here.
        """
        self._closing = opcode is Opcode.CLOSE
        misplaced = (opcode is Opcode.CONTINUATION) != (self._fragments > 0)
        self._unlimited = opcode.iscontrol() or misplaced  # wsproto itself refuses a misplaced frame
        if self._unlimited:
            return _NO_RSV
        options = self._options
        if options.max_frame_size is not None and payload_length > options.max_frame_size:
            return self._too_big(f"the frame is larger than {options.max_frame_size} bytes")
        if self._fragments >= options.max_fragments:
            return self._too_big(f"the message has more than {options.max_fragments} fragments")
        if opcode is not Opcode.CONTINUATION:
            self._compressed = rsv.rsv1
        elif rsv.rsv1:
            return _NO_RSV  # only the first frame of a message may have RSV1
        if not self._compressed and self._size + payload_length > options.max_message_size:
            return self._too_big(f"the message is larger than {options.max_message_size} bytes")
        return _RSV1 if self._deflate is not None else _NO_RSV

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Inflate and count a piece of payload."""
        if self._closing and data[:2] == _BAD_GATEWAY:
            self.bad_gateway = True
            return _TRY_AGAIN + data[2:]
        if self._unlimited:
            return data
        if self._compressed:
            return self._inflate(data, False)
        self._size += len(data)
        return data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """Count a frame, and inflate the end of a message."""
        if self._unlimited:
            return None
        if not fin:
            self._fragments += 1
            return None
        rest = self._inflate(b"", True) if self._compressed else None
        self._fragments = self._size = 0
        return rest

    def _inflate(self, data: bytes, final: bool) -> bytes | CloseReason:
        assert self._deflate is not None
        try:
            inflated = self._deflate.decompress(data, self._options.max_message_size - self._size, final)
        except ProtocolError as exc:
            self.reason = exc.reason
            return CloseReason(exc.code)
        self._size += len(inflated)
        return inflated

    def _too_big(self, reason: str) -> CloseReason:
        self.reason = reason
        return CloseReason.MESSAGE_TOO_BIG
