"""Delivery of a topic with a history: each subscriber gets each message once, or a report that messages are lost.

Theory

The history gives each message an offset, which is the last message's offset plus one. Only a message with an offset is
delivered: a process that broadcasts publishes to the broker, and delivers its message when the broker sends it back
with its position, as all other processes do. So all subscribers everywhere see the same messages in the same order.

A follower gets verified messages only: with signatures, a message that is not signed does not move its position. The
position of a message is not signed, since the broker gives it. So a signed message that can be a repetition moves
nothing either; the history is read instead.

A broker's pub/sub can lose messages, for instance with a connection. A `Follower` stands between the broker and the
subscribers of one topic in one process. It knows the position up to which everything has been delivered. A message at
the next offset is delivered; one at a lower offset has been delivered already. If messages are missing, or may be
missing because the connection is new, the follower reads the history after its position, and holds back what comes
meanwhile. If the history does not reach back to the position any more, or has begun anew, the subscribers get a report
that messages are lost, and the follower continues from there.

The follower reads its first position before the topic is subscribed, and reads the history again afterwards. So there
is no moment in which it could miss a message.

A client that comes back names its last position. It gets the messages after that from the history, and the messages
that were delivered here while the history was read. The position that it has reached is stored with its subscription,
because the follower may deliver some of those messages later. The client gets no more at once than it reads: the
history is read in pages of about the size of its outbox, and a page that does not fit is dropped and read again when
the client has read what it was sent. So a client that does not read costs no more memory than its outbox.

A follower whose first position could not be read, because the broker was unavailable, does not know what was accepted
since its first subscriber came. When it reads its first position later, it reports everything as lost that was accepted
before the first message that it has received.

A follower that cannot read the history waits until `catch_up` is called: the history service calls it when the broker
is connected again, or after a short time if it is still connected.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pywsapp._log_fields import log_fields
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import MIB, Kept, Position
from pywsapp.brokers.envelope import Envelope

logger = logging.getLogger("pywsapp")

#: Messages that are held back while the history is read; further ones are read from the history.
_MAX_HELD = 1000
_MAX_HELD_BYTES = 4 * MIB


class Recovery(NamedTuple):
    """The messages that a connection got when it subscribed by `Topic.recover`.

    Args:
        position: the connection has all messages up to this position.
        complete: whether it has all messages since the position that it named.
        messages: the number of messages that were sent.
    """

    position: str
    complete: bool
    messages: int


class Missed(NamedTuple):
    """One message of a history, for a client that recovers.

    Args:
        position: the client has everything up to here when it has this message.
        message: what the client gets; None if the application's `wrap` fails.
        is_lost: whether it says that messages are lost.
    """

    position: Position
    message: PreparedMessage | None
    is_lost: bool


class Follower:
    """Puts the messages of one topic in order and reads missing ones from its history.

    Args:
        topic: the topic's name, for logs.
        read: reads the history after a position.
        deliver: takes a message, its position, and its verified envelope; None if it was read from the history.
        report_lost: takes the position up to which messages are lost, and why they are lost, for the log.
        start_soon: starts a task.
    """

    def __init__(
        self,
        topic: str,
        read: Callable[[Position | None], Awaitable[Kept]],
        deliver: Callable[[bytes, Position, Envelope | None], None],
        report_lost: Callable[[Position, str], None],
        start_soon: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.position: Position | None = None
        self._topic = topic
        self._read = read
        self._deliver = deliver
        self._report_lost = report_lost
        self._start_soon = start_soon
        self._recordings: list[list[tuple[Position, bytes]]] = []
        self._held: dict[Position, tuple[bytes, Envelope]] = {}
        self._held_bytes = 0
        self._reading = False
        self._read_again = False
        self._closed = False
        self._is_late = False  # whether the first position could not be read when it was asked for

    def close(self) -> None:
        """Deliver nothing any more, even if the history is being read."""
        self._closed = True

    @contextmanager
    def recording(self) -> Iterator[list[tuple[Position, bytes]]]:
        """Return a list that collects the messages which are delivered inside the block, with their positions."""
        recording: list[tuple[Position, bytes]] = []
        self._recordings.append(recording)
        try:
            yield recording
        finally:
            self._recordings = [one for one in self._recordings if one is not recording]

    def has_delivered(self, position: Position) -> bool:
        """Return whether the message at a position has been delivered, or is before the first one."""
        return self.position is not None and self.position.covers(position)

    def receive(self, data: bytes, position: Position, envelope: Envelope) -> None:
        """Handle a verified message from the broker."""
        if self._reading:
            self._hold(data, position, envelope)
        elif self._has_no_gap_before(position):
            self._advance(data, position, envelope)
        else:
            self._hold(data, position, envelope)
            self.catch_up()

    def _hold(self, data: bytes, position: Position, envelope: Envelope) -> None:
        if len(self._held) < _MAX_HELD and self._held_bytes + len(data) <= _MAX_HELD_BYTES:
            self._held[position] = data, envelope
            self._held_bytes += len(data)
        else:
            self._read_again = True

    def _has_no_gap_before(self, position: Position) -> bool:
        """Return whether all messages before a position have been delivered."""
        here = self.position
        return here is not None and here.epoch == position.epoch and here.offset + 1 >= position.offset

    def _advance(self, data: bytes, position: Position, envelope: Envelope | None = None) -> None:
        """Deliver the message at the next position; one before it has been delivered already."""
        assert self.position is not None
        if position.offset == self.position.offset + 1:
            self.position = position
            for recording in self._recordings:
                recording.append((position, data))
            self._deliver(data, position, envelope)

    async def begin(self) -> None:
        """Start at the present position of the history, if there is none yet.

        If an earlier attempt failed, the subscribers may have missed what was accepted since then, and get a report.

        Raises:
            Exception: the history cannot be read.
        """
        if self.position is not None:
            return
        try:
            kept = await self._read(None)
        except Exception:
            self._is_late = True
            raise
        if self.position is None:
            self.position = self._late_position(kept.position) if self._is_late else kept.position

    def _late_position(self, here: Position) -> Position:
        """Return the position before the first message that came meanwhile; report everything before it as lost."""
        first = min((held.offset for held in self._held if held.epoch == here.epoch), default=here.offset + 1)
        position = here._replace(offset=first - 1)
        if position.offset and not self._closed:
            self._report_lost(position, "its history could not be read when its first subscriber came")
        return position

    def catch_up(self) -> None:
        """Read the messages from the history that may be missing."""
        self._read_again = True
        if not self._reading:
            self._reading = True
            self._start_soon(self._catch_up)

    async def _catch_up(self) -> None:
        try:
            await self.begin()
            while self._read_again and not self._closed:
                self._read_again = False
                held_before = set(self._held)
                kept = await self._read(self.position)
                self._apply(kept, held_before)
                del kept  # not needed while the next page is read
        except Exception as exc:  # mostly a lost connection; the next one calls `catch_up`
            logger.debug(
                "reading the history of %r failed: %r",
                self._topic,
                exc,
                extra=log_fields("history.not_read", topic=self._topic, error=type(exc).__name__),
            )
        finally:
            self._reading = False

    def _apply(self, kept: Kept, held_before: set[Position]) -> None:
        """Deliver what was read from the history, then the held messages that follow it.

        A message that was held before the history was read, and does not follow it, belongs to an epoch that has ended.
        It is dropped, since otherwise the history would be read again for ever.
        """
        if self._closed:
            return
        assert self.position is not None
        if not kept.complete:
            first = kept.messages[0][0] if kept.messages else kept.position.offset + 1
            is_new = kept.position.epoch != self.position.epoch
            self.position = Position(kept.position.epoch, first - 1)
            self._report_lost(self.position, "its history began anew" if is_new else "its history is too short")
        for offset, data in kept.messages:
            position = Position(kept.position.epoch, offset)
            held_data, envelope = self._held.get(position, (b"", None))
            self._advance(data, position, envelope if held_data == data else None)
        if has_more(kept):
            self._read_again = True
            return
        if not kept.position.offset:
            self.position = kept.position  # of a topic without messages; the earlier one is not valid for ever
        held, self._held, self._held_bytes = self._held, {}, 0
        for position in sorted(held, key=lambda one: one.offset):
            if self._has_no_gap_before(position):
                self._advance(held[position][0], position, held[position][1])
            elif position not in held_before:
                self._hold(held[position][0], position, held[position][1])
                self._read_again = True


def has_more(kept: Kept) -> bool:
    """Return whether the history has messages after those that were read."""
    return bool(kept.messages) and kept.messages[-1][0] < kept.position.offset


def position_before(kept: Kept) -> Position:
    """Return the position before the first message that was read."""
    return kept.position._replace(offset=kept.messages[0][0] - 1) if kept.messages else kept.position
