"""Any bytes are frames of the local bus or refused, the same wherever they are cut; a frame is encoded as it came.

The router survives any bytes of a worker, and other workers receive whole frames only.
"""

from __future__ import annotations

import itertools
import logging
from typing import Any

from harness import check_text, fuzz, instrumented, pieces

with instrumented():
    from pywsapp.brokers.base import Keep, Outgoing
    from pywsapp.brokers.local.frames import (
        BEGIN,
        CONFIRM,
        HEAD,
        KEEP,
        KEPT,
        LONG_COUNT,
        MAX_FRAME,
        MESSAGES,
        READ,
        SUBSCRIBE,
        UNSUBSCRIBE,
        BusError,
        FrameReader,
        decode_keep,
        decode_text,
        encode,
        encode_lists,
        encode_messages,
        items_of,
    )
    from pywsapp.brokers.local.router import BusRouter

logging.getLogger("pywsapp").setLevel(logging.CRITICAL)  # the router logs workers that send invalid frames

MAX_TEXT = 1500  # characters of a message that is logged


class Transport:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_aborted = False

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Do nothing: it never asks to pause."""

    def write(self, data: bytes) -> None:
        assert not self.is_aborted
        self.written += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def read(parts: list[bytes]) -> tuple[list[tuple[int, bytes, list[bytes]]], str]:
    """Return the frames in a stream and the text of the error that ended them."""
    reader, found = FrameReader(), list[tuple[int, bytes, list[bytes]]]()
    for part in parts:
        try:
            for frame in reader.read(part):
                kind, count, name, start, _, end = frame
                items = items_of(reader.buffer, frame)
                assert len(items) == count
                assert encode(kind, name, items) == reader.buffer[start:end]
                found.append((kind, name, items))
        except BusError as exc:
            check_text(exc, MAX_TEXT)
            return found, str(exc)
    return found, ""


def check_values(items: list[bytes]) -> None:
    """Check that items are read as a rule for keeping and as a name, or refused."""
    for process, how in itertools.pairwise(items):
        try:
            keep = decode_keep(process, how)
        except BusError as exc:
            check_text(exc, MAX_TEXT)
            continue
        assert 0 <= keep.seconds <= 1e12
        (frame,) = encode_messages([Outgoing("t", b"x", keep)])
        ((kind, name, (again, as_kept, data)),), _ = read([frame])
        assert (kind, name, data) == (KEEP | CONFIRM, b"t", b"x")
        assert (again, as_kept) == (process, how)


def check_router(parts: list[bytes]) -> None:
    router = BusRouter(clock=lambda: 1.0, max_histories=50, max_history_bytes=100_000)
    workers, transports = [router.connection(number) for number in range(2)], [Transport() for _ in range(2)]
    for worker, transport in zip(workers, transports, strict=True):
        worker.connection_made(transport)
    workers[1].data_received(encode(BEGIN, b"", [b"*"]))
    for part in parts:
        if not transports[0].is_aborted:
            workers[0].data_received(part)
    for transport in transports:
        _, fault = read([transport.written])
        assert not fault
    assert not transports[1].is_aborted, "another worker"
    assert router.stats.workers == 2 - transports[0].is_aborted
    workers[0].close()
    workers[1].close()
    assert router.stats[:2] == (0, 0)


def check_batches(items: list[bytes]) -> None:
    """Check that messages come out of their frames in the order in which they went in."""
    topics = ["a", "b:c", "a"]
    messages = [Outgoing(topics[len(item) % 3], item) for item in items]
    found, fault = read(encode_messages(messages))
    assert not fault
    for topic in set(topics):
        received = [item for _, name, items in found if name == topic.encode() for item in items]
        assert received == [message.data for message in messages if message.topic == topic]
    lists, fault = read(encode_lists(SUBSCRIBE, items))
    assert [item for _, _, items in lists for item in items] == items


def one_input(data: bytes) -> None:
    """Run one input: three bytes of cuts, and a stream."""
    stream = data[3:]
    parts = list(pieces(stream, data[:3]))
    whole, cut = read([stream]), read(parts)
    assert whole == cut
    for _, name, items in whole[0]:
        assert HEAD.size + len(name) + sum(map(len, items)) <= MAX_FRAME + HEAD.size
        check_values(items)
        check_batches(items)
    check_router(parts)
    try:
        decode_text(stream)
    except BusError as exc:
        check_text(exc, MAX_TEXT)


def seeds() -> list[bytes]:
    keep = Keep(("process", 7), 10, 60.0)
    kept = encode_messages([Outgoing("room:1", b"one"), Outgoing("room:1", b"two", keep), Outgoing("b", b"")])
    streams: list[Any] = [
        encode(BEGIN, b"me", [b"room:*", b"x"]) + encode(MESSAGES, b"room:1", [b"m"]),
        encode(SUBSCRIBE | CONFIRM, b"", [b"room:1", b"room:2"]) + encode(UNSUBSCRIBE, b"", [b"room:1"]),
        encode(MESSAGES, b"room:1", [b"one", b"", b"three"]) * 3,
        b"".join(kept),
        kept[1] + encode(READ, b"room:1", [LONG_COUNT.pack(1000), b""]),
        kept[1] + encode(READ, b"room:1", [LONG_COUNT.pack(1 << 40), b"0-x"]),
        encode(READ, b"room:1", [b"short", b""]),
        encode(KEPT, b"x", [b"1-a", b"x"]),
        encode(BEGIN, b"", [b"**"]) + encode(MESSAGES, b"\xff", [b"x"]),
        encode(MESSAGES, b"", []) + encode(200, b"n" * 255, [b""] * 20),
        HEAD.pack(MAX_FRAME + 1, MESSAGES, 0, 1),
        HEAD.pack(12, MESSAGES, 0, 3) + b"\xff\xff\xff\xff" * 3,
        HEAD.pack(2, MESSAGES, 3, 1) + b"ab",
        HEAD.pack(4, MESSAGES, 0, 65535) + b"abcd",
    ]
    return [cuts + stream for cuts in (b"\1\0\0", b"\5\3\7") for stream in streams]


if __name__ == "__main__":
    fuzz(one_input, seeds())
