"""Receiving and sending: messages, UTF-8, pings and pongs, wherever the bytes are cut."""

from __future__ import annotations

import gc
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol_peer import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    NO_TAKEOVER,
    PING,
    PONG,
    TAKEOVER,
    TEXT,
    close_frame,
    deflated,
    dribble,
    frame,
    messages,
    parse_frames,
)

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.events import Ended, PongReceived, Received, State
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._protocol.websocket import MAX_PENDING_PONGS, WebSocket
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Deflate, Options

CONFIG = Deflate(threshold=0)
TAIL = b"\x00\x00\xff\xff"


def server(negotiated: DeflateParameters | None = None, config: Deflate | None = CONFIG) -> WebSocket:
    return WebSocket(client=False, options=Options(deflate=config), deflate=negotiated)


def client(negotiated: DeflateParameters | None = None, config: Deflate | None = CONFIG) -> WebSocket:
    return WebSocket(client=True, options=Options(deflate=config), deflate=negotiated)


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("deflate", [None, TAKEOVER])
def test_every_width_of_a_length(size: int, opcode: int, deflate: DeflateParameters | None) -> None:
    message: str | bytes = "x" * size if opcode == TEXT else bytes(range(256)) * (size // 256) + b"y" * (size % 256)
    for here, there in ((server(deflate), client(deflate)), (client(deflate), server(deflate))):
        data = here.encode(message)
        assert there.receive(data) == [message]
        assert there.receive(data[:-1]) == []
        assert there.receive(data[-1:]) == [message]


def test_a_thousand_frames_in_one_piece() -> None:
    sent = [f"message {number}" if number % 2 else b"%d" % number for number in range(1000)]
    sender = client()
    assert server().receive(b"".join([sender.encode(message) for message in sent])) == sent


def test_a_piece_can_end_anywhere() -> None:
    data = frame(TEXT, b"one") + frame(TEXT, b"tw", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"o")
    data += frame(BINARY, b"3" * 200) + frame(PONG, b"q")
    expected: list[Received] = ["one", "two", b"3" * 200, PongReceived(b"q")]
    for cut in range(len(data) + 1):
        ws = server()
        assert ws.receive(data[:cut]) + ws.receive(data[cut:]) == expected
        assert parse_frames(ws.take_pongs()) == [(0x8A, b"p")]
    assert dribble(server(), data) == expected


def test_nothing_is_lost_by_an_empty_piece() -> None:
    data = frame(TEXT, b"abc", fin=False) + frame(CONTINUATION, b"d" * 300) + frame(BINARY, b"e" * 300)
    ws, events = server(), list[Received]()
    for byte in data:
        events += ws.receive(b"") + ws.receive(bytes([byte]))
    assert events == ["abc" + "d" * 300, b"e" * 300]


def test_line_ends_in_text_stay_as_they_are() -> None:
    text = "a\r\nb\rc\nd\x85\u2028"
    data = text.encode()
    assert server().receive(frame(TEXT, data)) == [text]
    assert dribble(server(), frame(TEXT, data)) == [text]
    assert dribble(server(), frame(TEXT, data[:2], fin=False) + frame(CONTINUATION, data[2:])) == [text]


# -- compressed messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(12))
def test_a_compressed_message_in_fragments_with_a_ping_between(cut: int) -> None:
    data = deflated(b"hello compressed world")
    parts = frame(TEXT, data[:cut], fin=False, rsv=COMPRESSED) + frame(PING) + frame(CONTINUATION, data[cut:])
    for ws in (server(TAKEOVER), server(NO_TAKEOVER)):
        assert ws.receive(parts) == ["hello compressed world"]
        assert dribble(ws, parts) == ["hello compressed world"]


def test_compressed_and_uncompressed_take_turns() -> None:
    ws, sender = server(TAKEOVER), client(TAKEOVER)
    sent = ["same words again"] * 6
    data = b"".join(sender.encode(text, compress=number % 3 != 1) for number, text in enumerate(sent))
    assert ws.receive(data) == sent


@pytest.mark.parametrize("deflate", [None, TAKEOVER])
def test_rsv1_says_compressed_only_where_that_was_negotiated(deflate: DeflateParameters | None) -> None:
    events = server(deflate).receive(frame(TEXT, deflated(b"x"), rsv=COMPRESSED))
    if deflate is None:
        assert events[0].code == 1002  # type: ignore[union-attr]
    else:
        assert events == ["x"]


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"", fin=False, rsv=COMPRESSED) + frame(CONTINUATION, b"", rsv=COMPRESSED),
        frame(PING, b"", rsv=COMPRESSED),
        frame(TEXT, deflated(b"he")[:-1], fin=False, rsv=COMPRESSED) + frame(TEXT, b"\xff\xff", rsv=COMPRESSED),
        frame(TEXT, deflated(b"he")[:-1], fin=False, rsv=COMPRESSED) + frame(BINARY, b"x"),
        frame(CONTINUATION, b"\xff\xff", rsv=COMPRESSED),
    ],
    ids=["rsv1 again", "compressed ping", "compressed inside", "plain inside", "compressed continuation"],
)
def test_compressed_frames_in_the_wrong_place_are_protocol_errors(data: bytes) -> None:
    for events in (server(TAKEOVER).receive(data), dribble(server(TAKEOVER), data)):
        assert [(event.code, event.by_peer) for event in events if isinstance(event, Ended)] == [(1002, False)]


