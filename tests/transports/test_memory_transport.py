"""The in-memory pipe: examples, and one property over every sequence of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._transports.memory import MemoryTransport, memory_pipe


class Recorder:
    """A protocol that records its calls."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.keep_open = False
        self.on_data: Callable[[bytes], None] | None = None

    @property
    def received(self) -> bytes:
        return b"".join(event for event in self.events if isinstance(event, bytes))

    def connection_made(self, transport: MemoryTransport) -> None:
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.events.append(data)
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(type(exc) if exc else "lost")


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def pair(**options: Any) -> tuple[Recorder, Recorder, MemoryTransport, MemoryTransport]:
    left, right = Recorder(), Recorder()
    return left, right, *memory_pipe(left, right, **options)


def test_nothing_moves_before_pump() -> None:
    left, right, a, b = pair()
    a.write(b"to the right")
    b.write(b"to the left")
    assert left.events == right.events == ["made"]
    assert a.get_write_buffer_size() == 12
    a.pump()
    assert left.events == ["made", b"to the left"]
    assert right.events == ["made", b"to the right"]
    assert a.get_write_buffer_size() == 0


def test_writes_are_joined_and_cut() -> None:
    _, right, a, _ = pair(cut=bytewise)
    a.write(b"ab")
    a.write(b"c")
    a.pump()
    assert right.events == ["made", b"a", b"b", b"c"]
    _, right, a, _ = pair()
    a.write(b"ab")
    a.write(b"c")
    a.pump()
    assert right.events == ["made", b"abc"]


def test_pump_continues_until_both_sides_are_idle() -> None:
    left, right, a, b = pair()

    def count_down(data: bytes) -> None:
        for transport in (a, b):
            transport.pump()  # from inside a delivery it does nothing
        if len(data) > 1:
            (b if right.events[-1] is data else a).write(data[1:])

    left.on_data = right.on_data = count_down
    a.write(b"12345")
    b.pump()
    assert left.events[1:] == [b"2345", b"45"]
    assert right.events[1:] == [b"12345", b"345", b"5"]


def test_pause_reading_in_the_middle_of_a_delivery() -> None:
    _, right, a, b = pair(cut=bytewise)
    right.on_data = lambda data: b.pause_reading() if data == b"b" else None
    a.write(b"abcd")
    a.pump()
    assert right.received == b"ab"
    assert a.get_write_buffer_size() == 2
    b.resume_reading()
    a.pump()
    assert right.received == b"abcd"


def test_write_limits() -> None:
    left, _, a, b = pair()
    a.set_write_buffer_limits(high=3, low=1)
    b.pause_reading()
    a.write(b"123")
    assert left.events == ["made"]
    a.write(b"4")
    a.write(b"5")
    assert left.events == ["made", "pause"]
    a.pump()
    assert left.events == ["made", "pause"]
    b.resume_reading()
    a.pump()
    assert left.events == ["made", "pause", "resume"]
    with pytest.raises(ValueError, match="high"):
        a.set_write_buffer_limits(high=1, low=2)


def test_writing_resumes_at_the_low_limit_and_not_above() -> None:
    left, right, a, b = pair(cut=bytewise)
    a.set_write_buffer_limits(high=4, low=2)
    right.on_data = lambda _: b.pause_reading()
    a.write(b"12345")
    for rest in (4, 3):
        b.resume_reading()
        a.pump()
        assert a.get_write_buffer_size() == rest
        assert left.events == ["made", "pause"]
    b.resume_reading()
    a.pump()
    assert a.get_write_buffer_size() == 2
    assert left.events == ["made", "pause", "resume"]


def test_close_delivers_first() -> None:
    left, right, a, b = pair()
    a.write(b"bye")
    b.write(b"never read")
    a.close()
    a.write(b"too late")
    assert a.is_closing()
    assert left.events == ["made"]
    a.pump()
    assert left.events == ["made", "lost"]
    assert right.events == ["made", b"bye", "eof", "lost"]
    assert b.is_closing()


def test_close_waits_until_the_peer_reads() -> None:
    left, right, a, b = pair()
    b.pause_reading()
    a.write(b"bye")
    a.close()
    a.pump()
    assert left.events == right.events == ["made"]
    b.resume_reading()
    a.pump()
    assert right.events == ["made", b"bye", "eof", "lost"]


