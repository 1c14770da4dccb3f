"""The connections of all workers of a machine, in memory that they share: what the limits of an App count.

Each process has a row of numbers in the memory, which only this process writes: the number of its connections, for
`max_connections`, and the numbers of the connections of each address and each user. A worker writes its own row first
and reads all rows then. So two workers that accept at the same moment see each other, and together they never accept
too many. The supervisor clears the row of a process that has ended before another process gets it.

Addresses and users

There can be more addresses than numbers, so the numbers are those of a count-min sketch. A key belongs to four numbers
of each row, one in each of four groups, by a hash whose secret the supervisor has drawn. It counts in all four, and its
number of connections in the other processes is the smallest of the four sums. Other keys that share a number can make
a sum too large, but never too small. While 10,000 other keys have connections, a number is shared with probability
1 - (1 - 1/65536) ** 10000 = 0.142, and all four with probability 0.0004: fewer than one client in 1,000 is counted too
high. The connections of its own process count exactly. A row takes 2 MiB, of which the system provides only what is
used.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import secrets
import struct
import tempfile
from contextlib import suppress
from typing import BinaryIO

from pywsapp._limits.key_counts import KeyCounts
from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: Rows for each worker: the process that serves, its replacement, and some that still drain.
_PROCESSES = 4
_SECRET_SIZE = 16
_NUMBER_SIZE = 4
#: Groups of numbers of one kind of keys, and numbers of a group: as many as two bytes of the hash can name.
_GROUPS = 4
_GROUP = 1 << 16
_KIND = _GROUPS * _GROUP
#: A row: the number of connections, whether keys were counted, the numbers of addresses, those of users.
_CONNECTIONS, _HAS_KEYS, _ADDRESSES, _USERS = 0, 1, 2, 2 + _KIND
_ROW = 2 + 2 * _KIND


class ConnectionCounts:
    """The rows of all processes; the supervisor creates it, and each worker opens its file.

    Without shared memory each worker counts alone, and the log says so.

    Args:
        workers: the number of workers.

    Attributes:
        workers: the number of workers.
        fds: the file descriptor that a worker inherits; empty if no memory can be shared.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.fds: list[int] = []
        self._file: BinaryIO | None = None
        self._is_short = False
        self._free: list[int] = []
        places = _PROCESSES * workers
        try:
            self._file = _anonymous_file()
            self._file.truncate(_SECRET_SIZE + places * _ROW * _NUMBER_SIZE)
            self._numbers = _map(self._file.fileno())[1]
        except (OSError, ValueError) as exc:
            logger.warning(
                "workers cannot share memory (%s), so each of them counts its own connections only",
                exc,
                extra=log_fields("worker.no_shared_memory", error=str(exc)),
            )
            return
        os.pwrite(self._file.fileno(), secrets.token_bytes(_SECRET_SIZE), 0)
        self.fds = [self._file.fileno()]
        self._free = list(range(places))

    def take(self) -> int | None:
        """Return a row for a new process; None if there is none, so that this process counts alone."""
        if self._free:
            return self._free.pop(0)
        if self.fds and not self._is_short:
            self._is_short = True
            logger.warning(
                "too many workers have not ended: a new one counts its own connections only",
                extra=log_fields("worker.no_shared_count"),
            )
        return None

    def release(self, place: int | None) -> None:
        """Clear the row of a process that has ended, for another process."""
        if place is not None:
            start = place * _ROW
            if self._numbers[start + _HAS_KEYS]:
                self._numbers[start : start + _ROW] = memoryview(bytes(_ROW * _NUMBER_SIZE)).cast("I")
            self._numbers[start + _CONNECTIONS] = 0
            self._free.append(place)

    def __enter__(self) -> ConnectionCounts:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


class ConnectionCount:
    """The row of one worker.

    Args:
        fd: the inherited file descriptor; it can be closed afterwards.
        place: the row of this process.

    Attributes:
        addresses: the connections of each address, in all processes.
        users: the connections of each user, in all processes.
    """

    def __init__(self, fd: int, place: int) -> None:
        secret, self._numbers = _map(fd)
        self._own = place * _ROW + _CONNECTIONS
        self.addresses = SharedKeyCounts(secret, self._numbers, place, _ADDRESSES)
        self.users = SharedKeyCounts(secret, self._numbers, place, _USERS)

    def update(self, own: int) -> int:
        """Set the number of connections of this process; return that of all processes."""
        self._numbers[self._own] = own
        return sum(self._numbers[_CONNECTIONS::_ROW])


class SharedKeyCounts(KeyCounts):
    """Counts connections by a key together with the other processes of the machine.

    Args:
        secret: the secret of the hash.
        numbers: the rows of all processes.
        place: the row of this process.
        kind: where the numbers of this kind of keys begin in a row.
    """

    __slots__ = ("_kind", "_numbers_of_all", "_row", "_secret")

    def __init__(self, secret: bytes, numbers: memoryview, place: int, kind: int) -> None:
        super().__init__()
        self._secret = secret
        self._numbers_of_all = numbers
        self._row = place * _ROW
        self._kind = kind

    def total(self, key: str) -> int:
        """Return the number of connections of a key in all processes, or a greater one."""
        numbers, row = self._numbers_of_all, self._row
        others = min(sum(numbers[at::_ROW]) - numbers[row + at] for at in self._places_of(key))
        return super().total(key) + others

    def add(self, key: str) -> None:
        """Count one connection more in this process."""
        super().add(key)
        self._numbers_of_all[self._row + _HAS_KEYS] = 1
        for at in self._places_of(key):
            self._numbers_of_all[self._row + at] += 1

    def remove(self, key: str) -> None:
        """Count one connection less in this process; there must be one."""
        super().remove(key)
        for at in self._places_of(key):
            self._numbers_of_all[self._row + at] -= 1

    def token(self, key: str) -> str:
        """Return a hash of a key, the same in all processes."""
        return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16, key=self._secret).hexdigest()

    def _places_of(self, key: str) -> list[int]:
        """Return the places in a row that belong to a key."""
        text = key.encode(errors="surrogatepass")
        hashes = struct.unpack("<4H", hashlib.blake2b(text, digest_size=2 * _GROUPS, key=self._secret).digest())
        return [self._kind + group * _GROUP + number for group, number in enumerate(hashes)]


def _anonymous_file() -> BinaryIO:
    """Return a new file that has no name: in memory if the system can do that, else on a disk."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # a sandbox can forbid the call
            return os.fdopen(os.memfd_create("pywsapp"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _map(fd: int) -> tuple[bytes, memoryview]:
    """Return the secret in a file, and its numbers."""
    memory = memoryview(mmap.mmap(fd, 0))
    return bytes(memory[:_SECRET_SIZE]), memory[_SECRET_SIZE:].cast("I")