@pytest.mark.parametrize("payload", [b"\xff\xff", b"\x06", deflated(b"abc" * 50)[:-4]], ids=["type 3", "bad", "short"])
def test_invalid_compressed_data(payload: bytes) -> None:
    whole = frame(BINARY, payload, rsv=COMPRESSED)
    fragments = frame(BINARY, payload[:1], rsv=COMPRESSED, fin=False) + frame(CONTINUATION, payload[1:])
    for data in (whole, fragments):
        for events in (server(TAKEOVER).receive(data), dribble(server(TAKEOVER), data)):
            (ended,) = events
            assert isinstance(ended, Ended)
            assert (ended.code, ended.by_peer) == (1007, False)
            assert ended.reason.startswith("a compressed message is ")


# -- UTF-8 -------------------------------------------------------------------------------------------------------------

#: Bytes that are not UTF-8 (RFC 3629), and the byte at which the decoder notices. CPython's decoder checks a surrogate
#: only when it has all three bytes; everything else fails at the first byte that is not allowed in its place.
WRONG_UTF8 = [
    (b"\x80", 0),  # a continuation byte without a first byte
    (b"\xc0\xaf", 0),  # overlong in two, three and four bytes
    (b"\xc1\xbf", 0),
    (b"\xe0\x9f\xbf", 1),
    (b"\xf0\x8f\xbf\xbf", 1),
    (b"\xed\xa0\x80", 2),  # surrogates
    (b"\xed\xbf\xbf", 2),
    (b"\xf4\x90\x80\x80", 1),  # above U+10FFFF
    (b"\xf5\x80\x80\x80", 0),
    (b"\xf8\x88\x80\x80\x80", 0),  # five and six bytes
    (b"\xfe", 0),
    (b"\xff", 0),
    (b"\xc3A", 1),  # incomplete
    (b"\xe2\x82A", 2),
    (b"\xf0\x9f\x98A", 3),
    (b"\xe2A", 1),
]
PREFIXES = [b"", b"a", "κόσμε".encode(), "😀".encode()]


def invalid_utf8(events: list[Received]) -> bool:
    if not events:
        return False
    (ended,) = events
    assert isinstance(ended, Ended)
    assert (ended.code, ended.by_peer) == (1007, False)
    assert parse_frames(ended.reply)[-1][1][:2] == (1007).to_bytes(2, "big")
    return True


@pytest.mark.parametrize(("wrong", "possible"), WRONG_UTF8)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["frame", "fragment", "continuation"])
def test_wrong_utf8_fails_at_the_first_wrong_byte(wrong: bytes, possible: int, prefix: bytes, kind: str) -> None:
    """The header announces a thousand bytes; the failure does not wait for them."""
    payload = prefix + wrong
    head = frame(TEXT, fin=kind == "frame", length=1000)
    if kind == "continuation":
        head = frame(TEXT, prefix[:1], fin=False) + frame(CONTINUATION, length=1000)
        payload = payload[1:] if prefix else payload
        prefix = prefix[1:]
    start = len(head)
    data = head + frame(TEXT, payload, length=1000)[-len(payload) :]
    fatal = start + len(prefix) + possible
    for cut in range(start, len(data) + 1):
        ws = server()
        assert invalid_utf8(ws.receive(data[:cut])) == (cut > fatal), cut
        assert invalid_utf8(ws.receive(data[cut:])) == (cut <= fatal), cut
    ws = server()
    for at in range(fatal):
        assert ws.receive(data[at : at + 1]) == []
    assert invalid_utf8(ws.receive(data[fatal : fatal + 1]))


