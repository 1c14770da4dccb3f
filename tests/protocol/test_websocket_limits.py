"""Every limit is exact on both paths, and the memory and CPU time for input are proportional to its size."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from support.protocol_peer import (
    BINARY,
    COMPRESSED,
    CONTINUATION,
    MIB,
    PING,
    PONG,
    TAKEOVER,
    TEXT,
    close_frame,
    deflated,
    dribble,
    frame,
    memory_of,
    parse_frames,
    websocket,
)

from pywsapp._protocol.events import Ended, PongReceived, Received, State
from pywsapp._protocol.websocket import WebSocket
from pywsapp.options import Deflate, Options

N = 300

TOO_BIG = f"the message is larger than {N} bytes"
INFLATES = "a message inflates to more than is allowed"


def refused(events: list[Received], code: int, reason: str) -> None:
    """Check that the connection failed, and that the peer gets the code and the reason."""
    (ended,) = events
    assert isinstance(ended, Ended)
    assert (ended.code, ended.reason, ended.by_peer) == (code, reason, False)
    assert parse_frames(ended.reply)[-1] == (0x88, code.to_bytes(2, "big") + reason.encode())


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


# -- the size of a message ---------------------------------------------------------------------------------------------


def one_frame(opcode: int, payload: bytes, rsv: int) -> bytes:
    return frame(opcode, payload, rsv=rsv)


def three_fragments(opcode: int, payload: bytes, rsv: int) -> bytes:
    third = len(payload) // 3
    first, second, last = payload[:third], payload[third : 2 * third], payload[2 * third :]
    data = frame(opcode, first, fin=False, rsv=rsv) + frame(CONTINUATION, second, fin=False)
    return data + frame(PING) + frame(CONTINUATION, last)


Shape = Callable[[int, bytes, int], bytes]
SHAPES = pytest.mark.parametrize("shape", [one_frame, three_fragments])
CUTS = pytest.mark.parametrize("cut", [1 << 20, 50, 7, 1], ids=["at once", "in parts", "in small parts", "in bytes"])


@SHAPES
@CUTS
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_message_size(shape: Shape, cut: int, opcode: int, compressed: bool, more: int) -> None:
    message = ("é" * N).encode()[: N + more] if (N + more) % 2 == 0 else b"x" + ("é" * N).encode()[: N + more - 1]
    assert len(message) == N + more
    payload = deflated(message) if compressed else message
    data = shape(opcode, payload, COMPRESSED if compressed else 0)
    ws = websocket(deflate=True, max_message_size=N, max_frame_size=10 * N)
    for _ in range(2):
        events = [event for piece in pieces(data, cut) for event in ws.receive(piece)]
        if more > 0:
            refused(events, 1009, INFLATES if compressed else TOO_BIG)
            return
        assert events == [message.decode() if opcode == TEXT else message]


@pytest.mark.parametrize("level", [0, 6])
@pytest.mark.parametrize("cut", [1 << 22, 60_000])
def test_a_compressed_message_at_the_limit_can_be_larger_on_the_wire(level: int, cut: int) -> None:
    """Incompressible data grows; the limit applies to the inflated size, not to the size of the frame."""
    message = random.Random(level).randbytes(MIB)
    sender = WebSocket(client=True, options=Options(deflate=Deflate(threshold=0, level=level)), deflate=TAKEOVER)
    data = sender.encode(message, compress=True)
    assert len(data) - 14 > MIB
    ws = websocket(deflate=True)
    assert [event for piece in pieces(data, cut) for event in ws.receive(piece)] == [message]


def test_a_raised_message_size_is_enough_for_a_large_frame() -> None:
    ws = websocket(max_message_size=3 * MIB)
    message = b"x" * (3 * MIB)
    assert ws.receive(WebSocket(client=True, options=Options()).encode(message)) == [message]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [N + 1, MIB, (1 << 63) - 1])
def test_too_large_a_frame_is_refused_before_its_payload(opcode: int, size: int) -> None:
    refused(websocket(max_message_size=N).receive(frame(opcode, length=size)), 1009, TOO_BIG)
    refused(websocket(max_message_size=N).receive(frame(opcode, fin=False, length=size)), 1009, TOO_BIG)
    begun = frame(opcode, b"x" * 10, fin=False)
    refused(websocket(max_message_size=N).receive(begun + frame(CONTINUATION, length=size)), 1009, TOO_BIG)
    refused(dribble(websocket(max_message_size=N), begun + frame(CONTINUATION, length=N - 9)), 1009, TOO_BIG)


@CUTS
@pytest.mark.parametrize("begun", [b"", frame(BINARY, b"x", fin=False)])
@pytest.mark.parametrize("size", [1 << 61, 1 << 62, (1 << 63) - 1])
def test_everything_after_the_header_of_an_endless_frame_is_payload(size: int, begun: bytes, cut: int) -> None:
    ws = websocket(max_message_size=1 << 63)
    head = frame(CONTINUATION if begun else BINARY, length=size, mask=bytes(4))
    for piece in pieces(begun + head + frame(PING), cut):
        assert ws.receive(piece) == []
    assert not ws.has_pongs


def test_an_announced_frame_costs_no_memory() -> None:
    ws = websocket(max_message_size=1 << 40)
    tracemalloc.start()
    try:
        ws.receive(frame(BINARY, b"x", length=1 << 40))
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_the_size_of_one_message_does_not_count_for_the_next() -> None:
    ws = websocket(deflate=True, max_message_size=N)
    one = frame(BINARY, b"x" * (N - 1), fin=False) + frame(CONTINUATION, b"y")
    two = frame(BINARY, deflated(b"z" * N)[:5], fin=False, rsv=COMPRESSED)
    two += frame(CONTINUATION, deflated(b"z" * N)[5:])
    for _ in range(3):
        assert ws.receive(one + two) == [b"x" * (N - 1) + b"y", b"z" * N]
        assert dribble(ws, one + two) == [b"x" * (N - 1) + b"y", b"z" * N]


# -- the size of a frame -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@CUTS
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_frame_size(compressed: bool, cut: int, more: int) -> None:
    """The size of a frame is its size on the wire."""
    message = bytes((number * number * 7919 >> 3) % 256 for number in range(N))
    payload = deflated(message) if compressed else message
    rsv = COMPRESSED if compressed else 0
    limit = len(payload) - more
    reason = f"the frame is larger than {limit} bytes"
    whole = frame(BINARY, payload, rsv=rsv)
    fragments = frame(BINARY, payload, rsv=rsv, fin=False) + frame(CONTINUATION)
    for data in (whole, fragments):
        ws = websocket(deflate=True, max_frame_size=limit)
        events = [event for piece in pieces(data, cut) for event in ws.receive(piece)]
        if more > 0:
            refused(events, 1009, reason)
        else:
            assert events == [message]
    small = frame(BINARY, b"", fin=False) + frame(CONTINUATION, fin=False, length=limit + 1)
    refused(websocket(max_frame_size=limit).receive(small), 1009, reason)


def test_fragments_can_add_up_to_more_than_a_frame() -> None:
    ws = websocket(max_frame_size=10)
    data = frame(TEXT, b"x" * 10, fin=False) + frame(CONTINUATION, b"y" * 10)
    assert ws.receive(data) == ["x" * 10 + "y" * 10]
    assert dribble(ws, data) == ["x" * 10 + "y" * 10]


# -- the number of fragments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("payload", [b"", b"ab"])
@CUTS
def test_number_of_fragments(limit: int, more: int, payload: bytes, cut: int) -> None:
    count = limit + more
    if count < 1:
        return
    data = b"".join(
        [frame(CONTINUATION if at else BINARY, payload, fin=at == count - 1) + frame(PONG) for at in range(count)]
    )
    ws = websocket(max_fragments=limit)
    for _ in range(2):
        events = [event for piece in pieces(data, cut) for event in ws.receive(piece)]
        events = [event for event in events if not isinstance(event, PongReceived)]
        if more > 0:
            refused(events, 1009, f"the message has more than {limit} fragments")
            return
        assert events == [payload * count]


# -- control frames ----------------------------------------------------------------------------------------------------

TOO_MANY = "too many control frames"


@pytest.mark.parametrize("opcode", [PING, PONG])
@CUTS
def test_control_frames_at_once(opcode: int, cut: int) -> None:
    ws = websocket(control_frames_burst=5)
    assert sum(isinstance(event, PongReceived) for event in dribble(ws, frame(opcode) * 5)) in (0, 5)
    data = frame(opcode, b"p" * 50)
    events = [event for piece in pieces(data, cut) for event in ws.receive(piece)]
    refused(events, 1008, TOO_MANY)


def test_control_frames_between_fragments_count() -> None:
    ws = websocket(control_frames_burst=5)
    data = frame(TEXT, b"a", fin=False) + (frame(PING) + frame(CONTINUATION, fin=False)) * 6
    refused(ws.receive(data), 1008, TOO_MANY)


def test_the_budget_for_control_frames_refills() -> None:
    ws = websocket(control_frames_burst=5, control_frames_per_second=2)
    assert ws.tick(100.0) is None
    assert ws.receive(frame(PING) * 5) == []
    assert ws.tick(101.0) is None  # refills two
    assert ws.receive(frame(PING) * 2) == []
    assert ws.tick(1000.0) is None  # refills at most the burst
    assert ws.receive(frame(PING) * 5) == []
    assert ws.tick(1000.4) is None  # not a whole frame yet
    assert ws.tick(1000.6) is None
    assert ws.receive(frame(PING)) == []
    refused(ws.receive(frame(PING)), 1008, TOO_MANY)


def test_close_frames_do_not_count() -> None:
    ws = websocket(control_frames_burst=5)
    (ended,) = ws.receive(frame(PING) * 5 + close_frame(1000, b"bye"))
    assert isinstance(ended, Ended)
    assert (ended.code, ended.reason, ended.by_peer) == (1000, "bye", True)


def test_pongs_for_our_pings_do_not_count() -> None:
    ws = websocket(control_frames_burst=5)
    for _ in range(50):
        ws.ping(b"are you there")
    assert len(ws.receive(frame(PONG, b"yes") * 50)) == 50
    assert len(ws.receive(frame(PONG, b"yes") * 5)) == 5
    refused(ws.receive(frame(PONG)), 1008, TOO_MANY)


def test_control_frames_after_our_close_count_as_well() -> None:
    ws = websocket(control_frames_burst=5)
    ws.close(1000, "")
    assert ws.receive(frame(PING) * 5) == []
    (ended,) = ws.receive(frame(PING))
    assert ended == Ended(1008, TOO_MANY, False, b"")


# -- time --------------------------------------------------------------------------------------------------------------

UNFINISHED = "a message stayed unfinished for too long"

STALLED = {
    "frame": frame(TEXT, b"a", length=1000),
    "compressed frame": frame(TEXT, deflated(b"a" * 99)[:1], length=1000, rsv=COMPRESSED),
    "fragment": frame(TEXT, b"a", fin=False),
    "inside a fragment": frame(TEXT, b"a", fin=False, length=1000),
    "last fragment": frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", length=1000),
    "last fragment's head": frame(TEXT, b"a", fin=False) + frame(CONTINUATION, length=1000)[:-1],
    "ping": frame(PING, b"a", length=100),
    "close": frame(8, b"\x03", length=100),
}


@pytest.mark.parametrize("data", STALLED.values(), ids=STALLED)
def test_a_message_that_stays_unfinished(data: bytes) -> None:
    ws = websocket(deflate=True, message_timeout=30)
    assert ws.tick(0.0) is None
    assert ws.receive(data) == []
    assert ws.tick(100.0) is None  # the first tick that sees it
    assert ws.tick(129.9) is None
    ended = ws.tick(130.0)
    assert ended is not None
    refused([ended], 1008, UNFINISHED)
    assert ws.state is State.CLOSED
    assert ws.tick(200.0) is None


@pytest.mark.parametrize("data", [b"", frame(TEXT, b"abc"), frame(TEXT, fin=False) + frame(CONTINUATION), frame(PING)])
def test_an_idle_connection_stays(data: bytes) -> None:
    ws = websocket(message_timeout=30)
    ws.receive(data)
    for now in range(0, 1000, 10):
        assert ws.tick(float(now)) is None


@pytest.mark.parametrize("finish", [frame(TEXT, b"a" * 100), frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b")])
def test_a_busy_peer_with_an_unfinished_message_at_every_tick(finish: bytes) -> None:
    """Each message is unfinished for a moment only, but every tick sees an unfinished one."""
    ws = websocket(message_timeout=30, control_frames_per_second=1000)
    ws.receive(finish[:5])
    for now in range(100):
        assert ws.tick(float(now)) is None
        ws.receive(finish[5:] + frame(PING) + finish[:5])
    ws = websocket(message_timeout=30)
    ping = frame(PING, b"slow ping")
    ws.receive(ping[:5])
    for now in range(100):
        assert ws.tick(float(now)) is None
        ws.receive(ping[5:] + ping[:5])


def test_control_frames_do_not_prolong_a_message() -> None:
    ws = websocket(message_timeout=30)
    ws.receive(frame(TEXT, b"a", fin=False))
    for now in range(30):
        assert ws.tick(float(now)) is None
        assert ws.receive(frame(PING)) == []
    ended = ws.tick(30.0)
    assert ended is not None
    assert (ended.code, ended.reason) == (1008, UNFINISHED)


def test_a_message_that_we_do_not_read_is_not_the_peers_fault() -> None:
    ws = websocket(message_timeout=30)
    ws.receive(frame(TEXT, b"a" * 100)[:50])
    assert ws.tick(0.0) is None
    for now in range(10, 1000, 10):
        assert ws.tick(float(now), paused=True) is None
    assert ws.tick(1000.0) is None  # counts from zero
    assert ws.tick(1029.0) is None
    assert ws.tick(1030.0) is not None


def test_a_message_that_we_left_for_later_is_not_the_peers_fault() -> None:
    ws = websocket(deflate=True, message_timeout=30)
    first = frame(BINARY, deflated(bytes(1000))[:5], rsv=COMPRESSED, fin=False)
    ws.receive(first)
    assert len(ws.receive(frame(CONTINUATION, deflated(bytes(1000))[5:]) + first + frame(PONG), 1)) == 1
    assert ws.has_more
    for now in range(0, 100, 10):
        assert ws.tick(float(now)) is None
    assert ws.receive(b"") == [PongReceived(b"")]
    assert not ws.has_more
    assert ws.tick(100.0) is None
    assert ws.tick(130.0) is not None


def test_an_unfinished_message_does_not_end_a_closing_connection() -> None:
    ws = websocket(message_timeout=30)
    ws.receive(frame(TEXT, b"a", fin=False))
    ws.tick(0.0)
    ws.close(1000, "")
    assert ws.tick(100.0) is None
    assert ws.receive(close_frame()) == [Ended(1000, "", True, b"")]


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", [frame(3), close_frame(), b"\x81\xff" + b"\xff" * 8], ids=["error", "close", "length"]
)
def test_nothing_is_kept_after_the_end(ending: bytes) -> None:
    ws = websocket(deflate=True)
    ws.receive(frame(TEXT, b"a" * 1000, fin=False) + frame(PING, b"p" * 100))
    assert isinstance(ws.receive(ending)[-1], Ended)
    chunk = b"\x82\x7e" * 512 * 1024

    def feed() -> None:
        for _ in range(50):
            assert ws.receive(chunk) == []

    assert max(memory_of(feed)) < 10_000


@pytest.mark.parametrize("begun", [b"", frame(TEXT, b"a", fin=False), frame(TEXT, b"a" * 10, length=20)])
def test_input_after_our_close_is_dropped(begun: bytes) -> None:
    ws = websocket(deflate=True)
    ws.receive(begun)
    ws.close(1000, "")
    if begun:
        ws.receive(frame(CONTINUATION, b"b") if begun[0] == 1 else frame(TEXT, b"b" * 10, length=20)[6:])
    message = frame(BINARY, bytes(60_000))

    def feed() -> None:
        for _ in range(100):
            assert ws.receive(message) == []

    left, peak = memory_of(feed)
    assert left < 10_000
    assert peak < 500_000


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("shape", ["frame", "fragment"])
def test_memory_of_a_message_byte_by_byte(opcode: int, shape: str) -> None:
    """A message that arrives byte by byte takes little more memory than its bytes."""
    size = MIB // 32
    data = frame(opcode, b"x" * size, fin=shape == "frame")
    ws = websocket()

    def feed() -> None:
        assert dribble(ws, data[:-1]) == []

    left, peak = memory_of(feed)
    assert left < 1.3 * size + 20_000
    assert peak < 2.5 * size + 20_000


def test_memory_of_a_message_in_many_fragments() -> None:
    size, count = 256, 4000
    data = b"".join([frame(CONTINUATION if at else BINARY, b"x" * size, fin=False) for at in range(count)])
    ws = websocket()
    left, peak = memory_of(lambda: [ws.receive(piece) for piece in pieces(data, 1000)])
    assert left < 1.3 * size * count + 50_000
    assert peak < 2.5 * size * count


@pytest.mark.parametrize("cut", [1 << 20, 1000, 10])
@pytest.mark.parametrize("fragments", [False, True])
def test_memory_of_a_bomb(cut: int, fragments: bool) -> None:
    bomb = deflated(bytes(64 * MIB))
    data = frame(BINARY, bomb, rsv=COMPRESSED)
    if fragments:
        data = frame(BINARY, bomb[:9], rsv=COMPRESSED, fin=False) + frame(CONTINUATION, bomb[9:])
    ws = websocket(deflate=True)
    events: list[Received] = []

    def feed() -> None:
        for piece in pieces(data, cut):
            events.extend(ws.receive(piece))

    left, peak = memory_of(feed)
    refused(events, 1009, INFLATES)
    assert left < 20_000
    assert peak < 6 * MIB


def small_bombs(opcode: int, fragments: bool) -> bytes:
    """Return messages of a million bytes, a thousand on the wire; the last character makes a str four times as big."""
    bomb = deflated(b"x" * (MIB - 4) + "😀".encode())
    if fragments:
        return frame(opcode, bomb[:99], rsv=COMPRESSED, fin=False) + frame(PONG) + frame(CONTINUATION, bomb[99:])
    return frame(opcode, bomb, rsv=COMPRESSED)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fragments", [False, True])
@pytest.mark.parametrize("cut", [1 << 20, 5000])
def test_memory_of_many_bombs_in_one_read(opcode: int, fragments: bool, cut: int) -> None:
    """Each message is within the limit; `receive` returns them in several calls."""
    count = 20
    data = small_bombs(opcode, fragments) * count
    ws = websocket(deflate=True)
    sizes: list[int] = []

    def feed() -> None:
        for piece in pieces(data, cut):
            received = take(ws, piece)
            while True:
                sizes.append(sum(not isinstance(event, PongReceived) for event in received))
                if not ws.has_more:
                    break
                received = take(ws, b"")

    def take(ws: WebSocket, piece: bytes) -> list[Received]:
        return ws.receive(piece, MIB)

    _, peak = memory_of(feed)
    assert sum(sizes) == count
    assert max(sizes) == 1
    assert peak < 20 * MIB  # for text: the input, the inflated bytes, and two copies with four bytes for each character


# -- CPU time ----------------------------------------------------------------------------------------------------------


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def grows_linearly(work: Callable[[int], object], size: int) -> bool:
    """Return whether twice the size takes about twice the time; quadratic work would take four times as much."""
    return any(seconds(lambda: work(2 * size)) < 3 * seconds(lambda: work(size)) for _ in range(5))


@pytest.mark.parametrize("shape", ["frame", "fragment", "compressed"])
def test_the_time_for_a_message_byte_by_byte_is_linear(shape: str) -> None:
    def work(size: int) -> None:
        payload = (
            deflated(bytes(number * number % 251 for number in range(size))) if shape == "compressed" else bytes(size)
        )
        rsv = COMPRESSED if shape == "compressed" else 0
        dribble(websocket(deflate=True), frame(BINARY, payload, fin=shape == "frame", rsv=rsv))

    assert grows_linearly(work, 20_000)


@pytest.mark.parametrize(
    "unit",
    [frame(TEXT, b"x"), frame(TEXT, b"x", fin=False) + frame(CONTINUATION), frame(PONG)],
    ids=["messages", "fragments", "pongs"],
)
def test_the_time_for_many_frames_in_one_piece_is_linear(unit: bytes) -> None:
    def work(count: int) -> None:
        assert len(websocket(control_frames_burst=1 << 30).receive(unit * count)) == count

    assert grows_linearly(work, 5_000)
