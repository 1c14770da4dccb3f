"""A worker's end of the local bus: a broker over the socket that the worker has from the supervisor.

There is only this one socket: a worker that cannot reach the router has lost its supervisor and is about to end. But a
connection can be closed because something took too long, for instance a handler that blocked the loop, and the relay
then wants another one. So connections follow each other on the same socket. Each begins with BEGIN, which replaces all
earlier subscriptions, and ignores everything before the answer. A connection is also lost when the router reports
missed messages, since histories and presence begin anew with each connection.

The router sends no plain message back to the worker that published it. It sends only the position of a kept message, in
the order of the history. The connection then hands over its own copy of the message, which it holds until the router
has confirmed the request. By then the position has come, unless the router left it out and reports missed messages.

The socket's transport runs by itself, see `pywsapp._transports.adopt`, since `Broker.connect` has no task group for it.
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel

from pywsapp._alarm import Alarm, alarm_type
from pywsapp._transports.adopt import adopt_socket
from pywsapp.brokers.base import Broker, BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.brokers.local.frames import (
    BEGIN,
    BEGUN,
    CONFIRM,
    CONFIRMED,
    COUNT,
    HISTORY,
    HISTORY_END,
    KEPT,
    LONG_COUNT,
    MAX_LONG_COUNT,
    MAX_MESSAGE,
    MESSAGES,
    MISSED,
    PLACED,
    READ,
    SUBSCRIBE,
    UNSUBSCRIBE,
    BusError,
    Frame,
    FrameReader,
    decode_text,
    encode,
    encode_lists,
    encode_messages,
    items_of,
)
from pywsapp.exceptions import BrokerUnavailable, PywsappError

#: Topic, process and number of a kept message.
_KeptId = tuple[bytes, bytes, int]


class LocalBroker(Broker):
    """Carries messages to the other workers of this machine, through the supervisor; on asyncio, uvloop and trio.

    Args:
        sock: the worker's end of a pair of stream sockets.

    Attributes:
        missed: messages that the router left out because this process did not read.
    """

    name = "the local bus"
    is_internal = True
    max_size = MAX_MESSAGE
    keeps_history = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._wire: _Wire | None = None
        self.missed = 0

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> LocalConnection:
        """Connect, see `Broker.connect`; an earlier connection is lost.

        Raises:
            BrokerUnavailable: the supervisor has ended.
        """
        await anyio.lowlevel.checkpoint()
        if self._wire is None:
            wire = _Wire()
            adopt_socket(self._sock, wire)
            self._wire = wire
        connection = LocalConnection(self, self._wire, receive)
        try:
            await connection.begin(patterns)
        except BaseException:
            connection.lose(None)
            raise
        return connection

    def close(self) -> None:
        """Close the socket when the app has ended, since connections leave it open; does not block."""
        if self._wire is None:
            self._sock.close()
        else:
            self._wire.lose(None)


class _Wire:
    """The protocol of the socket's transport; passes frames to the current connection."""

    def __init__(self) -> None:
        self.made = anyio.Event()
        self.lost = False
        self.failure: Exception | None = None
        self.connection: LocalConnection | None = None
        self.transport: Any = None
        self.names = itertools.count(1)
        self._reader = FrameReader()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.set()
        if self.lost:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            for frame in reader.read(data):
                if self.connection is not None:
                    self.connection.receive_frame(frame, reader.buffer)
        except (PywsappError, UnicodeDecodeError) as exc:
            self.lose(exc)

    def eof_received(self) -> None:
        self.lose(BusError("the router has closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(exc or BusError("the connection is closed"))

    def pause_writing(self) -> None:
        pass  # every request waits for the router's confirmation anyway

    def resume_writing(self) -> None:
        pass

    def lose(self, exc: Exception | None) -> None:
        """Close the socket, with the reason if there is one; safe to call again."""
        if not self.lost:
            self.lost, self.failure = True, exc
            self.made.set()
            if self.transport is not None:
                self.transport.abort()
            if self.connection is not None:
                self.connection.lose(exc)


class LocalConnection(BrokerConnection):
    """A connection to a `BusRouter`, one of those that follow each other on a socket."""

    def __init__(self, broker: LocalBroker, wire: _Wire, receive: Receive) -> None:
        self._broker = broker
        self._wire = wire
        self._receive = receive
        self._name = b"%d" % next(wire.names)
        self._begun = False
        self._lost = anyio.Event()
        self._failure: Exception | None = None
        self._make_alarm = alarm_type()
        self._requests: deque[_Request] = deque()
        self._unplaced: dict[_KeptId, bytes] = {}  # kept messages of this connection without a position
        self._readers: deque[_HistoryReader] = deque()

    async def begin(self, patterns: Sequence[str]) -> None:
        """Replace the previous connection; return when the patterns are subscribed."""
        wire = self._wire
        if wire.connection is not None:
            wire.connection.lose(None)
        wire.connection = self
        await wire.made.wait()
        if wire.lost:
            self.lose(wire.failure)
        # BEGUN confirms this request.
        await self._request([encode(BEGIN, self._name, [pattern.encode() for pattern in patterns])])

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        kept = {
            (topic.encode(), keep.id[0].encode(), keep.id[1]): data
            for topic, data, keep in messages
            if keep is not None
        }
        await self._request(encode_messages(messages), kept)

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._request(encode_lists(SUBSCRIBE, [topic.encode() for topic in topics]))

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._request(encode_lists(UNSUBSCRIBE, [topic.encode() for topic in topics]))

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        self._check()
        limit = LONG_COUNT.pack(MAX_LONG_COUNT if max_bytes is None else max_bytes)
        frame = encode(READ, topic.encode(), [limit, b"" if since is None else str(since).encode()])
        reader = _HistoryReader(self._make_alarm())
        self._readers.append(reader)
        self._wire.transport.write(frame)
        await reader.alarm.wait()
        if reader.position is None:
            raise BrokerUnavailable("the connection is lost") from self._failure
        return Kept(reader.position, reader.messages, reader.complete)

    async def wait_lost(self) -> None:
        await self._lost.wait()
        if isinstance(self._failure, BrokerUnavailable):
            raise self._failure
        if self._failure is not None:
            raise BrokerUnavailable(f"the supervisor cannot be reached: {self._failure}") from self._failure

    async def aclose(self) -> None:
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """End the connection, with the reason if there is one, and wake all waiting tasks; safe to call again."""
        if self._lost.is_set():
            return
        self._failure = exc
        self._lost.set()
        if self._wire.connection is self:
            self._wire.connection = None
            if self._wire.transport is not None and not self._wire.lost:
                self._wire.transport.write(encode(BEGIN, b"", []))  # so that the router sends nothing more
        alarms = [request.alarm for request in self._requests] + [reader.alarm for reader in self._readers]
        for alarm in alarms:
            alarm.set()
        self._unplaced.clear()

    async def _request(self, frames: Sequence[bytes], kept: dict[_KeptId, bytes] | None = None) -> None:
        """Send frames, the last of which has CONFIRM, and wait until they are confirmed.

        Args:
            frames: the frames.
            kept: the messages in them that are kept.
        """
        self._check()
        if not frames:
            await anyio.lowlevel.checkpoint()
            return
        request = _Request(self._make_alarm(), tuple(kept or ()))
        self._requests.append(request)
        if kept:
            self._unplaced.update(kept)
        if len(frames) == 1:
            self._wire.transport.write(frames[0])
        else:
            self._wire.transport.writelines(frames)
        await request.alarm.wait()
        self._check()

    def _check(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable("the connection is lost") from self._failure

    # -- what the router sends ---------------------------------------------------------------------------------------

    def receive_frame(self, frame: Frame, buffer: bytes) -> None:
        """Handle a frame.

        Raises:
            BusError: the frame is invalid.
        """
        kind, count, name, _, lengths, end = frame
        if not self._begun:
            if kind == BEGUN and name == self._name and self._requests:
                self._begun = True
                self._confirm(1)
        elif kind & ~CONFIRM != MESSAGES:
            self._handle(frame, items_of(buffer, frame))
        elif count == 1:
            self._receive(name.decode(), buffer[lengths:end], None)
        else:
            topic = name.decode()
            for message in items_of(buffer, frame):
                self._receive(topic, message, None)

    def _handle(self, frame: Frame, items: Sequence[bytes]) -> None:
        kind, count, name, _, _, _ = frame
        lengths = [len(item) for item in items]
        if kind == CONFIRMED and lengths == [COUNT.size]:
            self._confirm(COUNT.unpack(items[0])[0])
        elif kind == KEPT and count == 2:
            self._receive(decode_text(name), items[1], Position.parse(decode_text(items[0])))
        elif kind == PLACED and count == 3 and lengths[2] == LONG_COUNT.size:
            self._place((name, items[1], LONG_COUNT.unpack(items[2])[0]), Position.parse(decode_text(items[0])))
        elif kind == HISTORY and count == 2 and lengths[0] == LONG_COUNT.size and self._readers:
            self._readers[0].messages.append((LONG_COUNT.unpack(items[0])[0], items[1]))
        elif kind == HISTORY_END and count == 2 and self._readers:
            self._readers[0].position = Position.parse(decode_text(items[0]))
            self._readers[0].complete = bool(items[1])
            self._readers.popleft().alarm.set()
        elif kind == MISSED and lengths == [LONG_COUNT.size]:
            self._note_missed(LONG_COUNT.unpack(items[0])[0])
        else:
            raise BusError(f"routers do not send frames of kind {kind} with {count} items")

    def _confirm(self, number: int) -> None:
        """Wake the tasks of the oldest requests; the router has sent the positions of their messages by now."""
        for _ in range(min(number, len(self._requests))):
            request = self._requests.popleft()
            for kept_id in request.kept:
                self._unplaced.pop(kept_id, None)
            request.alarm.set()

    def _place(self, kept_id: _KeptId, position: Position) -> None:
        """Hand over an own kept message, whose position has come."""
        data = self._unplaced.pop(kept_id, None)
        if data is None:
            self.lose(BrokerUnavailable(f"the position {position} is that of an unknown message"))
        else:
            self._receive(decode_text(kept_id[0]), data, position)

    def _note_missed(self, number: int) -> None:
        self._broker.missed += number
        reason = f"{number} messages of other workers are missing, because this worker did not read for too long"
        self.lose(BrokerUnavailable(reason))


class _Request:
    """Frames that are not confirmed yet, and the kept messages in them."""

    __slots__ = ("alarm", "kept")

    def __init__(self, alarm: Alarm, kept: tuple[_KeptId, ...]) -> None:
        self.alarm = alarm
        self.kept = kept


class _HistoryReader:
    """A task that reads a history, and what it has got so far."""

    __slots__ = ("alarm", "complete", "messages", "position")

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self.messages: list[tuple[int, bytes]] = []
        self.position: Position | None = None
        self.complete = False