@pytest.mark.parametrize(("wrong", "possible"), WRONG_UTF8)
def test_wrong_utf8_in_whole_messages(wrong: bytes, possible: int) -> None:
    for payload in (wrong, b"ok" + wrong + b"ok"):
        assert invalid_utf8(server().receive(frame(TEXT, payload)))
        assert invalid_utf8(server(TAKEOVER).receive(frame(TEXT, deflated(payload), rsv=COMPRESSED)))
        assert invalid_utf8(dribble(server(TAKEOVER), frame(TEXT, deflated(payload), rsv=COMPRESSED)))
        assert server().receive(frame(BINARY, payload)) == [payload]


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_a_character_can_be_divided_but_not_incomplete(character: str) -> None:
    encoded = character.encode()
    for cut in range(1, len(encoded)):
        first, rest = encoded[:cut], encoded[cut:]
        divided = frame(TEXT, first, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION, rest)
        assert server().receive(divided) == [character]
        assert dribble(server(), divided) == [character]
        assert invalid_utf8(server().receive(frame(TEXT, first)))
        assert invalid_utf8(dribble(server(), frame(TEXT, first)))
        assert invalid_utf8(server().receive(frame(TEXT, first, fin=False) + frame(CONTINUATION)))
        # the next message does not continue the character
        assert invalid_utf8(server().receive(frame(TEXT, first) + frame(TEXT, rest)))


def first_wrong_byte(data: bytes) -> int | None:
    """Return the first byte that no UTF-8 text can have in its place (table 3-7 of the Unicode standard)."""
    second = {0xE0: (0xA0, 0xBF), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
    wanted: list[tuple[int, int]] = []
    for at, byte in enumerate(data):
        if wanted:
            low, high = wanted.pop(0)
            if not low <= byte <= high:
                return at
            if data[at - 1] == 0xED and byte >= 0xA0:
                wanted = [(1, 0)]  # a surrogate, noticed at its third byte
        elif byte >= 0x80:
            if not 0xC2 <= byte <= 0xF4:
                return at
            count = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
            wanted = [second.get(byte, (0x80, 0xBF)), (0x80, 0xBF), (0x80, 0xBF)][:count]
    return None


@given(
    st.lists(st.sampled_from([wrong for wrong, _ in WRONG_UTF8] + PREFIXES) | st.binary(max_size=4), max_size=5),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_text_fails_at_its_first_invalid_byte(parts: list[bytes], fragment: bool) -> None:
    payload = b"".join(parts)
    data = frame(TEXT, payload, fin=not fragment, length=1000)
    wrong = first_wrong_byte(payload)
    start = len(data) - len(payload)
    ws = server()
    seen = next((at - start for at in range(len(data)) if invalid_utf8(ws.receive(data[at : at + 1]))), None)
    assert seen == wrong


# -- pings and pongs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))])
def test_a_ping_is_answered_with_its_payload(payload: bytes) -> None:
    for ws, mask in ((server(), b"\x01\x02\x03\x04"), (client(), None)):
        assert not ws.has_pongs
        assert ws.receive(frame(PING, payload, mask=mask)) == []
        assert ws.has_pongs
        pong = ws.take_pongs()
        assert parse_frames(pong) == [(0x8A, payload)]
        assert bool(pong[1] & 0x80) == (mask is None)
        assert not ws.has_pongs
        assert ws.take_pongs() == b""


@pytest.mark.parametrize("count", [1, MAX_PENDING_PONGS - 1, MAX_PENDING_PONGS, MAX_PENDING_PONGS + 1, 90])
def test_of_many_pings_the_newest_are_answered(count: int) -> None:
    assert MAX_PENDING_PONGS == 16
    ws = server()
    ws.receive(b"".join([frame(PING, b"%d" % number) for number in range(count)]))
    newest = range(max(0, count - 16), count)
    assert parse_frames(ws.take_pongs()) == [(0x8A, b"%d" % number) for number in newest]


def test_an_unsolicited_pong_is_only_reported() -> None:
    ws = server()
    assert ws.receive(frame(PONG, b"unsolicited")) == [PongReceived(b"unsolicited")]
    assert not ws.has_pongs


def test_a_ping_inside_a_message_is_answered_before_its_end() -> None:
    ws = server()
    assert ws.receive(frame(TEXT, b"a", fin=False) + frame(PING, b"p")) == []
    assert parse_frames(ws.take_pongs()) == [(0x8A, b"p")]
    assert ws.receive(frame(CONTINUATION, b"b")) == ["ab"]


def test_pings_of_both_roles() -> None:
    here, there = client(), server()
    for payload in (b"", b"p" * 125):
        for sender, receiver in ((here, there), (there, here)):
            assert receiver.receive(sender.ping(payload)) == []
            assert sender.receive(receiver.take_pongs()) == [PongReceived(payload)]


# -- sending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [None, TAKEOVER, NO_TAKEOVER])
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: memoryview(data)[::1]])
def test_everything_like_bytes_is_binary(deflate: DeflateParameters | None, make: type) -> None:
    for here, there in ((server(deflate), client(deflate)), (client(deflate), server(deflate))):
        assert there.receive(here.encode(make(b"some bytes"))) == [b"some bytes"]


