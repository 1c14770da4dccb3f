"""The messages that wait for a program, and how their queue ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio.lowlevel

from pywsapp._connecting.topics.bell import Bell
from pywsapp.exceptions import ConfigurationError

T = TypeVar("T")


class MessageQueue(Generic[T]):
    """A queue from which one task receives.

    Args:
        limit: how many messages may wait.

    Attributes:
        items: what waits, the oldest first.
        has_ended: whether nothing more comes.
        failure: why nothing more comes; None if the program wants it so.
    """

    __slots__ = ("_bell", "_is_receiving", "_limit", "failure", "has_ended", "items")

    def __init__(self, limit: int) -> None:
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"the buffer of messages must be a whole number from 1 on, not {limit!r}")
        self.items: deque[T] = deque()
        self.has_ended = False
        self.failure: Exception | None = None
        self._limit = limit
        self._bell = Bell()
        self._is_receiving = False

    @property
    def is_full(self) -> bool:
        """Whether there is no space for another message."""
        return len(self.items) >= self._limit

    def append(self, item: T) -> None:
        """Add a message, for which there must be space."""
        self.items.append(item)
        self._bell.ring()

    def end(self, failure: Exception | None) -> None:
        """End the queue; what waits can still be received."""
        if not self.has_ended:
            self.has_ended = True
            self.failure = failure
            self._bell.ring()

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Let one task receive in the block.

        Raises:
            ConfigurationError: another task is in such a block.
        """
        if self._is_receiving:
            raise ConfigurationError(
                "two tasks receive from one subscription at the same time; let one task receive and pass messages on"
            )
        self._is_receiving = True
        try:
            yield
        finally:
            self._is_receiving = False

    async def wait(self) -> bool:
        """Wait until there is a message; return False if none will come.

        Raises:
            Exception: the failure that has ended the queue.
        """
        while not self.items:
            if self.has_ended:
                await anyio.lowlevel.checkpoint()  # a loop that ignores the exception must not block other tasks
                self.raise_failure()
                return False
            await self._bell.wait()
        return True

    def raise_failure(self) -> None:
        """Raise the failure that has ended the queue, if there is one."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
