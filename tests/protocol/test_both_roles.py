"""Faults that other libraries had in frames of one role or path only: masked and unmasked, server and client.

`docs/explanation/advisories.md` names the advisories.
"""

from __future__ import annotations

import itertools
import random
import time

import pytest
from support.protocol_peer import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    MASK,
    MIB,
    PING,
    PONG,
    TEXT,
    deflated,
    dribble,
    frame,
    memory_of,
    messages,
    parse_frames,
    websocket,
)

from pywsapp._protocol.events import Ended, PongReceived, Received
from pywsapp._protocol.websocket import WebSocket

KINDS = pytest.mark.parametrize("opcode", [TEXT, BINARY])


class Role:
    """A WebSocket in one role, and the frames of its peer."""

    def __init__(self, *, is_client: bool) -> None:
        self.is_client = is_client
        self.mask = None if is_client else MASK

    def socket(self, *, deflate: bool = False, **options: object) -> WebSocket:
        return websocket(is_client=self.is_client, deflate=deflate, **options)

    def frame(self, opcode: int, payload: bytes = b"", **fields: object) -> bytes:
        return frame(opcode, payload, mask=self.mask, **fields)  # type: ignore[arg-type]


@pytest.fixture(params=[False, True], ids=["server", "client"])
def role(request: pytest.FixtureRequest) -> Role:
    return Role(is_client=request.param)


def code_of(events: list[Received]) -> int | None:
    """Return the close code of a connection that failed; None for one without events."""
    if not events:
        return None
    (ended,) = events
    assert isinstance(ended, Ended)
    assert not ended.by_peer
    assert parse_frames(ended.reply)[-1] == (0x80 | CLOSE, ended.code.to_bytes(2, "big") + ended.reason.encode())
    return ended.code


# -- lengths -----------------------------------------------------------------------------------------------------------

#: A frame of this length and more never ends, so a larger limit than this is none.
ENDLESS = 2**62
LENGTHS = [
    *(0, 1, 125, 126, 127, 128, 255, 256, 65_535, 65_536, MIB, MIB + 1),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62 - 5, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 5, 2**64 - 1),
]


def expected_code(length: int, width: int, limit: int) -> int | None:
    """Return the close code for a length in a field of so many bytes; None if the frame is valid."""
    shortest = 0 if length < 126 else 2 if length < 65_536 else 8
    if length >= 2**63 or width != shortest:
        return 1002
    return 1009 if limit < length and limit < ENDLESS else None


@pytest.mark.parametrize("width", [0, 2, 8])
@pytest.mark.parametrize("begun", [False, True], ids=["first", "continued"])
@pytest.mark.parametrize("limit", [MIB, 2**63], ids=["limited", "unlimited"])
def test_boundaries_of_a_length(role: Role, width: int, begun: bool, limit: int) -> None:
    """The length, its masking key, and its sum with what has arrived before do not overflow 64 bits."""
    for length in LENGTHS:
        if (length > 125 and not width) or length >= 1 << (8 * width or 8):
            continue
        before = role.frame(BINARY, b"abc", fin=False) if begun else b""
        data = role.frame(CONTINUATION if begun else BINARY, length=length, width=width)
        expected = expected_code(length, width, limit - len("abc") * begun)
        ws, other = role.socket(max_message_size=limit), role.socket(max_message_size=limit)

        def feed(ws: WebSocket = ws, data: bytes = before + data) -> list[Received]:
            return [event for event in ws.receive(data) if event not in (b"", b"abc")]

        _, peak = memory_of(feed)
        assert peak < 30_000, length
        if expected is None:
            assert ws.receive(b"") == []
            assert ws.is_unfinished == (length > 0)
            assert dribble(other, before + data) in ([], [b""], [b"abc"])
        else:
            assert code_of(dribble(other, before + data)) == expected, length
            assert code_of(role.socket(max_message_size=limit).receive(before + data)) == expected, length


@KINDS
@pytest.mark.parametrize("begun", [False, True], ids=["first", "continued"])
@pytest.mark.parametrize("length", [1001, MIB, 2**32, 2**63 - 1])
def test_a_frame_beyond_the_limit_ends_at_its_header(role: Role, opcode: int, begun: bool, length: int) -> None:
    ws = role.socket(max_message_size=1000)
    if begun:
        assert ws.receive(role.frame(opcode, b"x", fin=False)) == []
    head = role.frame(CONTINUATION if begun else opcode, length=length - begun)
    events = [ws.receive(head[at : at + 1]) for at in range(len(head))]
    last = next(number for number, found in enumerate(events) if found)
    assert code_of(events[last]) == 1009
    assert last < len(head), "nothing of the payload is needed"
    whole = role.frame(opcode, b"x" * 1001)
    assert code_of(role.socket(max_message_size=1000).receive(whole)) == 1009


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("length", [5, 2**31, 2**63 - 1, 2**64 - 1])
def test_an_unknown_opcode_allocates_nothing(role: Role, opcode: int, length: int) -> None:
    data = role.frame(opcode, length=length) + b"x" * 1000
    events: list[Received] = []
    _, peak = memory_of(lambda: events.extend(role.socket(max_message_size=2**63).receive(data)))
    assert code_of(events) == 1002
    assert peak < 30_000
    assert code_of(dribble(role.socket(), data)) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [126, 65_536, 2**32, 2**63 - 1, 2**64 - 1])
