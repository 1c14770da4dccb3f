"""The histories of topics in memory.

A history keeps the last messages of a topic: a limited number, for a limited time. Each message has an offset. Offsets
count from 1 without gaps within an epoch, a random name that changes when the history begins anew. So a client that
names a `Position` gets exactly the messages after it, or a report that they are not kept any more.

Bounds

A topic begins with its first message; reading creates nothing. Messages are dropped as soon as they have expired or are
too many for their topic. If all topics together are too large or too many, the topic whose last message is oldest is
forgotten, and so on: the *forget the longest silent* policy, which is counted in `forgotten`.

Epochs

All topics begin in the current epoch. It changes when a topic that has begun in it is forgotten, so no topic begins
twice in the same epoch. The position of a topic without messages is offset 0 of the current epoch. It stays valid in
later epochs if no message can have been forgotten since: messages are numbered in the order of `append`, and for each
group of topics the number of the last forgotten message is known.
"""

from __future__ import annotations

import heapq
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from math import inf

import anyio

from pywsapp.brokers.base import MIB, Keep, Kept, Position

#: A topic's position is remembered this many times longer than its messages. A client that comes back after all of them
#: have expired has missed nothing if nothing was published since.
REMEMBERED = 10
#: Processes whose last message is remembered for each topic, to recognise a message that is published again, and in
#: addition, ids of messages.
MAX_PUBLISHERS = 1000
#: Topics, and bytes of all of them with their messages.
MAX_TOPICS = 100_000
MAX_BYTES = 256 * MIB
#: Bytes that a topic, a message and a publisher count beside their text: what they take in CPython 3.11.
TOPIC_BYTES = 1000
MESSAGE_BYTES = 150
PUBLISHER_BYTES = 200
#: Seconds until the memory of expired messages is freed, if nothing else happens.
EXPIRE_SECONDS = 1.0
#: Groups of topics for which the last forgotten message is known.
_GROUPS = 4096
#: Epochs that are remembered, for the positions of topics without messages.
_MAX_EPOCHS = 100


