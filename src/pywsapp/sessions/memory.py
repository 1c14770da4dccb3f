"""`MemorySessionStore`: sessions in the memory of one process, for tests, development and small servers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from pywsapp.exceptions import ConfigurationError
from pywsapp.sessions.key_value import KeyValueStore


class MemorySessionStore(KeyValueStore):
    """Keeps sessions in this process: they end with it, and other workers do not see them.

    Args:
        max_sessions: how many sessions it keeps. A further one takes the place of the one that would expire first.
        options: those of `SessionStore`: `cookie`, `max_age`, `sliding`, `max_size`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    name = "the session store in memory"
    is_shared = False

    def __init__(self, *, max_sessions: int = 10_000, **options: Any) -> None:
        super().__init__(**options)
        if max_sessions < 1:
            raise ConfigurationError(f"max_sessions must be 1 or more, not {max_sessions!r}")
        self.max_sessions = max_sessions
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # in the order of their ends

    def __len__(self) -> int:
        """Return how many sessions it keeps, expired ones that were not removed yet included."""
        return len(self._values)

    async def read(self, key: str, renew_seconds: int | None) -> bytes | None:
        """Return the value of a key."""
        self._expire()
        found = self._values.get(key)
        if found is None:
            return None
        if renew_seconds is not None:
            self._put(key, found[0], renew_seconds)
        return found[0]

    async def write(self, key: str, value: bytes, seconds: int, *, create: bool) -> bool:
        """Write a value."""
        self._expire()
        if not create and key not in self._values:
            return False
        self._put(key, value, seconds)
        while len(self._values) > self.max_sessions:
            self._values.popitem(last=False)
        return True

    async def remove(self, key: str) -> None:
        """Remove a key."""
        self._values.pop(key, None)

    def _put(self, key: str, value: bytes, seconds: int) -> None:
        ends = self.now() + seconds
        known = self._values.get(key)
        self._values[key] = value, ends
        if known is None or self.is_sliding:  # a fixed end is as late as it was, so the order is right
            self._values.move_to_end(key)

    def _expire(self) -> None:
        now = self.now()
        while self._values:
            key, (_, ends) = next(iter(self._values.items()))
            if ends > now:
                return
            del self._values[key]
