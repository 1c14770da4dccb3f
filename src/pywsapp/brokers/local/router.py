"""The local bus: what carries messages between the worker processes of one machine, with nothing else installed.

    worker 1   LocalBroker --socket--+
    worker 2   LocalBroker --socket--+-- BusRouter    the supervisor
    worker 3   LocalBroker --socket--+

The router knows which worker wants which topic, and passes on the bytes of what was published as they came. It looks
at the heads of frames only; neighbours that go the same way go as one piece; and all that one read brings leaves in one
write for each worker. It keeps histories, since it lives longer than any worker.

Who is slow pays for it alone. What a worker does not read is queued for it up to a limit. Then messages to it are left
out and counted, nothing is read from it, and when it has read half of what is queued it is told how many are missing.
The others, and those who publish, do not notice: publishing waits only for the router to take a message.

A worker that says what has no meaning loses its connection, and only that.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pywsapp._outbox.outbox import write_all
from pywsapp._transports.adopt import adopt_socket
from pywsapp.brokers.base import MIB, Kept, Position
from pywsapp.brokers.local.frames import (
    ASK,
    BEGIN,
    BEGUN,
    COUNT,
    GAP,
    HISTORY_END,
    KEEP,
    KEPT,
    LONG_COUNT,
    MESSAGES,
    READ,
    SUBSCRIBE,
    TAKEN,
    UNSUBSCRIBE,
    BusError,
    Cut,
    FrameCutter,
    decode_keep,
    decode_text,
    encode,
    encode_history,
    items_of,
)
from pywsapp.exceptions import PywsappError
from pywsapp.topics.history.memory_store import MemoryHistory
from pywsapp.topics.names import TopicPattern

logger = logging.getLogger("pywsapp")

#: Bytes that are queued for a worker that does not read.
QUEUE_LIMIT = 64 * MIB
#: Topics whose ways are remembered; then it begins anew.
_MAX_ROUTES = 50_000
_TAKEN_ONE = encode(TAKEN, b"", [COUNT.pack(1)])


class BusStats(NamedTuple):
    """What a router has done.

    Args:
        workers: that are connected now.
        topics: that some of them subscribe to.
        taken: messages that were published.
        dropped: messages that were left out for workers that did not read.
    """

    workers: int
    topics: int
    taken: int
    dropped: int


class BusRouter:
    """Carries messages between workers; lives in the supervisor, on any event loop.

    Args:
        queue_limit: bytes that are queued for each worker; one write may go beyond.
        clock: gives the time in seconds, for the histories.
    """

    def __init__(self, queue_limit: int = QUEUE_LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue_limit = queue_limit
        self.history = MemoryHistory(clock)
        self._workers: dict[_Worker, None] = {}
        self._subscribers: dict[bytes, dict[_Worker, None]] = {}
        self._routes: dict[bytes, Sequence[_Worker]] = {}
        self.taken = self.dropped = 0

    @property
    def stats(self) -> BusStats:
        """What it has done so far."""
        return BusStats(len(self._workers), len(self._subscribers), self.taken, self.dropped)

    def attach(self, number: int, sock: socket.socket) -> None:
        """Serve a worker until its socket ends; to be called in a task, and does not block.

        Args:
            number: names the worker in logs.
            sock: this end of a pair of stream sockets; the router owns it from now on.
        """
        adopt_socket(sock, self.link(number))

    def link(self, number: int) -> _Worker:
        """Give the link for a worker, for any transport."""
        worker = _Worker(self, number)
        self._workers[worker] = None
        return worker

    def close(self) -> None:
        """End all connections; does not block."""
        for worker in list(self._workers):
            worker.end()

    # -- what its links ask ------------------------------------------------------------------------------------------

    def route(self, topic: bytes) -> Sequence[_Worker]:
        """Give the workers that a message on a topic goes to."""
        route = self._routes.get(topic)
        if route is None:
            name = decode_text(topic)
            found = dict(self._subscribers.get(topic, ()))
            for worker in self._workers:
                if any(pattern.matches(name) for pattern in worker.patterns):
                    found[worker] = None
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            route = self._routes[topic] = tuple(found)
        return route

    def put(self, route: Sequence[_Worker], piece: bytes, number: int, waiting: dict[_Worker, None]) -> None:
        """Put a piece with so many messages into outboxes; `waiting` then has those to be flushed."""
        self.taken += number
        for worker in route:
            if worker.full:
                worker.missing += number
                self.dropped += number
            else:
                worker.outbox.append(piece)
                waiting[worker] = None

    def subscribe(self, worker: _Worker, topics: Iterable[bytes]) -> None:
        """Send a worker what is published on topics."""
        for topic in topics:
            worker.topics.add(topic)
            self._subscribers.setdefault(topic, {})[worker] = None
            self._routes.pop(topic, None)

    def unsubscribe(self, worker: _Worker, topics: Iterable[bytes]) -> None:
        """Undo that."""
        for topic in topics:
            worker.topics.discard(topic)
            subscribers = self._subscribers.get(topic, {})
            subscribers.pop(worker, None)
            if not subscribers:
                self._subscribers.pop(topic, None)
            self._routes.pop(topic, None)

    def begin(self, worker: _Worker, patterns: list[TopicPattern]) -> None:
        """Forget what a worker wanted, and send it what is published on the topics of patterns."""
        self.unsubscribe(worker, list(worker.topics))
        if worker.patterns or patterns:
            self._routes.clear()
        worker.patterns = patterns

    def forget(self, worker: _Worker) -> None:
        """Take note that a worker is gone."""
        if worker in self._workers:
            self.begin(worker, [])
            del self._workers[worker]


class _Worker:
    """The router's link to one worker."""

    def __init__(self, router: BusRouter, number: int) -> None:
        self.number = number
        self.patterns: list[TopicPattern] = []
        self.topics: set[bytes] = set()
        self.outbox: list[bytes] = []  # what leaves with the next write
        self.missing = 0  # messages left out since the worker does not read; if it does, 0
        self.full = False
        self._asked = 0  # frames with ASK that it was not told of
        self._read_bytes = 0  # of histories in the outbox
        self._router = router
        self._cutter = FrameCutter()
        self._transport: Any = None
        self._ended = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(self._router.queue_limit, self._router.queue_limit // 2)
        if self._ended:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        waiting: dict[_Worker, None] = {self: None}
        try:
            self._take(data, waiting)
        except PywsappError as exc:
            logger.error("worker %d is cut off from the bus, for what it says has no meaning: %s", self.number, exc)
            self.end()
        for worker in waiting:
            worker.flush()

    def eof_received(self) -> None:
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    def pause_writing(self) -> None:
        self.full = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.full = False
        if self._ended:
            return
        if self.missing:
            logger.warning("worker %d did not read; %d messages to it were left out", self.number, self.missing)
            self.outbox.append(encode(GAP, b"", [LONG_COUNT.pack(self.missing)]))
            self.missing = 0
        self.flush()
        # That may have filled the queue again.
        if not self.full and not self._transport.is_closing():
            self._transport.resume_reading()

    def end(self) -> None:
        """End the connection; safe to call again."""
        if not self._ended:
            self._ended = True
            self._router.forget(self)
            if self._transport is not None:
                self._transport.abort()

    def flush(self) -> None:
        """Write what is in the outbox."""
        if self._ended:
            return
        if self._asked:
            self.outbox.append(_TAKEN_ONE if self._asked == 1 else encode(TAKEN, b"", [COUNT.pack(self._asked)]))
            self._asked = 0
        outbox = self.outbox
        if outbox:
            self.outbox = []
            self._read_bytes = 0
            if len(outbox) == 1:
                self._transport.write(outbox[0])
            else:
                write_all(self._transport, outbox)

    def _take(self, data: bytes, waiting: dict[_Worker, None]) -> None:
        """Work off what came; those whose outboxes get something are added to `waiting`."""
        cutter, router = self._cutter, self._router
        route: Sequence[_Worker] = ()
        start = stop = number = 0  # the piece of the buffer that goes to these, and how many messages are in it
        try:
            for frame in cutter.cut(data):
                kind, count, name, at, _, end = frame
                if kind & ASK:
                    self._asked += 1
                    kind ^= ASK
                if kind == MESSAGES:
                    found = router.route(name)
                    if found == route:
                        stop = end
                        number += count
                        continue
                    self._pass(route, start, stop, number, waiting)
                    route, start, stop, number = found, at, end, count
                else:
                    self._pass(route, start, stop, number, waiting)
                    route, number = (), 0
                    self._obey(kind, frame, waiting)
        finally:
            self._pass(route, start, stop, number, waiting)

    def _pass(self, route: Sequence[_Worker], start: int, stop: int, number: int, waiting: dict[_Worker, None]) -> None:
        if number:
            self._router.put(route, self._cutter.buffer[start:stop] if route else b"", number, waiting)

    def _obey(self, kind: int, frame: Cut, waiting: dict[_Worker, None]) -> None:
        _, count, name, _, _, _ = frame
        items = items_of(self._cutter.buffer, frame)
        if kind == BEGIN:
            self._router.begin(self, [TopicPattern(decode_text(item)) for item in items])
            self.outbox.append(encode(BEGUN, name, []))
        elif kind == SUBSCRIBE:
            self._router.subscribe(self, items)
        elif kind == UNSUBSCRIBE:
            self._router.unsubscribe(self, items)
        elif kind == KEEP and count == 3:
            self._keep(name, items, waiting)
        elif kind == READ and count == 1:
            self._read(decode_text(name), items[0])
        else:
            raise BusError(f"no worker sends frames of kind {kind} with {count} items")

    def _keep(self, topic: bytes, items: Sequence[bytes], waiting: dict[_Worker, None]) -> None:
        process, how, data = items
        position = self._router.history.append(decode_text(topic), data, decode_keep(process, how))
        if position is not None:
            frame = encode(KEPT, topic, [str(position).encode(), data])
            self._router.put(self._router.route(topic), frame, 1, waiting)

    def _read(self, topic: str, since: bytes) -> None:
        kept = self._router.history.read(topic, Position.parse(decode_text(since)) if since else None)
        size = self._read_bytes + sum(len(data) for _, data in kept.messages)
        if size + self._transport.get_write_buffer_size() > self._router.queue_limit:
            # As one that has forgotten them: the limit holds, and who asks knows that something is missing.
            kept = Kept(kept.position, (), not kept.messages and kept.complete)
        else:
            self._read_bytes = size
        self.outbox += encode_history(kept.messages)
        self.outbox.append(encode(HISTORY_END, b"", [str(kept.position).encode(), b"1" if kept.complete else b""]))