class MemoryHistory:
    """The histories of all topics, in a process or in the router of the local bus.

    Args:
        clock: returns the time in seconds.
        max_topics: the number of topics.
        max_bytes: the bytes of all topics. Each topic counts its name and `TOPIC_BYTES`, each message `MESSAGE_BYTES`
            beside its data, each publisher `PUBLISHER_BYTES`.

    Attributes:
        size: the bytes of all topics now.
        forgotten: how many topics were forgotten because there were too many, or too many bytes.
    """

    def __init__(self, clock: Callable[[], float], max_topics: int = MAX_TOPICS, max_bytes: int = MAX_BYTES) -> None:
        self._clock = clock
        self._max_topics = max_topics
        self._max_bytes = max_bytes
        self._topics: OrderedDict[str, _TopicHistory] = OrderedDict()  # the one whose last message is oldest is first
        self._due: list[tuple[float, str]] = []  # a heap: when to look at a topic again; some entries are out of date
        self._appended = 0  # the number of the last message
        self._last_forgotten = [0] * _GROUPS
        self._epoch = ""
        self._epochs: dict[str, int] = {}  # the epochs, each with the number of the last message before it
        self.size = self.forgotten = 0
        self._begin_epoch()

    @property
    def kept(self) -> tuple[int, int]:
        """How many topics are remembered, and their bytes."""
        return len(self._topics), self.size

    def topics(self) -> list[str]:
        """Return the topics that are remembered."""
        return list(self._topics)

    def append(self, topic: str, data: bytes, keep: Keep) -> Position | None:
        """Keep a message and return its position; None if the publisher's message with this or a later id is kept."""
        self.expire()
        history = self._topics.get(topic)
        if history is not None and history.has(keep.id):
            return None
        self._appended += 1
        if history is None:
            history = self._topics[topic] = _TopicHistory(topic, self._epoch, self._appended)
            self.size += history.size
        else:
            self._topics.move_to_end(topic)
        history.last = self._appended
        before = history.size
        history.add(data, keep)
        self.size += history.size - before
        now = self._clock()
        history.messages_expire = now + keep.seconds
        history.expires = now + keep.seconds * REMEMBERED
        self._schedule(topic, history)
        self._make_room()
        return Position(history.epoch, history.offset)

    def read(self, topic: str, since: Position | None, max_bytes: int | None = None) -> Kept:
        """Return the messages after a position; see `BrokerConnection.read_history`."""
        self.expire()
        history = self._topics.get(topic)
        position = Position(self._epoch, 0) if history is None else Position(history.epoch, history.offset)
        if since is None:
            return Kept(position, (), True)
        is_known = position.covers(since) or self._is_before_first(topic, history, since)
        after = since.offset if is_known else 0
        messages = () if history is None else history.after(after, inf if max_bytes is None else max_bytes)
        first = messages[0][0] if messages else position.offset + 1
        return Kept(position, messages, is_known and first == after + 1)

    def expire(self) -> None:
        """Drop what has expired. Every other call does this first; call it regularly, so that memory is freed."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, topic = heapq.heappop(self._due)
            history = self._topics.get(topic)
            if history is None or history.due != due:
                continue  # the topic has been forgotten, or has another entry
            if history.expires <= now:
                self._forget(topic)
                continue
            if history.messages_expire <= now:
                self.size -= history.size
                history.drop_messages()
                self.size += history.size
            history.due = inf
            self._schedule(topic, history)

    def _schedule(self, topic: str, history: _TopicHistory) -> None:
        """Make an entry for the time at which a topic has something to drop, unless there is one before it."""
        due = history.messages_expire if history.messages else history.expires
        if due < history.due:
            history.due = due
            heapq.heappush(self._due, (due, topic))
            if len(self._due) > 2 * len(self._topics) + 1000:
                self._due = [(one.due, name) for name, one in self._topics.items()]
                heapq.heapify(self._due)

    def _make_room(self) -> None:
        """Keep the bounds of all topics; the topic with the newest message is the last that loses something."""
        while len(self._topics) > self._max_topics or (self.size > self._max_bytes and len(self._topics) > 1):
            self.forgotten += 1
            self._forget(next(iter(self._topics)))
        if self.size > self._max_bytes:
            (history,) = self._topics.values()
            while history.messages and self.size > self._max_bytes:
                self.size -= history.drop_first()

    def _forget(self, topic: str) -> None:
        history = self._topics.pop(topic)
        self.size -= history.size
        group = hash(topic) % _GROUPS
        self._last_forgotten[group] = max(self._last_forgotten[group], history.last)
        if history.epoch == self._epoch:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._epochs[self._epoch] = self._appended
        if len(self._epochs) > _MAX_EPOCHS:
            del self._epochs[next(iter(self._epochs))]

    def _is_before_first(self, topic: str, history: _TopicHistory | None, since: Position) -> bool:
        """Return whether a position of an earlier epoch is before the first message of a topic."""
        began = self._epochs.get(since.epoch)
        if began is None or since.offset or self._last_forgotten[hash(topic) % _GROUPS] > began:
            return False
        return history is None or history.first > began


async def keep_expiring(history: MemoryHistory) -> None:
    """Free the memory of what has expired until cancelled, also when no other call does."""
    while True:
        await anyio.sleep(EXPIRE_SECONDS)
        history.expire()


class _TopicHistory:
    """The history of one topic.

    Attributes:
        epoch: the epoch in which the topic has begun.
        first: the number of its first message, among those of all topics.
        last: the number of its last message.
        offset: of the last message.
        messages: the kept messages with their offsets.
        last_numbers: the number of each publisher's last message; the publisher that was silent longest is first.
        ids: the ids of messages that have one, the oldest first; the values are 0, see `Keep.id`.
        size: the bytes of all of it.
        messages_expire: when the messages expire, in seconds of the clock.
        expires: when all of it expires, the position included.
        due: the time of its earliest entry in the heap.
    """

    __slots__ = (
        "_message_size",
        "due",
        "epoch",
        "expires",
        "first",
        "ids",
        "last",
        "last_numbers",
        "messages",
        "messages_expire",
        "offset",
        "size",
    )

    def __init__(self, topic: str, epoch: str, number: int) -> None:
        self.epoch = epoch
        self.first = self.last = number
        self.offset = 0
        self.messages: deque[tuple[int, bytes]] = deque()
        self.last_numbers: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self.size = TOPIC_BYTES + len(topic)
        self._message_size = 0
        self.messages_expire = self.expires = self.due = inf

    def _last_numbers_for(self, number: int) -> dict[str, int]:
        """Return the table that an id with this number belongs to, see `Keep.id`."""
        return self.last_numbers if number else self.ids

    def has(self, message_id: tuple[str, int]) -> bool:
        """Return whether the message with an id, or a later one of its publisher, was added."""
        publisher, number = message_id
        return self._last_numbers_for(number).get(publisher, -1) >= number

    def add(self, data: bytes, keep: Keep) -> None:
        """Add a message at the next offset, and drop what is too much for the topic, at most this message as well."""
        publisher, number = keep.id
        last_numbers = self._last_numbers_for(number)
        if last_numbers.pop(publisher, None) is None:
            self.size += PUBLISHER_BYTES
        last_numbers[publisher] = number  # at the end of the dict
        if len(last_numbers) > MAX_PUBLISHERS:
            del last_numbers[next(iter(last_numbers))]
            self.size -= PUBLISHER_BYTES
        self.offset += 1
        self.messages.append((self.offset, data))
        self.size += len(data) + MESSAGE_BYTES
        self._message_size += len(data) + MESSAGE_BYTES
        while len(self.messages) > keep.size or (self.messages and self._message_size > keep.max_bytes):
            self.drop_first()

    def drop_first(self) -> int:
        """Drop the first message; return its bytes."""
        size = len(self.messages.popleft()[1]) + MESSAGE_BYTES
        self.size -= size
        self._message_size -= size
        return size

    def drop_messages(self) -> None:
        """Drop all messages."""
        self.messages.clear()
        self.size -= self._message_size
        self._message_size = 0

    def after(self, offset: int, max_bytes: float) -> tuple[tuple[int, bytes], ...]:
        """Return the messages after an offset, up to the one that reaches `max_bytes`."""
        if not self.messages:
            return ()
        found = islice(self.messages, max(0, offset + 1 - self.messages[0][0]), None)
        if max_bytes == inf:
            return tuple(found)
        page: list[tuple[int, bytes]] = []
        size = 0
        for message in found:
            page.append(message)
            size += len(message[1])
            if size >= max_bytes:
                break
        return tuple(page)
