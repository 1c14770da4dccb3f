"""The router of the local bus beside a model of it: every worker gets what the model says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pywsapp._transports.memory import memory_pipe
from pywsapp.brokers.base import Keep, Outgoing
from pywsapp.brokers.local import router as router_module
from pywsapp.brokers.local.frames import (
    BEGIN,
    CONFIRM,
    KEPT,
    LONG_COUNT,
    MESSAGES,
    PLACED,
    SUBSCRIBE,
    UNSUBSCRIBE,
    FrameReader,
    encode,
    encode_lists,
    encode_messages,
    items_of,
)
from pywsapp.brokers.local.router import BusRouter
from pywsapp.topics.names import TopicPattern

NAMES = ["a", "a:1", "a:2", "b"]
WORKERS = 3
#: What came on each topic: plain messages, and kept ones with their offsets.
Received = dict[str, list[bytes]]

names = st.lists(st.sampled_from(NAMES), max_size=3)
steps = st.one_of(
    st.tuples(st.just("subscribe"), names),
    st.tuples(st.just("unsubscribe"), names),
    st.tuples(st.just("begin"), st.sampled_from(["a:*", "*", "b"])),
    st.tuples(st.just("publish"), names),
    st.tuples(st.just("publish_kept"), names),
    st.tuples(st.just("leave"), st.none()),
)
turns = st.tuples(st.integers(0, WORKERS - 1), st.lists(steps, min_size=1, max_size=5))


class Raw:
    """A worker's end of a pipe in memory."""

    def __init__(self) -> None:
        self.reader = FrameReader()
        self.received: Received = {}
        self.lost = False

    def connection_made(self, transport: Any) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def eof_received(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        for frame in self.reader.read(data):
            received = self.received.setdefault(frame[2].decode(), [])
            items = items_of(self.reader.buffer, frame)
            kind = frame[0] & ~CONFIRM
            if kind == MESSAGES:
                received += items
            elif kind == KEPT:
                received.append(b"%s at %s" % (items[1], items[0].partition(b"-")[0]))
            elif kind == PLACED:
                received.append(b"own %d at %s" % (LONG_COUNT.unpack(items[2])[0], items[0].partition(b"-")[0]))


class Model:
    """A router of real frames through pipes in memory, and the messages that each worker should get."""

    def __init__(self, size: int) -> None:
        self.router = BusRouter()
        self.ends = [Raw() for _ in range(WORKERS)]
        self.expected: list[Received] = [{} for _ in self.ends]
        self.topics: dict[int, set[str]] = {number: set() for number in range(WORKERS)}
        self._patterns: list[list[TopicPattern]] = [[] for _ in self.ends]
        self._offsets = dict.fromkeys(NAMES, 0)
        self._published = 0
        self._pipes = [
            memory_pipe(end, self.router.connection(number), cut=lambda data: _cut(data, size))[0]
            for number, end in enumerate(self.ends)
        ]

    def pump(self) -> None:
        """Deliver everything: first to the router, then to the workers."""
        for pipe in self._pipes * 2:
            pipe.pump()

    def do(self, worker: int, what: str, argument: Any) -> None:
        """Let a worker do something, if it is connected."""
        if worker in self.topics:
            getattr(self, what)(worker, argument)

    def subscribe(self, worker: int, names: list[str]) -> None:
        self.topics[worker] |= set(names)
        self._write(worker, encode_lists(SUBSCRIBE, [name.encode() for name in names]))

    def unsubscribe(self, worker: int, names: list[str]) -> None:
        self.topics[worker] -= set(names)
        self._write(worker, encode_lists(UNSUBSCRIBE, [name.encode() for name in names]))

    def begin(self, worker: int, pattern: str) -> None:
        self.topics[worker].clear()
        self._patterns[worker] = [TopicPattern(pattern)]
        self._write(worker, [encode(BEGIN, b"", [pattern.encode()])])

    def publish(self, worker: int, names: list[str]) -> None:
        outgoing = [Outgoing(name, b"%d by %d" % (number, worker)) for number, name in enumerate(names)]
        for name, data, _ in outgoing:
            for other in self._subscribers(name):
                if other != worker:
                    self.expected[other].setdefault(name, []).append(data)
        self._write(worker, encode_messages(outgoing))

    def publish_kept(self, worker: int, names: list[str]) -> None:
        outgoing = []
        for name in names:
            self._published += 1
            self._offsets[name] += 1
            data, offset = b"kept %d by %d" % (self._published, worker), self._offsets[name]
            outgoing.append(Outgoing(name, data, Keep((f"process {worker}", self._published), 5, 60)))
            for other in self._subscribers(name):
                content = b"own %d" % self._published if other == worker else data
                self.expected[other].setdefault(name, []).append(b"%s at %d" % (content, offset))
        self._write(worker, encode_messages(outgoing))

    def leave(self, worker: int, _: None) -> None:
        self.pump()
        del self.topics[worker]
        self._pipes[worker].abort()
        self.pump()

    def _subscribers(self, name: str) -> list[int]:
        return [
            worker
            for worker, topics in self.topics.items()
            if name in topics or any(pattern.matches(name) for pattern in self._patterns[worker])
        ]

    def _write(self, worker: int, frames: list[bytes]) -> None:
        self._pipes[worker].write(b"".join(frames))


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@settings(deadline=None)
@given(st.lists(turns, max_size=12), st.sampled_from([1, 7, 64, 1 << 20]))
@example([(0, [("subscribe", ["a"]), ("publish", ["a"]), ("subscribe", ["b"]), ("publish", ["a"])])], 1 << 20)
@example([(0, [("begin", "*"), ("publish", ["a"]), ("leave", None)])], 1 << 20)
@example([(0, [("begin", "*")]), (1, [("begin", "*"), ("publish_kept", ["a", "a"]), ("publish", ["a"])])], 1 << 20)
def test_every_worker_gets_what_the_model_says(done: list[Any], size: int) -> None:
    model = Model(size)
    for worker, steps in done:
        for what, argument in steps:
            model.do(worker, what, argument)
        model.pump()
    received = [{name: came for name, came in end.received.items() if came} for end in model.ends]
    assert received == model.expected
    assert model.router.stats.workers == len(model.topics)
    assert model.router.stats.topics == len(set().union(*model.topics.values()))
    assert all(worker in model.router._workers for name in NAMES for worker in model.router.route(name.encode()))


def test_the_cache_of_routes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "_MAX_ROUTES", 10)
    router = BusRouter()
    for number in range(100):
        assert router.route(b"%d" % number) == ()
    assert len(router._routes) <= 10
