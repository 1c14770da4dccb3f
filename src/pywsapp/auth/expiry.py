"""The expiry of users: connections are closed with code 4401 when their user has expired.

A connection can also have an alarm: a function that is called at a time of its own, to warn a client of the expiry for
example.

The server has one `Expiries`, which its task for time limits calls about every second. Connections whose user does not
expire are not in it. The heap can have outdated entries: of connections that have ended, and of users that were
refreshed. They are dropped when their time comes, or all at once when they are the larger part of the heap.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable

from pywsapp._clocks import wall_clock
from pywsapp._log_fields import log_fields
from pywsapp._request_state import Access, access_of
from pywsapp.close_codes import CloseCode
from pywsapp.connection import Connection

logger = logging.getLogger("pywsapp")

#: Entries of the heap that may be outdated in any case.
_SPARE = 64
#: Connections that are closed in one call; the others follow in the next one.
_MAX_CLOSED = 200


class Expiries:
    """The connections of a server whose users expire.

    Args:
        clock: returns seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = wall_clock) -> None:
        self._clock = clock
        self._watched: dict[int, tuple[float, Connection]] = {}  # by the ids of connections
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, conn: Connection) -> None:
        """Close a connection when its user expires, and call its alarm; the last call for a connection counts."""
        due = _due(access_of(conn.request))
        if due is None:
            self._watched.pop(conn.id, None)
            return
        self._watched[conn.id] = due, conn
        heapq.heappush(self._heap, (due, conn.id))
        if len(self._heap) > 2 * len(self._watched) + _SPARE:
            self._heap = [(at, number) for number, (at, _) in self._watched.items()]
            heapq.heapify(self._heap)

    def discard(self, conn: Connection) -> None:
        """Remove a connection that has ended."""
        self._watched.pop(conn.id, None)

    def tick(self, now: float) -> None:
        """Close the connections whose users have expired, and call the alarms whose time has come.

        Args:
            now: seconds of a monotonic clock. It is not used: an expiry is a time of day, and the clock can be set.
        """
        heap = self._heap
        if not heap:
            return
        now = self._clock()
        for _ in range(_MAX_CLOSED):
            if not heap or heap[0][0] > now:
                return
            expires_at, number = heapq.heappop(heap)
            watched = self._watched.get(number)
            if watched is not None and watched[0] == expires_at:
                del self._watched[number]
                conn = watched[1]
                access = access_of(conn.request)
                if access is not None and access.alarm is not None and access.alarm[0] <= now:
                    (_, call), access.alarm = access.alarm, None
                    call()
                    if conn.is_open:
                        self.watch(conn)
                    continue
                reason = "no credentials came in time" if conn.user is None else "the credentials have expired"
                logger.info("%r is closed: %s", conn, reason, extra=log_fields("auth.expired", conn, reason=reason))
                conn.close(CloseCode.UNAUTHENTICATED, reason)


def _due(access: Access | None) -> float | None:
    """Return when a connection must be looked at, in seconds since 1970; None for never."""
    if access is None or access.alarm is None:
        return None if access is None else access.expires_at
    return access.alarm[0] if access.expires_at is None else min(access.alarm[0], access.expires_at)
