"""The messages of one connection that wait for a busy handler, bounded in number and size."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pywsapp.options import Options


class MessageQueue:
    """Messages in the order of arrival.

    It can hold more than its bounds: the reader must stop in time.

    Args:
        max_messages: messages from which on the queue is full.
        max_size: bytes, or characters of text, from which on the queue is full.

    Attributes:
        size: bytes, or characters of text, in the queue.
    """

    __slots__ = ("_max_messages", "_max_size", "_messages", "size")

    def __init__(self, max_messages: int, max_size: int) -> None:
        self._messages: deque[str | bytes] = deque()
        self._max_messages = max_messages
        self._max_size = max_size
        self.size = 0

    def use_limits(self, max_messages: int, max_size: int) -> None:
        """Use other bounds from now on."""
        self._max_messages, self._max_size = max_messages, max_size

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether no further message should be read."""
        return len(self._messages) >= self._max_messages or self.size >= self._max_size

    @property
    def is_half_empty(self) -> bool:
        """Whether there is enough space to read on."""
        return len(self._messages) <= self._max_messages // 2 and self.size <= self._max_size // 2

    def put(self, message: str | bytes) -> None:
        """Append a message."""
        self._messages.append(message)
        self.size += len(message)

    def get(self) -> str | bytes:
        """Remove and return the oldest message.

        Raises:
            IndexError: the queue is empty.
        """
        message = self._messages.popleft()
        self.size -= len(message)
        return message

    def clear(self) -> None:
        """Drop all messages."""
        self._messages.clear()
        self.size = 0


def queue_limits(options: Options, *, more: bool = False) -> tuple[int, int]:
    """Return how many messages and bytes may wait, and inflate in one read; `more` while a call waits for its reply."""
    messages, size = options.max_queue, options.max_message_size
    if more:
        messages, size = messages + options.max_call_queue, 2 * size
    return min(messages, 1 << 40), min(size, sys.maxsize)  # what the compiled build can hold


class ReplyQueue(MessageQueue):
    """A queue that replies to calls pass: the call that waits for a reply gets it at once.

    Args:
        queue: holds the messages that wait already; None if none do.
        take: returns whether a message is a reply, which is then not queued.
    """

    __slots__ = ("_take",)

    def __init__(self, queue: MessageQueue | None, take: Callable[[str | bytes], bool]) -> None:
        super().__init__(0, 0)
        self._take = take
        if queue is not None:
            self._messages, self.size = queue._messages, queue.size

    def put(self, message: str | bytes) -> None:
        """Append a message, unless it is a reply."""
        if not self._take(message):
            super().put(message)