def test_a_long_control_frame_allocates_nothing(role: Role, opcode: int, length: int) -> None:
    data = role.frame(opcode, length=length) + b"x" * 1000
    events: list[Received] = []
    _, peak = memory_of(lambda: events.extend(role.socket(max_message_size=2**63).receive(data)))
    assert code_of(events) == 1002
    assert peak < 30_000


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("fin", [True, False], ids=["whole", "fragment"])
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "negotiated"])
def test_rsv1_where_it_has_no_meaning(role: Role, opcode: int, fin: bool, deflate: bool) -> None:
    if deflate and opcode in (TEXT, BINARY):
        return  # there it means compressed
    begun = role.frame(TEXT, b"", fin=False) if opcode == CONTINUATION else b""
    payload = b"\x03\xe8" if opcode == CLOSE else deflated(b"payload")
    data = begun + role.frame(opcode, payload, rsv=COMPRESSED, fin=fin)
    assert code_of(role.socket(deflate=deflate).receive(data)) == 1002
    assert code_of(dribble(role.socket(deflate=deflate), data)) == 1002


@KINDS
@pytest.mark.parametrize("shape", ["whole", "fragments", "in pieces"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_limit_is_that_of_the_inflated_message(role: Role, opcode: int, shape: str, more: int) -> None:
    limit = 5000
    message, ws = b"x" * (limit + more), role.socket(deflate=True, max_message_size=limit)
    payload = deflated(message)
    data = role.frame(opcode, payload, rsv=COMPRESSED)
    if shape == "fragments":
        data = role.frame(opcode, payload[:5], rsv=COMPRESSED, fin=False) + role.frame(CONTINUATION, payload[5:])
    events = dribble(ws, data) if shape == "in pieces" else ws.receive(data)
    if more > 0:
        assert code_of(events) == 1009
    else:
        assert messages(events) == [message.decode() if opcode == TEXT else message]


@pytest.mark.parametrize("cut", [1 << 20, 1000, 10])
@pytest.mark.parametrize("limit", [64 * 1024, MIB])
def test_a_bomb_takes_little_more_than_the_limit(role: Role, cut: int, limit: int) -> None:
    """The buffer of the inflater may not grow by doubling, and may not grow beyond the limit."""
    data = role.frame(BINARY, deflated(bytes(40 * MIB)), rsv=COMPRESSED)
    ws = role.socket(deflate=True, max_message_size=limit)
    events: list[Received] = []

    def feed() -> None:
        for at in range(0, len(data), cut):
            events.extend(ws.receive(data[at : at + cut]))

    left, peak = memory_of(feed)
    assert code_of(events) == 1009
    assert left < 20_000
    assert peak < 3 * limit + 300_000


# -- memory and time ---------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("shape", ["frame", "fragments of a byte", "empty fragments"])
def test_reads_of_a_byte_keep_the_bytes_only(role: Role, opcode: int, shape: str) -> None:
    """No object is kept for a read or a fragment."""
    size = 3000
    if shape == "frame":
        data = role.frame(opcode, b"x" * size, length=size + 1)
    else:
        part = role.frame(CONTINUATION, b"x" if shape == "fragments of a byte" else b"", fin=False)
        data = role.frame(opcode, fin=False) + part * size
    ws = role.socket(max_fragments=10 * size)

    def feed() -> None:
        for at in range(len(data)):
            assert ws.receive(data[at : at + 1]) == []

    left, peak = memory_of(feed)
    assert left < 1.5 * size + 10_000
    assert peak < 3 * size + 15_000


def test_many_peers_just_below_the_number_of_fragments(role: Role) -> None:
    count = 400
    part = role.frame(CONTINUATION, b"x", fin=False)
    data = role.frame(BINARY, b"x", fin=False) + part * (count - 1)
    peers = [role.socket(max_fragments=count) for _ in range(20)]

    def feed() -> None:
        for ws in peers:
            for at in range(0, len(data), 1000):
                assert ws.receive(data[at : at + 1000]) == []

    left, _ = memory_of(feed)
    assert left < len(peers) * (2 * count + 1000)
    assert {code_of(ws.receive(part)) for ws in peers} == {1009}


@pytest.mark.parametrize("shape", ["frame", "fragments", "compressed fragments"])
def test_the_time_to_put_a_message_together_is_linear(role: Role, shape: str) -> None:
    def work(count: int) -> float:
        ws = role.socket(deflate=True, max_fragments=10**6, max_message_size=1 << 30)
        data = random.Random(1).randbytes(1000 * count)
        payload = deflated(data) if shape == "compressed fragments" else data
        first, *others = [payload[at : at + 1000] for at in range(0, len(payload), 1000)]
        stream = role.frame(BINARY, first, fin=False, rsv=COMPRESSED * (payload is not data))
        stream += b"".join([role.frame(CONTINUATION, part, fin=False) for part in others]) + role.frame(CONTINUATION)
        stream = role.frame(BINARY, data) if shape == "frame" else stream
        began = time.process_time()
        events = list(itertools.chain(*(ws.receive(stream[at : at + 700]) for at in range(0, len(stream), 700))))
        assert len(events) == 1
        return time.process_time() - began

    assert any(work(2000) < 3 * work(1000) for _ in range(5)), "quadratic work takes four times as long"


def test_pongs_are_not_kept(role: Role) -> None:
    ws = role.socket(control_frames_burst=10**7)
    data = role.frame(PONG, b"unasked") * 100

    def feed() -> None:
        for _ in range(100):
            assert ws.receive(data)[-1] == PongReceived(b"unasked")

    left, peak = memory_of(feed)
    assert left < 10_000
    assert peak < 100_000
