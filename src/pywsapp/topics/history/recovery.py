"""How nobody misses a message of a topic that keeps a history, and how it is told when that cannot be.

Theory

The history gives each message an offset, one more than the last one's, and only what has an offset is delivered: a
process that broadcasts sends to the broker alone, and delivers when its message comes back, as all others do. So all
subscribers everywhere see the same messages in the same order.

A broker's pub/sub may lose messages, with a connection for instance. A `Follower` stands between it and the
subscribers of one topic in one process. It knows the position up to which everything has been delivered. What comes
next to that is delivered; what is not behind it has been; and if something is missing between, or may be, because the
connection is a new one, it reads the history from there on. Meanwhile what comes is held back. If the history does not
reach that far any more, or has begun anew, the subscribers are told that messages are lost, and go on from there.

Its first position is read before the topic is subscribed, and the history is read once more behind that: so there is no
moment in which a message could fall between.

A client that comes back says what it saw last. It is given what came since from the history, and what was delivered
here while that was read; and what it was given is noted with its subscription, for the follower may have some of that
still before it. It gets no more at once than it reads; when it has caught up with what was read, it is read again.

A follower whose reading fails gives up until somebody lets it catch up: `histories` does, when the broker is back, or a
little later if it was not away.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pywsapp.brokers.base import MIB, Kept, Position

logger = logging.getLogger("pywsapp")

#: Messages that are held back while the history is read; what is more, will be read there.
_MAX_HELD = 1000
_MAX_HELD_BYTES = 4 * MIB


class Recovery(NamedTuple):
    """What a connection was given when it subscribed.

    Args:
        position: it has everything up to here.
        complete: whether it has everything since the position it named.
        messages: how many it was given.
    """

    position: str
    complete: bool
    messages: int


class Follower:
    """Puts in order what comes of one topic, and fetches what does not.

    Args:
        topic: its name, for logs.
        read: reads the history behind a position.
        deliver: takes a message and its position.
        lose: told that messages up to a position are lost.
        start_soon: starts a task.
    """

    def __init__(
        self,
        topic: str,
        read: Callable[[Position | None], Awaitable[Kept]],
        deliver: Callable[[bytes, Position], None],
        lose: Callable[[Position], None],
        start_soon: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.position: Position | None = None
        self._topic = topic
        self._read = read
        self._deliver = deliver
        self._lose = lose
        self._start_soon = start_soon
        self._recordings: list[list[tuple[Position, bytes]]] = []
        self._held: dict[Position, bytes] = {}
        self._held_bytes = 0
        self._reading = False
        self._again = False
        self._closed = False

    def close(self) -> None:
        """Deliver nothing any more, also if the history is being read."""
        self._closed = True

    @contextmanager
    def recording(self) -> Iterator[list[tuple[Position, bytes]]]:
        """Give a list of what is delivered meanwhile, and where it stands."""
        recording: list[tuple[Position, bytes]] = []
        self._recordings.append(recording)
        try:
            yield recording
        finally:
            self._recordings = [one for one in self._recordings if one is not recording]

    def receive(self, data: bytes, position: Position) -> None:
        """Take a message that came."""
        if self._reading:
            self._hold(data, position)
        elif self._follows(position):
            self._advance(data, position)
        else:
            self._hold(data, position)
            self.catch_up()

    def _hold(self, data: bytes, position: Position) -> None:
        if len(self._held) < _MAX_HELD and self._held_bytes + len(data) <= _MAX_HELD_BYTES:
            self._held[position] = data
            self._held_bytes += len(data)
        else:
            self._again = True

    def _follows(self, position: Position) -> bool:
        """Tell whether nothing is missing before it."""
        here = self.position
        return here is not None and here.epoch == position.epoch and here.offset + 1 >= position.offset

    def _advance(self, data: bytes, position: Position) -> None:
        assert self.position is not None
        if position.offset == self.position.offset + 1:
            self.position = position
            for recording in self._recordings:
                recording.append((position, data))
            self._deliver(data, position)

    async def begin(self) -> None:
        """Take the present position as the first one, if there is none yet.

        Raises:
            Exception: the history cannot be read.
        """
        if self.position is None:
            kept = await self._read(None)
            if self.position is None:
                self.position = kept.position

    def catch_up(self) -> None:
        """Read the history for what may be missing."""
        self._again = True
        if not self._reading:
            self._reading = True
            self._start_soon(self._catch_up)

    async def _catch_up(self) -> None:
        try:
            await self.begin()
            while self._again and not self._closed:
                self._again = False
                before = set(self._held)
                self._take(await self._read(self.position), before)
        except Exception as exc:  # the connection; with the next one this is begun anew
            logger.debug("reading the history of %r failed: %r", self._topic, exc)
        finally:
            self._reading = False

    def _take(self, kept: Kept, before: set[Position]) -> None:
        """Deliver what a history has, then what was held back and follows.

        What was held back before it was read and does not follow is of an epoch that is over, or else we would read on
        for ever.
        """
        if self._closed:
            return
        assert self.position is not None
        if not kept.complete:
            first = kept.messages[0][0] if kept.messages else kept.position.offset + 1
            self.position = Position(kept.position.epoch, first - 1)
            self._lose(self.position)
        for offset, data in kept.messages:
            self._advance(data, Position(kept.position.epoch, offset))
        held, self._held, self._held_bytes = self._held, {}, 0
        for position in sorted(held, key=lambda one: one.offset):
            if self._follows(position):
                self._advance(held[position], position)
            elif position not in before:
                self._hold(held[position], position)
                self._again = True