def test_later_changes_of_a_bytearray_are_not_sent() -> None:
    buffer = bytearray(b"before")
    prepared = PreparedMessage(buffer)
    buffer[:] = b"after!"
    assert client().receive(server().encode(prepared)) == [b"before"]


@pytest.mark.parametrize("message", [{"a": 1}, None, 7, ["x"], object()])
def test_other_types_are_refused_with_advice(message: Any) -> None:
    for encode in (server().encode, client(TAKEOVER).encode, PreparedMessage):
        with pytest.raises(TypeError) as caught:
            encode(message)
        assert str(caught.value) == (
            f"a message is a str or bytes, not {type(message).__name__}; "
            "encode it, for instance with json.dumps, or give the route a codec: codec=JsonCodec() of pywsapp.codecs"
        )


@pytest.mark.parametrize("text", ["\ud800", "ok\udfff", "\ud83d\ude00"])
def test_lone_surrogates_are_refused(text: str) -> None:
    for encode in (server().encode, client(TAKEOVER).encode, PreparedMessage):
        with pytest.raises(ConfigurationError, match="a text message must be encodable as UTF-8"):
            encode(text)
    ws, reader = server(TAKEOVER), client(TAKEOVER)
    reader.receive(ws.encode("before"))
    with pytest.raises(ConfigurationError):
        ws.encode(text)
    assert reader.receive(ws.encode("after")) == ["after"]


