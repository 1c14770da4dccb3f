"""wsproto 1.3 faults with frames, tasks it leaves to its caller, and our result (docs/explanation/wsproto.md).

Each test shows the fault on wsproto first. When that part fails, a newer wsproto has fixed the fault. Our workaround
can then be simplified, and the table must be corrected.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.protocol_peer import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    MASK,
    MIB,
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
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.frame_protocol import CloseReason, Opcode
from wsproto.utilities import LocalProtocolError

from pywsapp._protocol.deflate import DeflateParameters
from pywsapp._protocol.events import Ended, PongReceived, State
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp._protocol.websocket import WebSocket
from pywsapp.close_codes import check_close, may_be_sent
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Deflate, Options


def wsproto(*, deflate: bool = False, client: bool = False) -> Connection:
    extensions = [negotiated()] if deflate else []
    return Connection(ConnectionType.CLIENT if client else ConnectionType.SERVER, extensions=extensions)  # type: ignore[arg-type]


def negotiated() -> WsprotoDeflate:
    extension = WsprotoDeflate()
    extension.finalize("permessage-deflate")
    return extension


def feed(connection: Connection, data: bytes) -> list[Event]:
    connection.receive_data(data)
    return list(connection.events())


def ours(*, client: bool = False, parameters: DeflateParameters | None = TAKEOVER, **options: Any) -> WebSocket:
    options.setdefault("deflate", Deflate(threshold=0))
    return WebSocket(client=client, options=Options(**options), deflate=parameters)


def end(events: list[Any]) -> Ended:
    assert isinstance(events[-1], Ended)
    return events[-1]


def peak_memory(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- A: wrong or dangerous ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("control", [PING, PONG])
def test_a1_ping_between_compressed_fragments(opcode: int, control: int) -> None:
    payload = deflated(b"hello compressed world, hello compressed world")
    data = frame(opcode, payload[:9], fin=False, rsv=COMPRESSED) + frame(control, b"x")
    data += frame(CONTINUATION, payload[9:])
    events = feed(wsproto(deflate=True), data)
    if opcode == TEXT:
        assert isinstance(events[-1], CloseConnection)
        assert events[-1].code == 1007
    else:
        read = b"".join([event.data for event in events if isinstance(event, BytesMessage)])
        assert read != b"hello compressed world, hello compressed world"
    (message,) = messages(ours().receive(data))
    assert message in (
        "hello compressed world, hello compressed world",
        b"hello compressed world, hello compressed world",
    )
    assert messages(dribble(ours(), data)) == [message]


def test_a2_decompression_bomb() -> None:
    bomb = frame(BINARY, deflated(bytes(64 * MIB)), rsv=COMPRESSED)
    assert len(bomb) < 70_000
    largest = max(len(event.data) for event in feed(wsproto(deflate=True), bomb) if isinstance(event, BytesMessage))
    assert largest > 60 * MIB
    ws = ours()
    assert peak_memory(lambda: ws.receive(bomb)) < 3 * MIB
    assert ws.state is State.CLOSED
    assert end(ours().receive(bomb)).code == 1009


def test_a5_one_deflate_object_for_two_connections() -> None:
    shared = negotiated()
    one, two = (Connection(ConnectionType.SERVER, extensions=[shared]) for _ in range(2))
    sender, other = ours(client=True), ours(client=True)
    feed(one, sender.encode(b"hello hello hello"))
    feed(two, other.encode(b"other other other"))
    (leaked,) = feed(one, sender.encode(b"hello hello hello"))
    assert isinstance(leaked, BytesMessage)
    assert b"ther" in leaked.data
    # ours is created for each connection; the options, which connections share, keep no state
    options = Options(deflate=Deflate(threshold=0))
    one_of_ours, two_of_ours = (WebSocket(client=False, options=options, deflate=TAKEOVER) for _ in range(2))
    sender, other = ours(client=True), ours(client=True)
    for _ in range(3):
        assert one_of_ours.receive(sender.encode(b"hello hello hello")) == [b"hello hello hello"]
        assert two_of_ours.receive(other.encode(b"other other other")) == [b"other other other"]


def test_a6_silent_death_of_the_parser() -> None:
    plain, chunk = wsproto(), bytes(1 * MIB)
    feed(plain, frame(3))
    assert plain.state is ConnectionState.OPEN
    held = peak_memory(lambda: [feed(plain, chunk) for _ in range(20)])
    assert held > 20 * MIB
    assert feed(plain, close_frame()) == []
    ws = ours()
    assert end(ws.receive(frame(3))).reply
    assert ws.state is State.CLOSED
    assert peak_memory(lambda: [ws.receive(chunk) for _ in range(50)]) < 10_000


# -- B: left to the caller ---------------------------------------------------------------------------------------------


def test_b1_no_limit_on_message_size() -> None:
    huge = frame(BINARY, length=(1 << 63) - 1)
    assert feed(wsproto(), huge) == []
    assert len(feed(wsproto(), huge + bytes(5 * MIB))) == 1
    assert end(ours().receive(huge)).code == 1009


def test_b2_no_limit_on_fragments() -> None:
    fragments = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 20_000
    assert len(feed(wsproto(), fragments)) == 20_001
    ended = end(ours().receive(fragments))
    assert (ended.code, ended.reason) == (1009, "the message has more than 4096 fragments")


def test_b3_pings_are_not_answered() -> None:
    flood = b"".join([frame(PING, b"%d" % number) for number in range(90)])
    plain = wsproto()
    assert [type(event) for event in feed(plain, flood)] == [Ping] * 90
    ws = ours()
    assert ws.receive(flood) == []
    assert parse_frames(ws.take_pongs()) == [(0x8A, b"%d" % number) for number in range(74, 90)]
    ended = end(ws.receive(flood))
    assert (ended.code, ended.reason) == (1008, "too many control frames")


def test_b4_a_ping_after_our_close() -> None:
    plain = wsproto()
    plain.send(CloseConnection(code=1000))
    (ping,) = feed(plain, frame(PING, b"x"))
    assert isinstance(ping, Ping)
    with pytest.raises(LocalProtocolError):
        plain.send(ping.response())
    ws = ours()
    ws.close(1000, "")
    assert ws.receive(frame(PING, b"x")) == []
    assert ws.take_pongs() == b""
    assert ws.receive(close_frame()) == [Ended(1000, "", True, b"")]


def test_b5_a_protocol_error_looks_like_a_close() -> None:
    closed, broken = feed(wsproto(), close_frame(1002)), feed(wsproto(), frame(3))
    assert [type(event) for event in closed + broken] == [CloseConnection, CloseConnection]
    assert closed[0].code == broken[0].code  # type: ignore[attr-defined]
    assert end(ours().receive(close_frame(1002))).by_peer
    assert not end(ours().receive(frame(3))).by_peer
    ws = ours()
    ws.close(1000, "")
    assert end(ws.receive(frame(3))) == Ended(1002, "Invalid opcode 0x3", False, b"")


def test_b6_state_changes_only_while_events_are_taken() -> None:
    plain = wsproto()
    plain.receive_data(close_frame())
    assert plain.state is ConnectionState.OPEN
    list(plain.events())
    assert plain.state.name == "REMOTE_CLOSING"
    ws = ours()
    ws.receive(close_frame())
    assert ws.state is State.CLOSED


def test_b7_the_end_of_the_stream_is_reported_out_of_order() -> None:
    plain = wsproto()
    plain.receive_data(frame(TEXT, b"first"))
    plain.receive_data(None)
    assert [type(event) for event in plain.events()] == [CloseConnection, TextMessage]
    plain = wsproto()
    feed(plain, close_frame(1000))
    plain.send(CloseConnection(code=1000))
    plain.receive_data(None)
    (false,) = plain.events()
    assert isinstance(false, CloseConnection)
    assert false.code == 1006
    # ours never gets the end of a stream; events before it are returned at once, and the end causes none
    ws = ours()
    assert ws.receive(frame(TEXT, b"first")) == ["first"]
    assert end(ws.receive(close_frame(1000))).code == 1000
    ws.abandon()
    assert ws.receive(b"") == []


def test_b8_close_codes_are_not_checked() -> None:
    for code in (0, 999, 1004, 2999, 5000, 65535):
        assert wsproto().send(CloseConnection(code=code))[2:] == code.to_bytes(2, "big")
    for code in (70000, -1):
        with pytest.raises(struct.error):
            wsproto().send(CloseConnection(code=code))
    assert wsproto().send(CloseConnection(code=CloseReason.ABNORMAL_CLOSURE))[2:] == (1000).to_bytes(2, "big")
    assert feed(wsproto(), close_frame(1014)) == [CloseConnection(1002, "CLOSE with unknown reserved code")]
    for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535, 70000, -1):
        with pytest.raises(ConfigurationError):
            check_close(code, "")
    assert end(ours().receive(close_frame(1014))).code == 1014
    for code in filter(may_be_sent, range(1000, 5000)):
        assert end(ours(client=True).receive(ours().close(code, ""))).code == code


def test_b9_messages_of_two_senders() -> None:
    plain = wsproto()
    plain.send(TextMessage("begun", message_finished=False))
    data = plain.send(TextMessage("by another"))  # silently becomes the end of the first message
    assert data[0] & 0x0F == CONTINUATION
    plain.send(TextMessage("begun", message_finished=False))
    with pytest.raises(TypeError):
        plain.send(BytesMessage(b"by another"))
    # ours sends only complete messages
    for parameters in (None, TAKEOVER):
        ws, reader = ours(parameters=parameters), ours(client=True, parameters=parameters)
        sent: list[str | bytes] = ["one", b"two", "three" * 100]
        assert reader.receive(b"".join([ws.encode(message) for message in sent])) == sent


def test_b10_errors_of_many_kinds() -> None:
    with pytest.raises(ValueError, match="payload too long"):
        wsproto().send(Ping(bytes(126)))
    with pytest.raises(UnicodeEncodeError):
        wsproto().send(TextMessage("\ud800"))
    with pytest.raises(TypeError):
        wsproto().send(TextMessage(7))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        ours().encode("\ud800")
    with pytest.raises(TypeError, match=r"json\.dumps"):
        ours().encode(7)  # type: ignore[arg-type]


HOSTILE = """
import sys
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import Deflate, Options
from pywsapp._protocol.deflate import DeflateParameters
for data in map(bytes.fromhex, sys.argv[1:]):
    ws = WebSocket(client=False, options=Options(deflate=Deflate()), deflate=DeflateParameters(False, False, 15, 15))
    print([event for piece in (data[:7], data[7:]) for event in ws.receive(piece)])
