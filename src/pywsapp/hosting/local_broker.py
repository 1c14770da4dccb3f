"""A worker's end of the local bus: a broker over the socket that the supervisor gave it.

There is one connection, and there can be no other: whoever is without the router is without the supervisor, and about
to end. Its transport runs by itself, see `hosting.attaching`, since `Broker.connect` has no task group.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel

from pywsapp.hosting.attaching import attach_socket
from pywsapp.hosting.bus_frames import (
    ASK,
    COUNT,
    GAP,
    HISTORY,
    HISTORY_END,
    KEPT,
    LONG_COUNT,
    MAX_MESSAGE,
    MESSAGES,
    PATTERNS,
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
from pywsapp.topics.broker import Broker, BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.values.errors import BrokerUnavailable, PywsappError
from pywsapp.waiting import Alarm, alarm_type

logger = logging.getLogger("pywsapp")


class LocalBroker(Broker):
    """The way to the other workers of this machine, through the supervisor; on asyncio, uvloop and trio.

    Args:
        sock: this process's end of the pair of stream sockets.

    Attributes:
        missing: messages that did not come, because this process did not read for too long.
    """

    name = "the local bus"
    max_size = MAX_MESSAGE
    keeps_history = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket | None = sock
        self.missing = 0

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> LocalConnection:
        """Connect; once, see `Broker.connect`.

        Raises:
            BrokerUnavailable: it is not the first time, or the supervisor is gone.
        """
        await anyio.lowlevel.checkpoint()
        sock, self._sock = self._sock, None
        if sock is None:
            raise BrokerUnavailable("it is connected once, and ends with the supervisor")
        connection = LocalConnection(self, receive)
        attach_socket(sock, connection)
        try:
            await connection.begin(patterns)
        except BaseException:
            connection.lose(None)
            raise
        return connection


class LocalConnection(BrokerConnection):
    """A connection to a `BusRouter`; the link of its transport as well."""

    def __init__(self, broker: LocalBroker, receive: Receive) -> None:
        self._broker = broker
        self._receive = receive
        self._cutter = FrameCutter()
        self._transport: Any = None
        self._made = anyio.Event()
        self._lost = anyio.Event()
        self._failure: Exception | None = None
        self._make_alarm = alarm_type()
        self._asked: deque[Alarm] = deque()
        self._readers: deque[_Reader] = deque()

    async def begin(self, patterns: Sequence[str]) -> None:
        """Wait for the transport, and for the patterns to be listened to."""
        await self._made.wait()
        await self._ask(encode_lists(PATTERNS, [pattern.encode() for pattern in patterns]))

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._ask(encode_messages(messages))

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._ask(encode_lists(SUBSCRIBE, [topic.encode() for topic in topics]))

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._ask(encode_lists(UNSUBSCRIBE, [topic.encode() for topic in topics]))

    async def read_history(self, topic: str, since: Position | None) -> Kept:
        self._check()
        reader = _Reader(self._make_alarm())
        self._readers.append(reader)
        self._transport.write(encode(READ, topic.encode(), [b"" if since is None else str(since).encode()]))
        await reader.alarm.wait()
        if reader.position is None:
            raise BrokerUnavailable("the connection is lost") from self._failure
        return Kept(reader.position, reader.messages, reader.complete)

    async def wait_lost(self) -> None:
        await self._lost.wait()
        if self._failure is not None:
            raise BrokerUnavailable(f"the supervisor cannot be reached: {self._failure}") from self._failure

    async def aclose(self) -> None:
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """Be lost, for this reason if any, and let everybody know who waits; safe to call again."""
        if not self._lost.is_set():
            self._failure = exc
            self._lost.set()
            self._made.set()
            if self._transport is not None:
                self._transport.abort()
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
            self._transport.write(frames[0])
        else:
            self._transport.writelines(frames)
        await alarm.wait()
        self._check()

    def _check(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable("the connection is lost") from self._failure

    # -- what its transport tells ------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._made.set()
        if self._lost.is_set():
            transport.abort()

    def data_received(self, data: bytes) -> None:
        cutter, receive = self._cutter, self._receive
        try:
            for frame in cutter.cut(data):
                kind, count, name, _, sizes, end = frame
                if kind & ~ASK != MESSAGES:
                    self._take(frame)
                elif count == 1:
                    receive(name.decode(), cutter.buffer[sizes:end], None)
                else:
                    topic = name.decode()
                    for message in items_of(cutter.buffer, frame):
                        receive(topic, message, None)
                if self._lost.is_set():
                    return
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

    def _take(self, frame: Cut) -> None:
        kind, count, name, _, _, _ = frame
        items = items_of(self._cutter.buffer, frame)
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
            logger.error("%d messages of other workers are missing, because this one did not read for long", missing)
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
