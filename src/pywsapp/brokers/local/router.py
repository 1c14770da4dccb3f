"""The router of the local bus: carries messages between the worker processes of one machine, without other software.

    worker 1   LocalBroker --socket--+
    worker 2   LocalBroker --socket--+-- BusRouter    the supervisor
    worker 3   LocalBroker --socket--+

The router knows which worker subscribes to which topic, and passes the bytes of published messages on as they came. It
parses the heads of frames only. Adjacent frames for the same workers are passed on as one piece, and everything that
one read brings leaves in one write for each worker. The router keeps the histories, since it outlives the workers.

A plain message is not sent back to the worker that published it. The publisher of a kept message gets only its
position.

A slow worker does not slow down others. The router queues up to a limit what a worker does not read. Then it
leaves out and counts further messages to this worker, and reads nothing from it. When the worker has read half of the
queue, the router reports how many messages it missed. Publishers and other workers do not notice: publishing waits
until the router has the message.

A worker that sends an invalid frame loses its connection; the others are not affected.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pywsapp._log_fields import log_fields
from pywsapp._outbox.outbox import write_all
from pywsapp._transports.adopt import adopt_socket
from pywsapp.brokers.base import MIB, Kept, Position
from pywsapp.brokers.local.frames import (
    BEGIN,
    BEGUN,
    CONFIRM,
    CONFIRMED,
    COUNT,
    HISTORY_END,
    KEEP,
    KEPT,
    LONG_COUNT,
    MESSAGES,
    MISSED,
    PLACED,
    READ,
    SUBSCRIBE,
    UNSUBSCRIBE,
    BusError,
    Frame,
    FrameReader,
    decode_keep,
    decode_text,
    encode,
    encode_history,
    items_of,
)
from pywsapp.exceptions import PywsappError
from pywsapp.topics.history.memory_store import MAX_BYTES, MAX_TOPICS, MemoryHistory, keep_expiring
from pywsapp.topics.names import TopicPattern

logger = logging.getLogger("pywsapp")

#: Bytes that are queued for a worker that does not read.
QUEUE_LIMIT = 64 * MIB
#: Topics whose routes are cached; when there are more, the cache is cleared.
_MAX_ROUTES = 50_000
_ONE_CONFIRMED = encode(CONFIRMED, b"", [COUNT.pack(1)])


class BusStats(NamedTuple):
    """The activity of a router.

    Args:
        workers: workers that are connected now.
        topics: topics that a worker subscribes to.
        accepted: messages that were published.
        dropped: messages that were left out for workers that did not read.
    """

    workers: int
    topics: int
    accepted: int
    dropped: int


class BusRouter:
    """Carries messages between workers. The supervisor creates it, on any event loop.

    Args:
        queue_limit: bytes that are queued for each worker; one write may exceed it.
        clock: returns the time in seconds, for the histories.
        max_histories: topics with a history.
        max_history_bytes: bytes of all histories.
    """

    def __init__(
        self,
        queue_limit: int = QUEUE_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        max_histories: int = MAX_TOPICS,
        max_history_bytes: int = MAX_BYTES,
    ) -> None:
        self.queue_limit = queue_limit
        self.history = MemoryHistory(clock, max_histories, max_history_bytes)
        self._workers: dict[_WorkerConnection, None] = {}
        self._subscribers: dict[bytes, dict[_WorkerConnection, None]] = {}
        self._routes: dict[bytes, Sequence[_WorkerConnection]] = {}
        self.accepted = self.dropped = 0

    @property
    def stats(self) -> BusStats:
        """The activity of the router so far."""
        return BusStats(len(self._workers), len(self._subscribers), self.accepted, self.dropped)

    def attach(self, number: int, sock: socket.socket) -> None:
        """Serve a worker until its socket is closed. Call it in a task; does not block.

        Args:
            number: the worker's number, for logs.
            sock: the supervisor's end of a pair of stream sockets; the router owns it from now on.
        """
        adopt_socket(sock, self.connection(number))

    def connection(self, number: int) -> _WorkerConnection:
        """Return the connection of a new worker, a protocol for any transport."""
        worker = _WorkerConnection(self, number)
        self._workers[worker] = None
        return worker

    async def expire_histories(self) -> None:
        """Free the memory of expired histories until cancelled."""
        await keep_expiring(self.history)

    def close(self) -> None:
        """Close all connections; does not block."""
        for worker in list(self._workers):
            worker.close()

    # -- what connections call ---------------------------------------------------------------------------------------

    def route(self, topic: bytes) -> Sequence[_WorkerConnection]:
        """Return the workers that subscribe to a topic."""
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

    def subscribe(self, worker: _WorkerConnection, topics: Iterable[bytes]) -> None:
        """Send a worker what others publish on topics."""
        for topic in topics:
            worker.topics.add(topic)
            self._subscribers.setdefault(topic, {})[worker] = None
            self._routes.pop(topic, None)

    def unsubscribe(self, worker: _WorkerConnection, topics: Iterable[bytes]) -> None:
        """Undo `subscribe`."""
        for topic in topics:
            worker.topics.discard(topic)
            subscribers = self._subscribers.get(topic, {})
            subscribers.pop(worker, None)
            if not subscribers:
                self._subscribers.pop(topic, None)
            self._routes.pop(topic, None)

    def begin(self, worker: _WorkerConnection, patterns: list[TopicPattern]) -> None:
        """Replace all subscriptions of a worker by patterns."""
        self.unsubscribe(worker, list(worker.topics))
        if worker.patterns or patterns:
            self._routes.clear()
        worker.patterns = patterns

    def remove(self, worker: _WorkerConnection) -> None:
        """Remove a worker whose connection is closed; safe to call again."""
        if worker in self._workers:
            self.begin(worker, [])
            del self._workers[worker]


class _WorkerConnection:
    """The router's connection to one worker, a protocol of its transport.

    Attributes:
        number: the worker's number, for logs.
        patterns: subscribed since BEGIN.
        topics: subscribed since then.
        outbox: what the next write sends.
        missed: messages that were left out since the worker does not read.
        is_full: whether the worker does not read.
    """

    def __init__(self, router: BusRouter, number: int) -> None:
        self.number = number
        self.patterns: list[TopicPattern] = []
        self.topics: set[bytes] = set()
        self.outbox: list[bytes] = []
        self.missed = 0
        self.is_full = False
        self._unconfirmed = 0  # processed frames with CONFIRM
        self._history_bytes = 0  # of kept messages in the outbox, for READ
        self._router = router
        self._reader = FrameReader()
        self._transport: Any = None
        self._closed = False

    # -- what the transport calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(self._router.queue_limit, self._router.queue_limit // 2)
        if self._closed:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        receivers: dict[_WorkerConnection, None] = {self: None}
        try:
            self._process(data, receivers)
        except PywsappError as exc:
            logger.error(
                "worker %d is disconnected from the bus, because it sent an invalid frame: %s",
                self.number,
                exc,
                extra=log_fields("bus.invalid_frame", worker_number=self.number, error=str(exc)),
            )
            self.close()
        for worker in receivers:
            worker.flush()

    def eof_received(self) -> None:
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def pause_writing(self) -> None:
        self.is_full = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        if self._closed:
            return
        if self.missed:
            logger.warning(
                "worker %d did not read; %d messages to it were left out",
                self.number,
                self.missed,
                extra=log_fields("bus.messages_dropped", worker_number=self.number, count=self.missed),
            )
            self.outbox.append(encode(MISSED, b"", [LONG_COUNT.pack(self.missed)]))
            self.missed = 0
        self.flush()
        # The write may have filled the queue again.
        if not self.is_full and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- sending -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; safe to call again."""
        if not self._closed:
            self._closed = True
            self._router.remove(self)
            if self._transport is not None:
                self._transport.abort()

    def put(self, piece: bytes, number: int) -> None:
        """Put a piece with some messages into the outbox, or count them as missed if the worker does not read."""
        if self.is_full:
            self.missed += number
            self._router.dropped += number
        else:
            self.outbox.append(piece)

    def flush(self) -> None:
        """Write the outbox."""
        if self._closed:
            return
        if self._unconfirmed:
            count = self._unconfirmed
            self.outbox.append(_ONE_CONFIRMED if count == 1 else encode(CONFIRMED, b"", [COUNT.pack(count)]))
            self._unconfirmed = 0
        outbox = self.outbox
        if outbox:
            self.outbox = []
            self._history_bytes = 0
            if len(outbox) == 1:
                self._transport.write(outbox[0])
            else:
                write_all(self._transport, outbox)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _process(self, data: bytes, receivers: dict[_WorkerConnection, None]) -> None:
        """Process the frames in the data; add the workers that something was put into the outbox of to `receivers`."""
        reader, router = self._reader, self._router
        route: Sequence[_WorkerConnection] = ()
        start = stop = number = 0  # the piece of the buffer for the workers of this route, and its number of messages
        try:
            for frame in reader.read(data):
                kind, count, name, at, _, end = frame
                if kind & CONFIRM:
                    self._unconfirmed += 1
                    kind ^= CONFIRM
                if kind == MESSAGES:
                    found = router.route(name)
                    if found == route:
                        stop = end
                        number += count
                        continue
                    self._pass_on(route, start, stop, number, receivers)
                    route, start, stop, number = found, at, end, count
                else:
                    self._pass_on(route, start, stop, number, receivers)
                    route, number = (), 0
                    self._execute(kind, frame, receivers)
        finally:
            self._pass_on(route, start, stop, number, receivers)

    def _pass_on(
        self,
        route: Sequence[_WorkerConnection],
        start: int,
        stop: int,
        number: int,
        receivers: dict[_WorkerConnection, None],
    ) -> None:
        """Put a piece of the buffer into the outboxes of a route, except for that of this worker, the publisher."""
        self._router.accepted += number
        if not number or not route or route == (self,):
            return
        piece = self._reader.buffer[start:stop]
        for worker in route:
            if worker is not self:
                worker.put(piece, number)
                receivers[worker] = None

    def _execute(self, kind: int, frame: Frame, receivers: dict[_WorkerConnection, None]) -> None:
        _, count, name, _, _, _ = frame
        items = items_of(self._reader.buffer, frame)
        if kind == BEGIN:
            self._router.begin(self, [TopicPattern(decode_text(item)) for item in items])
            self.outbox.append(encode(BEGUN, name, []))
        elif kind == SUBSCRIBE:
            self._router.subscribe(self, items)
        elif kind == UNSUBSCRIBE:
            self._router.unsubscribe(self, items)
        elif kind == KEEP and count == 3:
            self._keep(name, items, receivers)
        elif kind == READ and count == 2 and len(items[0]) == LONG_COUNT.size:
            self._read(decode_text(name), LONG_COUNT.unpack(items[0])[0], items[1])
        else:
            raise BusError(f"workers do not send frames of kind {kind} with {count} items")

    def _keep(self, topic: bytes, items: Sequence[bytes], receivers: dict[_WorkerConnection, None]) -> None:
        process, how, data = items
        keep = decode_keep(process, how)
        position = self._router.history.append(decode_text(topic), data, keep)
        if position is None:
            return
        self._router.accepted += 1
        at, frame = str(position).encode(), b""
        for worker in self._router.route(topic):
            if worker is self:
                worker.put(encode(PLACED, topic, [at, process, LONG_COUNT.pack(keep.id[1])]), 1)
            else:
                frame = frame or encode(KEPT, topic, [at, data])
                worker.put(frame, 1)
                receivers[worker] = None

    def _read(self, topic: str, max_bytes: int, since: bytes) -> None:
        position = Position.parse(decode_text(since)) if since else None
        kept = self._router.history.read(topic, position, max_bytes)
        size = self._history_bytes + sum(len(data) for _, data in kept.messages)
        if size + self._transport.get_write_buffer_size() > self._router.queue_limit:
            # The limit holds: the messages count as expired, and the worker learns that something is missing.
            kept = Kept(kept.position, (), not kept.messages and kept.complete)
        else:
            self._history_bytes = size
        self.outbox += encode_history(kept.messages)
        self.outbox.append(encode(HISTORY_END, b"", [str(kept.position).encode(), b"1" if kept.complete else b""]))