"""


def test_b11_checks_that_are_asserts() -> None:
    """`python -O` drops asserts; the same bytes must come to the same end without them."""
    plain = wsproto(client=True, deflate=True)
    with pytest.raises(AssertionError):
        # a check of the caller, which -O removes
        plain._proto.extensions[0].frame_outbound(plain._proto, Opcode.CONTINUATION, (False,) * 3, b"", True)  # type: ignore[arg-type]
    hostile = [
        frame(TEXT, deflated(b"x" * 100), rsv=COMPRESSED),
        frame(CONTINUATION, b"x", rsv=COMPRESSED),
        frame(TEXT, b"x", fin=False, rsv=COMPRESSED) + frame(PING) + frame(CONTINUATION, b"y"),
        frame(TEXT, deflated(b"x")[:2], fin=False, rsv=COMPRESSED) + frame(TEXT, b"y", rsv=COMPRESSED),
        frame(PING, bytes(126)),
        close_frame(1014, b"\xff"),
        close_frame(1014, b"fine"),
        frame(CLOSE, b"x"),
        frame(BINARY, length=1 << 63),
    ]
    arguments = ["-c", HOSTILE, *(data.hex() for data in hostile)]
    outputs = [
        subprocess.run([sys.executable, *flags, *arguments], capture_output=True, text=True, check=True).stdout
        for flags in ([], ["-O"])
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == len(hostile)


def test_b12_nothing_there_has_time() -> None:
    assert not [name for name in dir(Connection) if "time" in name or "tick" in name]
    ws = ours(message_timeout=30)
    ws.receive(frame(TEXT, b"begun", fin=False))
    assert ws.tick(0.0) is None
    ended = ws.tick(30.0)
    assert ended is not None
    assert ended.code == 1008


def test_b13_a_header_is_shown_to_extensions_several_times() -> None:
    """While bytes of the masking key are missing, wsproto parses the header again, and calls extensions each time."""
    seen: list[int] = []

    class Counter(WsprotoDeflate):
        def enabled(self) -> bool:
            return True

        def frame_inbound_header(self, proto: Any, opcode: Any, rsv: Any, payload_length: int) -> Any:
            seen.append(payload_length)
            return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    plain = Connection(ConnectionType.SERVER, extensions=[Counter()])
    for byte in frame(BINARY, b"abc", mask=MASK):
        feed(plain, bytes([byte]))
    assert seen == [3] * 5
    # the counts of frames and bytes must not include the repeated calls
    ws = ours(max_fragments=3, max_message_size=9)
    data = frame(BINARY, b"abc", fin=False) + frame(CONTINUATION, b"def", fin=False) + frame(CONTINUATION, b"ghi")
    assert dribble(ws, data + frame(PONG)) == [b"abcdefghi", PongReceived(b"")]


# -- D: compression of what is sent, and memory ------------------------------------------------------------------------


def test_d1_everything_is_compressed() -> None:
    assert len(wsproto(deflate=True).send(TextMessage("x"))) == 5
    plain = ours(parameters=NO_TAKEOVER, deflate=Deflate())
    assert plain.encode("x") == b"\x81\x01x"
    assert plain.encode("x" * 2000, False)[0] == 0x81
    assert plain.encode("x" * 2000)[0] == 0xC1
    assert plain.encode("x", True)[0] == 0xC1


def test_d2_memory_of_a_compressing_connection() -> None:
    count = 20
    message = b"one message of medium length " * 100
    connections: list[Any] = []

    def busy_wsproto() -> None:
        for _ in range(count):
            connections.append(wsproto(deflate=True))
            connections[-1].send(BytesMessage(message))
            feed(connections[-1], frame(BINARY, deflated(message), rsv=COMPRESSED))

    def busy_ours(parameters: DeflateParameters) -> None:
        for _ in range(count):
            connections.append(ours(parameters=parameters))
            connections[-1].encode(message)
            connections[-1].receive(frame(BINARY, deflated(message), rsv=COMPRESSED))

    def left_by(action: Callable[[], object]) -> float:
        connections.clear()
        tracemalloc.start()
        try:
            action()
            return tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()

    assert left_by(busy_wsproto) > 200_000
    assert left_by(lambda: busy_ours(DeflateParameters(False, False, 12, 12))) < 60_000
    assert left_by(lambda: busy_ours(NO_TAKEOVER)) < 2_000


def test_d3_fragments_that_hold_nothing_back() -> None:
    plain = wsproto(deflate=True)
    first = plain.send(BytesMessage(b"x" * 1000, message_finished=False))
    assert len(first) == 2  # a frame without payload: the data is still in the compressor
    # ours sends a message as one complete frame, flushed
    for parameters in (TAKEOVER, NO_TAKEOVER):
        ws, reader = ours(parameters=parameters), ours(client=True, parameters=parameters)
        for _ in range(3):
            data = ws.encode(b"x" * 1000)
            assert data[0] == 0xC2
            assert reader.receive(data) == [b"x" * 1000]


def test_d4_a_stream_that_ends() -> None:
    ended = bytes.fromhex("f348cdc9c9070000")  # RFC 7692 section 7.2.3.4: "Hello" with BFINAL, and the byte after it
    data = frame(TEXT, ended, rsv=COMPRESSED) * 2
    assert isinstance(feed(wsproto(deflate=True), data)[-1], CloseConnection)
    for parameters in (TAKEOVER, NO_TAKEOVER):
        assert ours(parameters=parameters).receive(data) == ["Hello", "Hello"]


def test_d5_a_broadcast_is_compressed_for_each() -> None:
    one, two = wsproto(deflate=True), wsproto(deflate=True)
    text = "to all of you " * 100
    assert one.send(TextMessage(text)) is not two.send(TextMessage(text))
    message = PreparedMessage(text)
    frames = [ours(parameters=parameters).encode(message) for parameters in [NO_TAKEOVER, TAKEOVER] * 5]
    assert len({id(data) for data in frames}) == 1
    assert ours(client=True).receive(frames[0]) == [text]


def test_d6_the_handshake_is_kept_for_life() -> None:
    request = ours_request()
    count = 50

    def left_by(make: Callable[[], object]) -> float:
        made = [make()]  # objects that are created only once
        tracemalloc.start()
        try:
            made += [make() for _ in range(count)]
            return tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()

    def plain() -> WSConnection:
        connection = WSConnection(ConnectionType.SERVER)
        connection.receive_data(request)
        list(connection.events())
        connection.send(AcceptConnection())
        return connection

    options = Options()
    assert left_by(plain) > 2_500
    assert left_by(lambda: WebSocket(client=False, options=options)) < 400


def ours_request() -> bytes:
    client = WSConnection(ConnectionType.CLIENT)
    return client.send(Request(host="example.com", target="/chat"))


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_every_fault_and_every_test() -> None:
    """The table in docs/explanation/wsproto.md names every test, and no test that does not exist."""
    here = Path(__file__)
    table = (here.parents[2] / "docs" / "explanation" / "wsproto.md").read_text(encoding="utf-8")
    faults = [*(f"A{n}" for n in range(1, 7)), *(f"B{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 14))]
    faults += [f"D{n}" for n in range(1, 7)]
    assert re.findall(r"^\| ([A-D]\d+) \|", table, re.MULTILINE) == faults
    code = here.read_text(encoding="utf-8") + here.with_name("test_wsproto_faults_handshake.py").read_text("utf-8")
    tests = set(re.findall(r"^def (test_[abcd]\d+_\w+)", code, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", table))
    named |= {f"test_a4_and_c1_{rest}" for rest in re.findall(r"`\.\.\._(\w+)`", table)}
    assert named == tests
