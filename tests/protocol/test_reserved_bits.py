"""The reserved bits of data frames: RSV1 means compressed, where that was negotiated; RSV2 and RSV3 mean nothing."""

from __future__ import annotations

import pytest
from support.protocol_peer import BINARY, CONTINUATION, MASK, TAKEOVER, TEXT, deflated, dribble, frame, parse_frames

from pywsapp._protocol.events import Ended
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import Deflate, Options

RSV1, RSV2, RSV3 = 4, 2, 1
UNKNOWN = [bits for bits in range(1, 8) if bits & (RSV2 | RSV3)]
PAYLOAD = deflated(b"payload")


def socket(*, client: bool, deflate: bool) -> WebSocket:
    options = Options(deflate=Deflate() if deflate else None)
    return WebSocket(client=client, options=options, deflate=TAKEOVER if deflate else None)


def data_with(shape: str, opcode: int, bits: int, *, deflate: bool, mask: bytes | None) -> bytes:
    """Return a message with reserved bits in its only frame, its first fragment, its second or its last one."""
    if shape == "whole":
        return frame(opcode, PAYLOAD, rsv=bits, mask=mask)
    if shape == "first":
        return frame(opcode, PAYLOAD, rsv=bits, fin=False, mask=mask) + frame(CONTINUATION, mask=mask)
    first = frame(opcode, PAYLOAD, rsv=RSV1, fin=False, mask=mask)
    begun = first if deflate else frame(opcode, b"payload", fin=False, mask=mask)
    return begun + frame(CONTINUATION, b"", rsv=bits, fin=shape == "last", mask=mask)


@pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("shape", ["whole", "first", "middle", "last"])
@pytest.mark.parametrize("bits", UNKNOWN)
def test_rsv2_and_rsv3_are_refused(is_client: bool, deflate: bool, opcode: int, shape: str, bits: int) -> None:
    data = data_with(shape, opcode, bits, deflate=deflate, mask=None if is_client else MASK)
    for receive in (lambda ws: ws.receive(data), lambda ws: dribble(ws, data)):
        [ended] = receive(socket(client=is_client, deflate=deflate))
        assert isinstance(ended, Ended)
        assert (ended.code, ended.by_peer) == (1002, False)
        assert parse_frames(ended.reply)[-1][1][:2] == (1002).to_bytes(2, "big")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("shape", ["whole", "first"])
def test_rsv1_alone_is_accepted(opcode: int, shape: str) -> None:
    data = data_with(shape, opcode, RSV1, deflate=True, mask=MASK)
    events = socket(client=False, deflate=True).receive(data)
    assert events == ["payload" if opcode == TEXT else b"payload"]