def test_abort_drops_and_resets() -> None:
    left, right, a, _ = pair()
    a.write(b"dropped")
    a.abort()
    assert left.events == ["made"]
    a.pump()
    assert left.events == ["made", "lost"]
    assert right.events == ["made", ConnectionResetError]


def test_a_protocol_can_continue_after_the_end_of_the_stream() -> None:
    left, right, a, b = pair()
    right.keep_open = True
    a.close()
    a.pump()
    b.write(b"unread")
    a.pump()
    assert right.events == ["made", "eof"]
    assert b.get_write_buffer_size() == 0
    b.close()
    b.pump()
    assert right.events == ["made", "eof", "lost"]
    assert left.events == ["made", "lost"]


@pytest.mark.parametrize("how", ["close", "abort"])
def test_ending_inside_a_delivery(how: str) -> None:
    _, right, a, b = pair(cut=bytewise)
    right.on_data = lambda _: getattr(b, how)()
    a.write(b"xyz")
    a.pump()
    assert right.events == ["made", b"x", "lost"]


def test_the_sender_may_abort_inside_a_delivery() -> None:
    left, right, a, _ = pair(cut=bytewise)
    right.on_data = lambda _: a.abort()
    a.write(b"xyz")
    a.pump()
    assert left.events == ["made", "lost"]
    assert right.events == ["made", b"x", ConnectionResetError]


def test_set_protocol_in_the_middle() -> None:
    _, right, a, b = pair(cut=bytewise)
    second = Recorder()
    right.on_data = lambda _: b.set_protocol(second)
    a.write(b"xyz")
    a.close()
    a.pump()
    assert right.events == ["made", b"x"]
    assert second.events == [b"y", b"z", "eof", "lost"]


def test_nothing_happens_after_the_end() -> None:
    left, right, a, b = pair()
    a.abort()
    a.pump()
    events = list(left.events), list(right.events)
    for transport in (a, b):
        transport.write(b"x")
        transport.set_write_buffer_limits(0)
        transport.close()
        transport.abort()
        transport.pump()
    assert (left.events, right.events) == events


def test_extra_info() -> None:
    *_, a, b = pair(extra={"peername": ("192.0.2.1", 5)})
    assert a.get_extra_info("peername") == b.get_extra_info("peername") == ("192.0.2.1", 5)
    assert a.get_extra_info("ssl_object", 7) == 7


operations = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.tuples(st.just("write"), st.binary(max_size=8)),
            st.tuples(st.just("set_write_buffer_limits"), st.integers(0, 20)),
            st.tuples(st.sampled_from(["pump", "pause_reading", "resume_reading", "close", "abort"])),
        ),
    ),
    max_size=40,
)


@given(operations, st.sampled_from([None, bytewise, lambda data: [data[:3], b"", data[3:]]]))
def test_any_sequence_of_operations(script: list[tuple[int, tuple[Any, ...]]], cut: Any) -> None:
    protocols = Recorder(), Recorder()
    ends = memory_pipe(*protocols, cut=cut)
    written = [b"", b""]
    aborted = [False, False]
    for side, (name, *arguments) in script:
        if name == "write" and not ends[side].is_closing():
            written[side] += arguments[0]
        aborted[side] |= name == "abort"
        getattr(ends[side], name)(*arguments)
    closed_first = [end.is_closing() for end in ends]
    for end in ends:
        end.resume_reading()
        end.pump()
    for side in (0, 1):
        received, sent = protocols[1 - side].received, written[side]
        assert sent.startswith(received)
        if not any(closed_first) and not any(aborted):
            assert received == sent
        if closed_first[side] and not closed_first[1 - side] and not aborted[side]:
            assert received == sent
        ends[side].close()
    ends[0].pump()
    for protocol in protocols:
        endings = [event for event in protocol.events if event in ("lost", ConnectionResetError)]
        assert len(endings) == 1
        assert protocol.events[-1] == endings[0]
        assert protocol.events[0] == "made"
        pressure = [event for event in protocol.events if event in ("pause", "resume")]
        assert pressure == (["pause", "resume"] * len(pressure))[: len(pressure)]
