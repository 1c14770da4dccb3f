"""What wsproto lacks, as one of its extensions: limits on frames and messages, and a bounded permessage-deflate.

wsproto calls an enabled extension with each frame's header before any payload is kept, with each piece of payload, and
at the end of each frame; returning a close code instead of a value fails the connection with it. One guard serves one
wsproto connection, that is from the first fragment of a message to its last, or one control frame.
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
    """The limits of one message in wsproto.

    Attributes:
        reason: why the connection was failed, in our words; empty if wsproto found the fault.
        bad_gateway: the peer closed with 1014, which wsproto does not know; it was shown 1013.
    """

    name = "pywsapp-guard"

    def __init__(self, options: Options, deflate: PerMessageDeflate | None) -> None:
        self.reason = ""
        self.bad_gateway = False
        self._options = options
        self._deflate = deflate
        self._closing = False
        self._passing = False
        self._compressed = False
        self._fragments = 0
        self._size = 0

    def enabled(self) -> bool:
        """Be called although nothing was negotiated under this name."""
        return True

    def offer(self) -> bool:
        """Never be offered to a peer."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Check a frame by its header.

        wsproto calls this again for the same frame while bytes of its masking key are missing, so nothing is counted
        here yet.
        """
        self._closing = opcode is Opcode.CLOSE
        misplaced = (opcode is Opcode.CONTINUATION) != (self._fragments > 0)
        self._passing = opcode.iscontrol() or misplaced  # wsproto says what is wrong with a misplaced one
        if self._passing:
            return _NO_RSV
        options = self._options
        if options.max_frame_size is not None and payload_length > options.max_frame_size:
            return self._refuse(f"the frame is larger than {options.max_frame_size} bytes")
        if self._fragments >= options.max_fragments:
            return self._refuse(f"the message has more than {options.max_fragments} fragments")
        if opcode is not Opcode.CONTINUATION:
            self._compressed = rsv.rsv1
        elif rsv.rsv1:
            return _NO_RSV  # only the first frame of a message may have it
        if not self._compressed and self._size + payload_length > options.max_message_size:
            return self._refuse(f"the message is larger than {options.max_message_size} bytes")
        return _RSV1 if self._deflate is not None else _NO_RSV

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Inflate and count a piece of payload."""
        if self._closing and data[:2] == _BAD_GATEWAY:
            self.bad_gateway = True
            return _TRY_AGAIN + data[2:]
        if self._passing:
            return data
        if self._compressed:
            return self._inflate(data, False)
        self._size += len(data)
        return data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """Count a frame, and inflate what is left at the end of a message."""
        if self._passing:
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

    def _refuse(self, reason: str) -> CloseReason:
        self.reason = reason
        return CloseReason.MESSAGE_TOO_BIG
