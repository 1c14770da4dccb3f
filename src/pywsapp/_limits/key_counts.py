"""The number of connections of each address, or of each user, in one process."""

from __future__ import annotations


class KeyCounts:
    """Counts connections by a key; the numbers of other processes can be added by a subclass."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of keys with a connection in this process."""
        return len(self._numbers)

    def total(self, key: str) -> int:
        """Return the number of connections of a key in all processes that count together, or a greater one."""
        return self._numbers.get(key, 0)

    def add(self, key: str) -> None:
        """Count one connection more in this process."""
        self._numbers[key] = self._numbers.get(key, 0) + 1

    def remove(self, key: str) -> None:
        """Count one connection less in this process; there must be one."""
        left = self._numbers[key] - 1
        if left:
            self._numbers[key] = left
        else:
            del self._numbers[key]
