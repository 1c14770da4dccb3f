"""Pending connections: accepted connections without an admitted request.

A connection is pending from the moment it is accepted, through its PROXY header, its TLS handshake and the head of its
request, until the server admits the request. `max_connections` counts admitted connections only, so pending ones can
never make the server refuse a client with 503. They have a limit of their own, and three rules bound what they cost:

- The limit. When there are `max_pending` of them, or the open files run out, a new connection takes the place of the
  oldest one. A client that sends its request at once is never the oldest for long, while a half-open connection is.
- One deadline, `Options.handshake_timeout`, for all that comes before the request is complete.
- A least rate, `Options.min_http_rate`, for a head that has begun.

A connection is pending again while a component waits for the rest of a body. One whose request was refused, or that
only discards the rest of one, is pending until it is gone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from pywsapp._log_fields import log_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from pywsapp._protocol.proxy_protocol import ProxyHeader
    from pywsapp.options import Options

logger = logging.getLogger("pywsapp")

#: A worker accepts as many connections at once after a restart; each costs a few KiB, and its head at most
#: `Options.max_header_size`.
MAX_PENDING = 10_000
#: Seconds that a head may take before its rate is measured: a lost packet costs a second or two.
_RATE_GRACE = 5.0
_LOG_SECONDS = 10.0


class PendingOwner(Protocol):
    """The object that has a pending connection: an acceptor's task at first, an HTTP connection afterwards."""

    @property
    def received(self) -> int:
        """Bytes of the head, or of the body, that have arrived."""

    def expire(self) -> None:
        """End the connection, with an answer if possible: it was too slow."""

    def evict(self) -> None:
        """Drop the connection at once: it must make place."""


class PendingConnection:
    """One pending connection, from accept on; `PendingConnections.add` makes it.

    It does not refer to its owner, which refers to it: the memory of such a cycle would wait for the garbage collector.

    Args:
        deadline: when it expires, in seconds of the event loop's clock; None to count from the next tick.
        has_protocol: whether it belongs to an HTTP connection, which the runtime knows too.

    Attributes:
        is_counted: whether it is one of the pending connections of the server.
        header: the PROXY header that was received, or None.
    """

    __slots__ = ("began", "deadline", "has_protocol", "header", "is_counted")

    def __init__(self, deadline: float | None, has_protocol: bool) -> None:
        self.deadline = deadline
        self.has_protocol = has_protocol
        self.is_counted = False
        self.header: ProxyHeader | None = None
        self.began: float | None = None  # when `tick` saw the first bytes of the head


class PendingConnections:
    """The pending connections of a server, oldest first.

    Args:
        options: the time limits.
        limit: how many there can be.
        open_connections: returns the number of connections that the runtime knows.
        max_files: how many connections can be open, pending or not.

    Attributes:
        evicted: how many made place for others since the last log line.
        total_evicted: how many made place for others since the start.
    """

    def __init__(self, options: Options, limit: int, open_connections: Callable[[], int], max_files: int) -> None:
        self.limit = limit
        self.evicted = 0
        self.total_evicted = 0
        self._options = options
        self._open_connections = open_connections
        self._max_files = max_files
        self._entries: dict[PendingConnection, PendingOwner] = {}
        self._with_protocol = 0
        self._logged_at: float | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def admitted(self) -> int:
        """The number of connections whose request was admitted."""
        return self._open_connections() - self._with_protocol

    def add(
        self, owner: PendingOwner, deadline: float | None = None, *, has_protocol: bool = False
    ) -> PendingConnection:
        """Add a connection; the oldest one makes place if there is none.

        Args:
            owner: the object that has the connection.
            deadline: as in `PendingConnection`.
            has_protocol: as in `PendingConnection`.
        """
        entries = self._entries
        if entries and (len(entries) >= self.limit or self.admitted + len(entries) >= self._max_files):
            oldest, its_owner = next(iter(entries.items()))
            self.evicted += 1
            self.total_evicted += 1
            self.remove(oldest)
            its_owner.evict()
        entry = PendingConnection(deadline, has_protocol)
        entries[entry] = owner
        entry.is_counted = True
        self._with_protocol += has_protocol
        return entry

    def hand_over(self, entry: PendingConnection, owner: PendingOwner) -> bool:
        """Pass a connection, which keeps its age and deadline, to its protocol; return False if it was evicted."""
        if not entry.is_counted:
            return False
        self._entries[entry] = owner
        entry.has_protocol = True
        self._with_protocol += 1
        return True

    def remove(self, entry: PendingConnection) -> None:
        """Remove a connection that was admitted or has ended; does nothing if it is not here."""
        if entry.is_counted:
            entry.is_counted = False
            del self._entries[entry]
            self._with_protocol -= entry.has_protocol

    def tick(self, now: float) -> None:
        """End the connections that are too slow.

        Args:
            now: seconds of the event loop's clock.
        """
        for entry, owner in list(self._entries.items()):
            if entry.deadline is None:
                entry.deadline = now + self._options.handshake_timeout
            elif now >= entry.deadline or self._is_slow(entry, owner.received, now):
                entry.deadline = entry.began = None  # it gets as long again for the end
                owner.expire()
        if self.evicted and (self._logged_at is None or now - self._logged_at >= _LOG_SECONDS):
            logger.warning(
                "dropped %d connections without a complete request to make place for new ones (%d are pending); "
                "max_pending of the App is the limit",
                self.evicted,
                len(self._entries),
                extra=log_fields("limit.exceeded", limit="max_pending", count=self.evicted),
            )
            self.evicted, self._logged_at = 0, now

    def _is_slow(self, entry: PendingConnection, received: int, now: float) -> bool:
        rate = self._options.min_http_rate
        if rate is None or not received:
            return False
        if entry.began is None:
            entry.began = now
        seconds = now - entry.began
        return seconds >= _RATE_GRACE and received < rate * seconds
