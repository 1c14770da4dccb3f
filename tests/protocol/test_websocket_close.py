"""The close handshake in every order and both roles, and every error with its code, its reason and its close frame."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    close_frame,
    deflated,
    dribble,
    frame,
    messages,
    parse_frames,
)

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.events import Ended, PongReceived, State
from pywsapp._protocol.websocket import WebSocket
from pywsapp.close_codes import CloseCode
from pywsapp.options import Deflate, Options

BOTH = pytest.mark.parametrize("is_client", [False, True], ids=["server", "client"])


def socket(is_client: bool = False) -> WebSocket:
    return WebSocket(client=is_client, options=Options())


def mask_for(ws: WebSocket) -> bytes | None:
    """Return the masking key for the frames that a WebSocket receives."""
    return None if ws.client else MASK


# -- orders ------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("cut", [False, True])
def test_the_peer_closes(is_client: bool, cut: bool) -> None:
    ws = socket(is_client)
    data = frame(TEXT, b"last words", mask=mask_for(ws)) + close_frame(3001, "grüße".encode(), mask=mask_for(ws))
    message, ended = dribble(ws, data) if cut else ws.receive(data)
    assert message == "last words"
    assert isinstance(ended, Ended)
    assert (ended.code, ended.reason, ended.by_peer) == (3001, "grüße", True)
    assert parse_frames(ended.reply) == [(0x88, b"\x0b\xb9")]
    assert bool(ended.reply[1] & 0x80) == is_client
    assert ws.state is State.CLOSED
    assert ws.close(1000, "me too") == b""


@BOTH
@pytest.mark.parametrize("cut", [False, True])
def test_we_close_and_the_peer_answers(is_client: bool, cut: bool) -> None:
    ws = socket(is_client)
    data = ws.close(4000, "that is all")
    assert parse_frames(data) == [(0x88, b"\x0f\xa0that is all")]
    assert bool(data[1] & 0x80) == is_client
    assert ws.state.value == "closing"
    answer = close_frame(4000, mask=mask_for(ws))
    assert (dribble(ws, answer) if cut else ws.receive(answer)) == [Ended(4000, "", True, b"")]
    assert ws.state is State.CLOSED


@BOTH
def test_both_close_at_once(is_client: bool) -> None:
    ws = socket(is_client)
    ws.close(1001, "going")
    assert ws.receive(close_frame(3000, b"gone", mask=mask_for(ws))) == [Ended(3000, "gone", True, b"")]


@BOTH
def test_only_the_first_close_counts(is_client: bool) -> None:
    ws = socket(is_client)
    assert ws.close(1000, "")
    assert ws.close(1011, "again") == b""
    assert ws.receive(close_frame(1000, mask=mask_for(ws))) == [Ended(1000, "", True, b"")]
    assert ws.close(1011, "again") == b""


def test_between_two_websockets_of_ours() -> None:
    here, there = socket(False), socket(True)
    (ended,) = there.receive(here.close(1012, "restart"))
    assert isinstance(ended, Ended)
    assert (ended.code, ended.reason, ended.by_peer) == (1012, "restart", True)
    assert here.receive(ended.reply) == [Ended(1012, "", True, b"")]
    assert (here.state, there.state) == (State.CLOSED, State.CLOSED)


def test_messages_after_our_close_are_dropped_and_still_checked() -> None:
    ws = socket()
    ws.close(1000, "")
    data = frame(TEXT, b"a") + frame(TEXT, b"b", fin=False) + frame(CONTINUATION, b"c") + frame(BINARY, b"d" * 300)
    assert ws.receive(data) == []
    assert dribble(ws, data) == []
    assert ws.receive(frame(TEXT, b"\xff")) == [Ended(1007, "invalid UTF-8", False, b"")]


def test_a_message_that_was_unfinished_when_we_closed() -> None:
    for begun, rest in (
        (frame(TEXT, b"abcdef")[:9], frame(TEXT, b"abcdef")[9:]),
        (frame(TEXT, b"abc", fin=False), frame(CONTINUATION, b"def")),
    ):
        ws = socket()
        assert ws.receive(begun) == []
        ws.close(1000, "")
        assert ws.receive(rest + close_frame(1000)) == [Ended(1000, "", True, b"")]


def test_pongs_go_before_our_close() -> None:
    ws = socket()
    ws.receive(frame(PING, b"1") + frame(PING, b"2"))
    assert parse_frames(ws.close(1000, "")) == [(0x8A, b"1"), (0x8A, b"2"), (0x88, b"\x03\xe8")]
    assert not ws.has_pongs


def test_pongs_go_before_the_answer_to_a_close() -> None:
    ws = socket()
    (ended,) = ws.receive(frame(PING, b"1") + frame(PING, b"2") + close_frame())
    assert isinstance(ended, Ended)
    assert parse_frames(ended.reply) == [(0x8A, b"1"), (0x8A, b"2"), (0x88, b"\x03\xe8")]


def test_pongs_go_before_the_answer_to_an_error() -> None:
    ws = socket()
    (ended,) = ws.receive(frame(PING, b"1") + frame(3))
    assert isinstance(ended, Ended)
    assert [first for first, _ in parse_frames(ended.reply)] == [0x8A, 0x88]


def test_a_ping_after_our_close_is_not_answered() -> None:
    ws = socket()
    ws.close(1000, "")
    assert ws.receive(frame(PING, b"p") + frame(PONG, b"q")) == [PongReceived(b"q")]
    assert not ws.has_pongs
    assert ws.receive(close_frame()) == [Ended(1000, "", True, b"")]


def test_input_after_a_close_frame_is_ignored() -> None:
    (ended,) = socket().receive(close_frame() + b"\xff" * 100)
    assert isinstance(ended, Ended)
    assert ended.by_peer


def test_a_close_frame_inside_a_message() -> None:
    events = socket().receive(frame(TEXT, b"a", fin=False) + close_frame(1001) + frame(CONTINUATION, b"b"))
    assert messages(events) == []
    assert events[0].code == 1001  # type: ignore[union-attr]


def test_abandoned() -> None:
    ws = socket()
    ws.receive(frame(TEXT, b"a", fin=False) + frame(PING))
    ws.abandon()
    assert ws.state is State.CLOSED
    assert ws.receive(frame(CONTINUATION, b"b")) == []
    assert ws.tick(0.0) is None
    assert ws.close(1000, "") == b""
    assert not ws.has_pongs


# -- codes -------------------------------------------------------------------------------------------------------------

REGISTERED = {1000, 1001, 1002, 1003, *range(1007, 1015)}


@BOTH
@pytest.mark.parametrize("code", [*range(998, 1018), 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535, 0, 1])
def test_codes_that_a_peer_can_close_with(is_client: bool, code: int) -> None:
    ws = socket(is_client)
    (ended,) = ws.receive(close_frame(code, b"why", mask=mask_for(ws)))
    assert isinstance(ended, Ended)
    ((first, payload),) = parse_frames(ended.reply)
    assert first == 0x88
    if code in REGISTERED or 3000 <= code <= 4999:
        assert (ended.code, ended.reason, ended.by_peer) == (code, "why", True)
        assert payload == code.to_bytes(2, "big")
    else:
        assert (ended.code, ended.by_peer) == (1002, False)
        assert payload[:2] == b"\x03\xea"


@BOTH
@pytest.mark.parametrize("code", sorted({*REGISTERED, 3000, 4999}))
def test_codes_that_we_close_with(is_client: bool, code: int) -> None:
    ws, peer = socket(is_client), socket(not is_client)
    (ended,) = peer.receive(ws.close(code, ""))
    assert isinstance(ended, Ended)
    assert (ended.code, ended.by_peer) == (code, True)
    assert ws.receive(ended.reply) == [Ended(code, "", True, b"")]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("begun", [b"", frame(TEXT, b"a", fin=False)])
def test_1014_is_known_at_any_cut(cut: bool, begun: bytes) -> None:
    """wsproto does not know 1014 (B8), so it gets another code, and its result must be translated back."""
    ws = socket()
    data = begun + close_frame(1014, b"upstream")
    (ended,) = dribble(ws, data) if cut else ws.receive(data)
    assert isinstance(ended, Ended)
    assert ended == Ended(CloseCode.BAD_GATEWAY, "upstream", True, ended.reply)
    assert parse_frames(ended.reply) == [(0x88, b"\x03\xf6")]
    ws = socket()
    ws.close(1000, "")
    assert ws.receive(close_frame(1014)) == [Ended(1014, "", True, b"")]
    (ended,) = socket().receive(close_frame(1013))
    assert isinstance(ended, Ended)
    assert ended.code == 1013


def test_a_close_frame_without_a_code() -> None:
    (ended,) = socket().receive(close_frame(None))
    assert ended == Ended(1005, "", True, b"\x88\x00")
    ws = socket()
    ws.close(1000, "")
    assert ws.receive(close_frame(None)) == [Ended(1005, "", True, b"")]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x03", 1002),
        (b"\x03\xe8\xff", 1007),
        (b"\x03\xe8\xed\xa0\x80", 1007),
        (b"\x03\xf6\xff", 1007),
        (b"\x03\xe8" + b"r" * 124, 1002),
        (b"\x03\xe8" + b"r" * 123, None),
        (b"\x03\xe8" + "é".encode() * 61, None),
    ],
)
def test_payloads_of_a_close_frame(payload: bytes, code: int | None) -> None:
    for events in (socket().receive(frame(CLOSE, payload)), dribble(socket(), frame(CLOSE, payload))):
        (ended,) = events
        assert isinstance(ended, Ended)
        assert ended.by_peer == (code is None)
        assert ended.code == (1000 if code is None else code)
        if code is None:
            assert ended.reason == payload[2:].decode()


# -- errors ------------------------------------------------------------------------------------------------------------

ERRORS = {
    "reserved data opcode": (frame(3), "Invalid opcode 0x3"),
    "reserved control opcode": (frame(11), "Invalid opcode 0xb"),
    "reserved opcode, long": (frame(15, length=1000), "Invalid opcode 0xf"),
    "rsv1": (frame(TEXT, b"x", rsv=4), "Reserved bit set unexpectedly"),
    "rsv2": (frame(TEXT, b"x", rsv=2), "Reserved bit set unexpectedly"),
    "rsv3": (frame(BINARY, b"x", rsv=1), "Reserved bit set unexpectedly"),
    "rsv on a ping": (frame(PING, b"x", rsv=4), "Reserved bit set unexpectedly"),
    "rsv on a continuation": (
        frame(TEXT, fin=False) + frame(CONTINUATION, b"x", rsv=4),
        "Reserved bit set unexpectedly",
    ),
    "unmasked": (frame(TEXT, b"x", mask=None), "server received unexpected unmasked frame"),
    "unmasked ping": (frame(PING, b"x", mask=None), "server received unexpected unmasked frame"),
    "fragmented ping": (frame(PING, b"x", fin=False), "Invalid attempt to fragment control frame"),
    "long ping": (frame(PING, b"p" * 126), "Control frame with payload len > 125"),
    "huge ping": (frame(PING, length=1 << 40), "Control frame with payload len > 125"),
    "long close": (frame(CLOSE, b"p" * 126), "Control frame with payload len > 125"),
    "continuation of nothing": (frame(CONTINUATION, b"x"), "unexpected CONTINUATION"),
    "unfinished continuation of nothing": (frame(CONTINUATION, b"x", fin=False), "unexpected CONTINUATION"),
    "text inside text": (
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        "expected CONTINUATION, got <Opcode.TEXT: 1>",
    ),
    "length 1 in 2 bytes": (
        frame(TEXT, b"x", width=2),
        "Payload length used 2 bytes when 1 would have sufficed",
    ),
    "length 200 in 8 bytes": (
        frame(TEXT, b"x" * 200, width=8),
        "Payload length used 8 bytes when 2 would have sufficed",
    ),
    "length with its top bit": (
        frame(BINARY, length=1 << 63, width=8),
        "8-byte payload length with non-zero MSB",
    ),
}


@pytest.mark.parametrize(("data", "reason"), ERRORS.values(), ids=ERRORS)
def test_protocol_errors(data: bytes, reason: str) -> None:
    for before in (b"", frame(TEXT, b"fine")):
        for events in (socket().receive(before + data), dribble(socket(), before + data)):
            ended = events.pop()
            assert messages(events) == (["fine"] if before else [])
            assert isinstance(ended, Ended)
            assert (ended.code, ended.reason, ended.by_peer) == (1002, reason, False)
            assert parse_frames(ended.reply) == [(0x88, b"\x03\xea" + reason.encode())]


def test_a_client_refuses_a_mask() -> None:
    (ended,) = socket(True).receive(frame(TEXT, b"x"))
    assert isinstance(ended, Ended)
    assert (ended.code, ended.reason) == (1002, "client received unexpected masked frame")
    assert ended.reply[1] & 0x80


@pytest.mark.parametrize("head", [b"\x88\xfe", b"\x89\xfe", b"\x8a\xff", b"\x83\xfe", b"\x8b\xff", b"\x09\xfe"])
def test_an_error_in_the_first_two_bytes_needs_no_third(head: bytes) -> None:
    assert [type(event) for event in socket().receive(head)] == [Ended]


@pytest.mark.parametrize(
    "data",
    [frame(TEXT, b"\xff"), frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"\xff"), frame(TEXT, b"\xff", length=9)],
    ids=["frame", "fragment", "part of a frame"],
)
def test_invalid_utf8_has_one_reason(data: bytes) -> None:
    (ended,) = socket().receive(data)
    assert isinstance(ended, Ended)
    assert (ended.code, ended.reason, ended.by_peer) == (1007, "invalid UTF-8", False)


@given(st.binary(min_size=1, max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_reply_to_any_bytes_ends_with_one_valid_close_frame(data: bytes, is_client: bool) -> None:
    """Any input that fails is answered with a close frame that the peer must accept."""
    ws, peer = socket(is_client), socket(not is_client)
    for event in ws.receive(data):
        if isinstance(event, Ended):
            (theirs,) = [event for event in peer.receive(event.reply) if not isinstance(event, PongReceived)]
            assert isinstance(theirs, Ended)
            assert theirs.by_peer


def test_bombs_after_our_close_are_inflated_only_within_a_limit() -> None:
    options = Options(deflate=Deflate(), max_message_size=1000)
    ws = WebSocket(client=False, options=options, deflate=DeflateParameters(True, True, 15, 15))
    ws.close(1000, "")
    bomb = frame(BINARY, deflated(bytes(1000)), rsv=4)
    assert ws.receive(bomb * 15) == []
    (ended,) = ws.receive(bomb * 1000)
    assert isinstance(ended, Ended)
    assert (ended.code, ended.by_peer, ended.reply) == (1009, False, b"")
    assert ws.state is State.CLOSED
    assert not ws.has_more
