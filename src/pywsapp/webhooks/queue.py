"""The events that wait for a receiver: a queue with two bounds."""

from __future__ import annotations

from collections import deque

from pywsapp.webhooks.options import WebhookOptions, WhenFull

#: Bytes of events in one request; one larger event is a request by itself.
_BATCH_BYTES = 256 * 1024


class EventQueue:
    """The encoded events of one webhook, in order. Those that were taken count until they are released.

    Args:
        options: the bounds and the policy.
    """

    def __init__(self, options: WebhookOptions) -> None:
        self._options = options
        self._waiting: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    def add(self, event: bytes) -> int:
        """Add an event; return how many events were dropped. One that never fits is dropped alone."""
        if len(event) > self._options.max_waiting_bytes:
            return 1
        dropped = 0
        while self._is_full(event):
            dropped += 1
            if self._options.when_full is WhenFull.DROP_NEWEST or not self._waiting:
                return dropped
            self._size -= len(self._waiting.popleft())
        self._waiting.append(event)
        self._size += len(event)
        return dropped

    def _is_full(self, event: bytes) -> bool:
        options = self._options
        return len(self) >= options.max_waiting or self._size + len(event) > options.max_waiting_bytes

    def take(self) -> list[bytes]:
        """Reserve the events of the next request until `release`, and return them."""
        size = 0
        while self._waiting and len(self._taken) < self._options.max_batch and size < _BATCH_BYTES:
            event = self._waiting.popleft()
            self._taken.append(event)
            size += len(event)
        return self._taken

    def release(self) -> None:
        """Forget the events that were taken."""
        self._size -= sum(map(len, self._taken))
        self._taken = []

    def clear(self) -> int:
        """Forget all events; return how many there were."""
        count = len(self)
        self._waiting.clear()
        self._taken, self._size = [], 0
        return count
