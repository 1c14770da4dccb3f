"""What topics keep of their messages, in memory.

A history keeps a topic's last messages, so many and for so long. Each has an offset, counted from 1 without gaps, in an
epoch, a random name that changes when the history begins anew. So whoever has seen a `Position` can be told exactly
what came behind it, or that this is not known any more.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable

from pywsapp.brokers.base import Keep, Kept, Position

#: How much longer than its messages a topic's position is remembered: a client that comes back after all of them have
#: expired, and nothing has been said since, has missed nothing.
REMEMBERED = 10
#: How long the position of a topic is remembered on which nothing has been published, in seconds.
UNUSED_SECONDS = 3600.0
#: How many processes' last messages a topic remembers, to know one that comes again.
MAX_PUBLISHERS = 1000


class MemoryHistory:
    """The histories of all topics of a process, or of what is asked by several.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._topics: dict[str, _TopicHistory] = {}
        self._rounds: deque[str] = deque()  # the same topics; the next one to be looked at for its age first

    def topics(self) -> list[str]:
        """Give the topics that are remembered."""
        return list(self._topics)

    def append(self, topic: str, data: bytes, keep: Keep) -> Position | None:
        """Keep a message; gives where it stands, or None if one with its id, or a later one, was there already."""
        now = self._clock()
        history = self._get(topic, now)
        publisher, number = keep.id
        if history.seen.get(publisher, -1) >= number:
            return None
        history.seen.pop(publisher, None)
        history.seen[publisher] = number  # as the last one
        if len(history.seen) > MAX_PUBLISHERS:
            del history.seen[next(iter(history.seen))]
        history.offset += 1
        history.expires = now + keep.seconds
        history.forgotten = now + keep.seconds * REMEMBERED
        history.messages.append((history.offset, data))
        while len(history.messages) > keep.size:
            history.messages.popleft()
        return Position(history.epoch, history.offset)

    def read(self, topic: str, since: Position | None) -> Kept:
        """Give what is kept behind a position; behind None nothing, only the position of the last message."""
        now = self._clock()
        history = self._get(topic, now)
        position = Position(history.epoch, history.offset)
        if since is None:
            return Kept(position, (), True)
        if since.epoch != history.epoch or since.offset > history.offset:
            return Kept(position, tuple(history.messages), False)
        messages = tuple(message for message in history.messages if message[0] > since.offset)
        return Kept(position, messages, len(messages) == history.offset - since.offset)

    def _get(self, topic: str, now: float) -> _TopicHistory:
        self._sweep(now)
        history = self._topics.get(topic)
        if history is None:
            history = self._topics[topic] = _TopicHistory(now)
            self._rounds.append(topic)
        elif history.forgotten <= now:
            history = self._topics[topic] = _TopicHistory(now)
        elif history.expires <= now:
            history.messages.clear()
        return history

    def _sweep(self, now: float) -> None:
        """Look at the next two topics, and forget those whose time is over: more than what one call can add."""
        for _ in range(min(2, len(self._rounds))):
            topic = self._rounds.popleft()
            if self._topics[topic].forgotten <= now:
                del self._topics[topic]
            else:
                self._rounds.append(topic)


class _TopicHistory:
    __slots__ = ("epoch", "expires", "forgotten", "messages", "offset", "seen")

    def __init__(self, now: float) -> None:
        self.epoch = secrets.token_hex(4)
        self.offset = 0
        self.messages: deque[tuple[int, bytes]] = deque()
        self.seen: dict[str, int] = {}
        self.expires = self.forgotten = now + UNUSED_SECONDS
