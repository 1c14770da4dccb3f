"""The connections of all workers of a machine, in memory that they share: what `max_connections` limits.

Each process has one number in the memory, which only this process writes. A worker writes its own number first and
reads all numbers then. So two workers that accept at the same moment see each other, and together they never accept too
many. The supervisor sets the number of a process that has ended to zero.
"""

from __future__ import annotations

import mmap
import tempfile

#: Numbers for each worker: the process that serves, its replacement, and some that still drain.
_PROCESSES = 4
_NUMBER_SIZE = 4


class ConnectionCounts:
    """The numbers of all processes; the supervisor creates it, and each worker opens its file.

    Args:
        workers: the number of workers.

    Attributes:
        fd: the file descriptor of the memory, which a worker inherits.
        places: how many numbers there are.
    """

    def __init__(self, workers: int) -> None:
        self.places = _PROCESSES * workers
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it has no name, and is open as long as the supervisor
        self._file.truncate(self.places * _NUMBER_SIZE)
        self.fd = self._file.fileno()
        self._numbers = _numbers(self.fd, self.places)
        self._free = list(range(self.places))

    def take(self) -> int | None:
        """Return a place for a new process; None if there are too many processes, so that this one is not counted."""
        return self._free.pop(0) if self._free else None

    def release(self, place: int | None) -> None:
        """Release the place of a process that has ended."""
        if place is not None:
            self._numbers[place] = 0
            self._free.append(place)

    def __enter__(self) -> ConnectionCounts:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


class ConnectionCount:
    """The number of one worker.

    Args:
        fd: the inherited file descriptor; it can be closed afterwards.
        place: the place of this process.
        places: how many numbers there are.
    """

    def __init__(self, fd: int, place: int, places: int) -> None:
        self._numbers = _numbers(fd, places)
        self._place = place

    def update(self, own: int) -> int:
        """Set the number of connections of this process; return that of all processes."""
        self._numbers[self._place] = own
        return sum(self._numbers)


def _numbers(fd: int, places: int) -> memoryview:
    return memoryview(mmap.mmap(fd, places * _NUMBER_SIZE)).cast("I")
