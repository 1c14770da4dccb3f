"""The port to brokers, which carry messages between processes and machines.

An application names a `Broker`, by a URL or as an object; it only connects. A `BrokerConnection` is one
connection of one process, usable until it is lost. The `Relay` remembers what has to be subscribed and published again
after that, for all brokers alike. Both are used from one task group of one event loop. Messages are delivered at most
once: a message can be lost with a connection, and never comes twice over one. Only a kept message, one of a topic with
a history, is published again; the broker recognises it by its `Keep.id` and accepts it once.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pywsapp.exceptions import PywsappError, TopicError

MIB = 1024 * 1024
#: Bytes of messages that a topic keeps in its history, unless the program says otherwise.
HISTORY_BYTES = MIB


class Position(NamedTuple):
    """The position of a message in the history of its topic.

    Args:
        epoch: a name that changes when the history was lost and begins anew.
        offset: counts from 1 in an epoch, without gaps.
    """

    epoch: str
    offset: int

    def covers(self, other: Position) -> bool:
        """Return whether a reader at this position has the message at another position."""
        return self.epoch == other.epoch and self.offset >= other.offset

    def __str__(self) -> str:
        return f"{self.offset}-{self.epoch}"

    @classmethod
    def parse(cls, text: object) -> Position:
        """Parse the `str` of a position; it mostly comes from a client.

        Raises:
            TopicError: the text is not a position.
        """
        found = _POSITION.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise TopicError(f"{reprlib.repr(text)} is not a position in a topic, such as '17-5f3c'")
        return cls(found[2], int(found[1]))


#: An offset that is exact in languages whose numbers are doubles, and an epoch.
_POSITION = re.compile(r"([0-9]{1,15})-([0-9A-Za-z]{1,48})")


class Keep(NamedTuple):
    """How a message is kept in the history of its topic.

    Args:
        id: identifies the message among all messages of its publisher on the topic: `(process, number)`. Numbers grow.
            The number 0 marks an id of the message's own, which stands in place of the process.
        size: the number of messages that the topic keeps.
        seconds: how long it keeps them, counted from the last one.
        max_bytes: the bytes of the messages that the topic keeps, for brokers that keep them in our processes. A
            message counts 150 bytes more than its envelope has.
    """

    id: tuple[str, int]
    size: int
    seconds: float
    max_bytes: int = HISTORY_BYTES


class Outgoing(NamedTuple):
    """A message to be published.

    Args:
        topic: the topic's name.
        data: the encoded envelope.
        keep: how it is kept; None for a plain message, which is not.
    """

    topic: str
    data: bytes
    keep: Keep | None = None


class Kept(NamedTuple):
    """The messages that a history keeps after a position.

    Args:
        position: of the last message that the history has accepted; the offset is 0 if there was none in this epoch.
            The position of a topic without messages may have another epoch than its first message: such a position is
            before the first message, and is answered with a position in the epoch of the messages.
        messages: the kept messages after the position asked for, in order, each with its offset; only the first of
            them if a limit was given.
        complete: whether no message is missing between the position asked for and the last of these messages, or
            `position` if there are none.
    """

    position: Position
    messages: Sequence[tuple[int, bytes]]
    complete: bool


class PartlyRefused(PywsappError):
    """The broker refused some messages or topics of a call, and accepted all the others. Its connection goes on.

    Args:
        reasons: why, by the place of each refused message or topic in the sequence of the call.
        is_certain: whether none of the refused messages has reached a subscriber.
    """

    def __init__(self, reasons: Mapping[int, str], *, is_certain: bool = True) -> None:
        super().__init__(next(iter(reasons.values()), ""))
        self.reasons = reasons
        self.is_certain = is_certain


#: Takes a topic, an encoded envelope, and its position if it is kept. Called in the loop's thread; raises nothing.
Receive = Callable[[str, bytes, "Position | None"], None]


class BrokerConnection(ABC):
    """One connection to a broker. Every method may raise any exception when the connection is lost."""

    @abstractmethod
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages in their order; return when the broker has accepted them. Never called twice at once.

        Raises:
            PartlyRefused: the broker refused some of the messages.
        """

    @abstractmethod
    async def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe to topics, none of which is subscribed; return when their messages are delivered.

        Raises:
            PartlyRefused: the broker refused some of the topics; the relay asks for these again after some seconds.
        """

    @abstractmethod
    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Undo `subscribe`; messages on their way may still be delivered. Never called while the other one runs."""

    @abstractmethod
    async def wait_lost(self) -> None:
        """Wait until the connection is lost; return then, or raise the reason."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection, lost or not. Must not raise or take long, even when it is being cancelled."""

    async def read_history(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        """Return the kept messages after a position; for None no messages, only the position of the last one.

        Only for a broker that `keeps_history`. Reading a topic on which nothing was published creates nothing.

        Args:
            topic: the topic's name.
            since: the position.
            max_bytes: the message that reaches this number of bytes is the last one; None for no limit.
        """
        raise NotImplementedError


class Broker(ABC):
    """A way for messages between processes.

    Attributes:
        name: what logs call it, without a password.
        max_size: bytes of the largest envelope that it carries.
        keeps_history: whether it supports `Keep` and `read_history`.
        is_internal: whether the log need not mention that it is connected.
    """

    is_internal: bool = False
    name: str = "broker"
    max_size: int = 16 * MIB
    keeps_history: bool = False

    @abstractmethod
    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        """Connect.

        Args:
            receive: is called for every message that is published, by any connection, on a subscribed topic or on one
                that a pattern matches: once, also if both are the case, and in the publisher's order for one topic.
                A broker may leave out the plain messages that this connection has published itself. It must not leave
                out its kept messages: they come in the order of the history, like those of all others. The broker need
                not carry such a message back, only its position, if the connection passes its own copy of the
                published bytes to `receive`.
            patterns: subscribed from the beginning, see `pywsapp.topics.names`.

        Raises:
            Exception: the broker cannot be reached.
        """

    def close(self) -> None:  # noqa: B027 - most brokers have nothing to do here
        """Release resources that belong to no connection, when the app of this broker has ended."""