@pytest.mark.parametrize(
    ("size", "compress", "compressed"),
    [
        (99, None, False),
        (100, None, True),
        (101, None, True),
        (0, True, True),
        (1, True, True),
        (5000, False, False),
        (5000, None, True),
    ],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_what_is_compressed(size: int, compress: bool | None, compressed: bool, prepared: bool) -> None:
    message = b"x" * size
    for deflate in (TAKEOVER, NO_TAKEOVER, None):
        for ws in (server(deflate, Deflate(threshold=100)), client(deflate, Deflate(threshold=100))):
            data = ws.encode(PreparedMessage(message, compress=compress)) if prepared else ws.encode(message, compress)
            assert bool(data[0] & 0x40) == (compressed and deflate is not None)
            reader = server(deflate) if ws.client else client(deflate)
            assert reader.receive(data) == [message]


def test_the_threshold_counts_bytes_not_characters() -> None:
    ws = server(NO_TAKEOVER, Deflate(threshold=100))
    assert not ws.encode("é" * 49)[0] & 0x40
    assert ws.encode("é" * 50)[0] & 0x40


def test_messages_are_plain_where_the_options_have_no_deflate() -> None:
    assert server(TAKEOVER, None).encode("x" * 5000, True) == server().encode("x" * 5000)


def test_a_client_masks_each_frame_with_a_new_key() -> None:
    ws = client()
    keys = {ws.encode("same")[2:6] for _ in range(50)} | {ws.ping(b"")[2:6] for _ in range(50)}
    assert len(keys) == 100


# -- one message for many connections ----------------------------------------------------------------------------------


def with_window(bits: int, level: int = 6) -> WebSocket:
    return server(DeflateParameters(True, True, bits, 15), Deflate(threshold=0, level=level))


def test_a_prepared_message_is_encoded_once_for_each_wire_format() -> None:
    message = PreparedMessage("to everybody " * 20)
    plain = {id(server().encode(message)) for _ in range(5)}
    narrow = {id(with_window(9).encode(message)) for _ in range(5)}
    wide = {id(with_window(15).encode(message)) for _ in range(5)}
    takeover = {id(server(TAKEOVER).encode(message)) for _ in range(5)}
    faster = {id(with_window(15, level=1).encode(message)) for _ in range(5)}
    assert [len(ids) for ids in (plain, narrow, wide, takeover, faster)] == [1, 1, 1, 1, 1]
    assert wide == takeover
    assert len(plain | narrow | wide | faster) == 4


def test_a_prepared_message_is_masked_for_each_client() -> None:
    message = PreparedMessage("from a client")
    one, two = client().encode(message), client(TAKEOVER).encode(message)
    assert server().receive(one) == ["from a client"]
    assert server(TAKEOVER).receive(two) == ["from a client"]


def test_prepared_messages_do_not_disturb_context_takeover() -> None:
    """The peer's window contains prepared messages and ours does not, so ours must not refer across them."""
    own = ["the quick brown fox " * 3, "jumps over the lazy dog " * 3]
    shared = [PreparedMessage("the quick brown dog " * 5), PreparedMessage(b"\x00lazy" * 50, compress=True)]
    ws, reader = server(TAKEOVER), client(TAKEOVER)
    inflater = zlib.decompressobj(-15)
    order: list[str | PreparedMessage] = [
        own[0],
        own[1],
        shared[0],
        own[0],
        shared[0],
        shared[1],
        own[1],
        own[0],
        shared[0],
        own[0],
    ]
    for message in order:
        data = ws.encode(message)
        expected = message if isinstance(message, str) else original(message)
        assert reader.receive(data) == [expected]
        ((first, payload),) = parse_frames(data)
        assert first & 0x40
        inflated = inflater.decompress(payload + TAIL)
        assert inflated == (expected.encode() if isinstance(expected, str) else expected)
    # consecutive messages of the connection do refer to each other
    assert len(ws.encode(own[0])) < 15


def original(message: PreparedMessage) -> str | bytes:
    return message.payload.decode() if message.opcode == TEXT else message.payload


# -- the cost of a connection ------------------------------------------------------------------------------------------


def reachable_types(root: object) -> set[str]:
    """Return the modules of all instances that an object refers to, without classes and modules."""
    seen, found = set[int](), set[str]()
    todo = [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type) or callable(item):
            continue
        seen.add(id(item))
        found.add(type(item).__module__)
        todo.extend(gc.get_referents(item))
    return found


def test_an_idle_connection_holds_nothing_of_wsproto() -> None:
    ws = server(TAKEOVER)
    ping = frame(PING, b"in two parts")
    ws.receive(frame(TEXT, b"a", fin=False) + ping[:9])
    assert any(name.startswith("wsproto") for name in reachable_types(ws))
    assert ws.receive(ping[9:] + frame(CONTINUATION, b"b")) == ["ab"]
    ws.take_pongs()
    assert not any(name.startswith("wsproto") for name in reachable_types(ws))


def test_an_idle_connection_is_small() -> None:
    options, count = Options(deflate=Deflate()), 1000
    for deflate, limit in ((None, 400), (NO_TAKEOVER, 600)):
        tracemalloc.start()
        try:
            connections = [WebSocket(client=False, options=options, deflate=deflate) for _ in range(count)]
            fresh = tracemalloc.get_traced_memory()[0] / count
            traffic = frame(TEXT, b"hi") + frame(TEXT, b"a", fin=False) + frame(PING) + frame(CONTINUATION, b"b" * 500)
            for ws in connections:
                ws.receive(traffic)
                ws.encode(b"reply" * 1000, True)
                ws.take_pongs()
                ws.tick(0.0)
            used = tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()
        assert fresh < limit, fresh
        assert used < limit + 100, used


# -- after the end -----------------------------------------------------------------------------------------------------


def test_there_are_no_events_after_the_end() -> None:
    for ending in (close_frame(), frame(3)):
        ws = server()
        events = ws.receive(frame(TEXT, b"before") + ending + frame(TEXT, b"after") + frame(PING))
        assert messages(events) == ["before"]
        assert isinstance(events[-1], Ended)
        assert ws.state is State.CLOSED
        assert ws.receive(frame(TEXT, b"later")) == []
        assert not ws.has_pongs


@given(st.lists(st.binary(max_size=40), max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_at_most_once_and_raise_nothing(pieces: list[bytes]) -> None:
    for ws in (server(TAKEOVER), client()):
        events = [event for piece in pieces for event in ws.receive(piece)]
        ends = [event for event in events if isinstance(event, Ended)]
        assert len(ends) == (1 if ws.state is State.CLOSED else 0)
        assert not ends or events[-1] is ends[0]
