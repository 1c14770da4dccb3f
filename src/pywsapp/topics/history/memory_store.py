"""The histories of topics in memory.

A history keeps the last messages of a topic: a limited number, for a limited time. Each message has an offset. Offsets
count from 1 without gaps within an epoch, a random name that changes when the history begins anew. So a client that
names a `Position` gets exactly the messages after it, or a report that they are not kept any more.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable

from pywsapp.brokers.base import Keep, Kept, Position

#: A topic's position is remembered this many times longer than its messages. A client that comes back after all of them
#: have expired has missed nothing if nothing was published since.
REMEMBERED = 10
#: Seconds for which the position of a topic is remembered on which nothing has been published.
UNUSED_SECONDS = 3600.0
#: Processes whose last message is remembered for each topic, to recognise a message that is published again, and in
#: addition, ids of messages.
MAX_PUBLISHERS = 1000


class MemoryHistory:
    """The histories of all topics, in a process or in the router of the local bus.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._topics: dict[str, _TopicHistory] = {}
        self._round: deque[str] = deque()  # the same topics; the first one is the next to be checked for its age

    def topics(self) -> list[str]:
        """Return the topics that are remembered."""
        return list(self._topics)

    def append(self, topic: str, data: bytes, keep: Keep) -> Position | None:
        """Keep a message and return its position; None if the publisher's message with this or a later id is kept."""
        now = self._clock()
        history = self._get(topic, now)
        publisher, number = keep.id
        last_numbers = history.last_numbers if number else history.ids
        if last_numbers.get(publisher, -1) >= number:
            return None
        last_numbers.pop(publisher, None)
        last_numbers[publisher] = number  # at the end of the dict
        if len(last_numbers) > MAX_PUBLISHERS:
            del last_numbers[next(iter(last_numbers))]
        history.offset += 1
        history.messages_expire = now + keep.seconds
        history.expires = now + keep.seconds * REMEMBERED
        history.messages.append((history.offset, data))
        while len(history.messages) > keep.size:
            history.messages.popleft()
        return Position(history.epoch, history.offset)

    def read(self, topic: str, since: Position | None) -> Kept:
        """Return the messages after a position; for None no messages, only the position of the last one."""
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
        self._remove_expired(now)
        history = self._topics.get(topic)
        if history is None:
            history = self._topics[topic] = _TopicHistory(now)
            self._round.append(topic)
        elif history.expires <= now:
            history = self._topics[topic] = _TopicHistory(now)
        elif history.messages_expire <= now:
            history.messages.clear()
        return history

    def _remove_expired(self, now: float) -> None:
        """Check the next two topics and remove those that have expired. One call adds one topic at most."""
        for _ in range(min(2, len(self._round))):
            topic = self._round.popleft()
            if self._topics[topic].expires <= now:
                del self._topics[topic]
            else:
                self._round.append(topic)


class _TopicHistory:
    """The history of one topic.

    Attributes:
        last_numbers: the number of each publisher's last message; the publisher that was silent longest is first.
        ids: the ids of messages that have one, the oldest first; the values are 0, see `Keep.id`.
        messages_expire: when the messages expire, in seconds of the clock.
        expires: when all of it expires, the position included.
    """

    __slots__ = ("epoch", "expires", "ids", "last_numbers", "messages", "messages_expire", "offset")

    def __init__(self, now: float) -> None:
        self.epoch = secrets.token_hex(4)
        self.offset = 0
        self.messages: deque[tuple[int, bytes]] = deque()
        self.last_numbers: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self.messages_expire = self.expires = now + UNUSED_SECONDS
