"""A worker's end of the local bus: a broker over the socket that the supervisor gave it.

There is one socket, and there will be no other: whoever is without the router is without the supervisor, and about to
end. But a connection may be closed because something took too long, a handler that held up the loop for instance, and
another is wanted then. So connections follow each other on the same socket: each begins with a BEGIN, which lets the
router forget what was before, and takes nothing until that is answered. It is lost too when the router says that it has
left messages out, for whoever keeps count of them, a history or presence, begins anew with each connection.

The socket's transport runs by itself, see `hosting.attaching`, since `Broker.connect` has no task group for it.
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
    ASK,
    BEGIN,
    BEGUN,
    COUNT,
    GAP,
    HISTORY,
    HISTORY_END,
    KEPT,
    LONG_COUNT,
    MAX_MESSAGE,
    MESSAGES,
    READ,
    SUBSCRIBE,
    TAKEN,
    UNSUBSCRIBE,
    BusError,
    Cut,
    FrameCutter,
    decode_text,
    encode,
    encode_lists,
    encode_messages,
    items_of,
)
from pywsapp.exceptions import BrokerUnavailable, PywsappError


class LocalBroker(Broker):
    """The way to the other workers of this machine, through the supervisor; on asyncio, uvloop and trio.

    Args:
        sock: this process's end of the pair of stream sockets.

    Attributes:
        missing: messages that did not come, because this process did not read for too long.
    """

    name = "the local bus"
    is_internal = True
    max_size = MAX_MESSAGE
    keeps_history = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._wire: _Wire | None = None
        self.missing = 0

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> LocalConnection:
        """Connect, see `Broker.connect`; a connection that there was before is lost.

        Raises:
            BrokerUnavailable: the supervisor is gone.
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
        """Close the socket when the app is over, for closed connections leave it open; does not block."""
        if self._wire is None:
            self._sock.close()
        else:
            self._wire.lose(None)


class _Wire:
    """The link of the socket; hands what comes to the connection that there is."""

    def __init__(self) -> None:
        self.made = anyio.Event()
        self.lost = False
        self.failure: Exception | None = None
        self.connection: LocalConnection | None = None
        self.transport: Any = None
        self.names = itertools.count(1)
        self._cutter = FrameCutter()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.set()
        if self.lost:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        cutter = self._cutter
        try:
            for frame in cutter.cut(data):
                if self.connection is not None:
                    self.connection.take(frame, cutter.buffer)
        except (PywsappError, UnicodeDecodeError) as exc:
            self.lose(exc)

    def eof_received(self) -> None:
        self.lose(BusError("it has closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(exc or BusError("the connection is closed"))

    def pause_writing(self) -> None:
        pass  # whoever publishes waits for the router anyway

    def resume_writing(self) -> None:
        pass

    def lose(self, exc: Exception | None) -> None:
        """Be lost, for this reason if any; safe to call again."""
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
        self._asked: deque[Alarm] = deque()
        self._readers: deque[_Reader] = deque()

    async def begin(self, patterns: Sequence[str]) -> None:
        """Follow the connection before; returns when the patterns are listened to."""
        wire = self._wire
        if wire.connection is not None:
            wire.connection.lose(None)
        wire.connection = self
        await wire.made.wait()
        if wire.lost:
            self.lose(wire.failure)
        # The first that is answered is BEGIN itself.
        await self._ask([encode(BEGIN, self._name, [pattern.encode() for pattern in patterns])])

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._ask(encode_messages(messages))

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._ask(encode_lists(SUBSCRIBE, [topic.encode() for topic in topics]))

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._ask(encode_lists(UNSUBSCRIBE, [topic.encode() for topic in topics]))

    async def read_history(self, topic: str, since: Position | None) -> Kept:
        self._check()
        frame = encode(READ, topic.encode(), [b"" if since is None else str(since).encode()])
        reader = _Reader(self._make_alarm())
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
        """Be lost, for this reason if any, and let everybody know who waits; safe to call again."""
        if self._lost.is_set():
            return
        self._failure = exc
        self._lost.set()
        if self._wire.connection is self:
            self._wire.connection = None
            if self._wire.transport is not None and not self._wire.lost:
                self._wire.transport.write(encode(BEGIN, b"", []))  # that nothing more is sent
        for alarm in (*self._asked, *(reader.alarm for reader in self._readers)):
            alarm.set()

    async def _ask(self, frames: Sequence[bytes]) -> None:
        """Send frames, the last of which has ASK; returns when they are done."""
        self._check()
        if not frames:
            await anyio.lowlevel.checkpoint()
            return
        alarm = self._make_alarm()
        self._asked.append(alarm)
        if len(frames) == 1:
            self._wire.transport.write(frames[0])
        else:
            self._wire.transport.writelines(frames)
        await alarm.wait()
        self._check()

    def _check(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable("the connection is lost") from self._failure

    # -- what the wire brings ----------------------------------------------------------------------------------------

    def take(self, frame: Cut, buffer: bytes) -> None:
        """Take a frame; raises if it has no meaning."""
        kind, count, name, _, sizes, end = frame
        if not self._begun:
            if kind == BEGUN and name == self._name and self._asked:
                self._begun = True
                self._asked.popleft().set()
        elif kind & ~ASK != MESSAGES:
            self._obey(frame, items_of(buffer, frame))
        elif count == 1:
            self._receive(name.decode(), buffer[sizes:end], None)
        else:
            topic = name.decode()
            for message in items_of(buffer, frame):
                self._receive(topic, message, None)

    def _obey(self, frame: Cut, items: Sequence[bytes]) -> None:
        kind, count, name, _, _, _ = frame
        lengths = [len(item) for item in items]
        if kind == TAKEN and lengths == [COUNT.size]:
            (number,) = COUNT.unpack(items[0])
            for _ in range(min(number, len(self._asked))):
                self._asked.popleft().set()
        elif kind == KEPT and count == 2:
            self._receive(decode_text(name), items[1], Position.parse(decode_text(items[0])))
        elif kind == HISTORY and count == 2 and lengths[0] == LONG_COUNT.size and self._readers:
            self._readers[0].messages.append((LONG_COUNT.unpack(items[0])[0], items[1]))
        elif kind == HISTORY_END and count == 2 and self._readers:
            self._readers[0].position = Position.parse(decode_text(items[0]))
            self._readers[0].complete = bool(items[1])
            self._readers.popleft().alarm.set()
        elif kind == GAP and lengths == [LONG_COUNT.size]:
            (missing,) = LONG_COUNT.unpack(items[0])
            self._broker.missing += missing
            reason = f"{missing} messages of other workers are missing, because this one did not read for long"
            self.lose(BrokerUnavailable(reason))
        else:
            raise BusError(f"no router sends frames of kind {kind} with {count} items")


class _Reader:
    """Somebody who reads a history."""

    __slots__ = ("alarm", "complete", "messages", "position")

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self.messages: list[tuple[int, bytes]] = []
        self.position: Position | None = None
        self.complete = False
