"""The port to what carries messages between processes and machines; `pywsapp.brokers.urls` has implementations.

A `Broker` is what a person chooses, by URL or as an object; it connects, and that is all. A `BrokerConnection` is one
connection of one process, good until it is lost. What has to be remembered and repeated when that happens, the `Relay`
does, once for all brokers. Both are used from one task group of one event loop, and everything in here is at most once:
a message may be lost with a connection, and never comes twice over one. Only what a topic's history keeps is handed
over again; the broker knows it by its `Keep.id` and takes it once.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pywsapp.exceptions import TopicError

MIB = 1024 * 1024


class Position(NamedTuple):
    """Where a message stands in the history of its topic.

    Args:
        epoch: changes when the history was lost and begins anew.
        offset: counts from 1 in an epoch, without gaps.
    """

    epoch: str
    offset: int

    def covers(self, other: Position) -> bool:
        """Tell whether whoever is here has seen what stands there."""
        return self.epoch == other.epoch and self.offset >= other.offset

    def __str__(self) -> str:
        return f"{self.offset}-{self.epoch}"

    @classmethod
    def parse(cls, text: object) -> Position:
        """Read what `str` made of one; it mostly comes from a client.

        Raises:
            TopicError: it is none.
        """
        found = _POSITION.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise TopicError(f"{reprlib.repr(text)} is no position in a topic, such as '17-5f3c'")
        return cls(found[2], int(found[1]))


#: An offset that other languages, which count in doubles, can say, and an epoch.
_POSITION = re.compile(r"([0-9]{1,15})-([0-9A-Za-z]{1,48})")


class Keep(NamedTuple):
    """That a message is kept in its topic's history, and for how long.

    Args:
        id: names the message among all that this process publishes on the topic: `(process, count)`, counting up.
        size: how many messages of the topic are kept.
        seconds: for how long, counted from the last one.
    """

    id: tuple[str, int]
    size: int
    seconds: float


class Outgoing(NamedTuple):
    """Something to be published."""

    topic: str
    data: bytes
    keep: Keep | None = None


class Kept(NamedTuple):
    """What a history has.

    Args:
        position: of the last message that it took; the offset is 0 if there was none in this epoch.
        messages: the kept ones behind the position asked for, in order, each with its offset.
        complete: whether these are all behind the position asked for.
    """

    position: Position
    messages: Sequence[tuple[int, bytes]]
    complete: bool


#: Takes a topic, an encoded envelope, and its position if it is kept. Called in the loop's thread; does not raise.
Receive = Callable[[str, bytes, "Position | None"], None]


class BrokerConnection(ABC):
    """One connection to a broker. Every method may raise anything when the connection is, or gets, lost."""

    @abstractmethod
    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages in their order; returns when the broker has taken them. Never called twice at once."""

    @abstractmethod
    async def subscribe(self, topics: Sequence[str]) -> None:
        """Receive what is published on these topics; returns when that is so. None of them is subscribed already."""

    @abstractmethod
    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Undo `subscribe`; what is on its way may still come. Neither is called while the other runs."""

    @abstractmethod
    async def wait_lost(self) -> None:
        """Wait until the connection is lost; returns then, or raises why."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it, lost or not; must not raise nor take long, also when it is being cancelled."""

    async def read_history(self, topic: str, since: Position | None) -> Kept:
        """Give what is kept behind a position; behind None nothing, only the position of the last message.

        A broker that `keeps_history` has this.
        """
        raise NotImplementedError


class Broker(ABC):
    """A way between processes.

    Attributes:
        name: what it is called in logs, without a password.
        max_size: bytes of a message that it carries.
        keeps_history: whether it knows `Keep` and `read_history`.
        is_internal: whether nobody needs to be told that it is there.
    """

    is_internal: bool = False
    name: str = "broker"
    max_size: int = 16 * MIB
    keeps_history: bool = False

    @abstractmethod
    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        """Connect.

        Args:
            receive: is called for every message that somebody publishes on a topic that was subscribed, or that
                matches a pattern; once, also if both are so; in the publisher's order for one topic. What this
                connection publishes comes back to it as well.
            patterns: subscribed from the beginning, see `pywsapp.topics.names`.

        Raises:
            Exception: it cannot be reached.
        """

    def close(self) -> None:  # noqa: B027 - there is mostly nothing to do
        """Let go of what is not a connection's, when the app that has it has ended."""
