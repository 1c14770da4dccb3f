"""The limits of handshakes: how many in a second, and how many connections of one address and of one user.

An address counts with its network: IPv6 addresses by /64, because a client has at least that many. The address of a
trusted proxy does not count, because it is not the client's, and neither does a client on a Unix socket.

A connection counts for its address from its handshake on, also while its component decides, until its transport is
lost: otherwise one client could make the server ask for any number of decisions at the same time. A client that
connects again is not refused because of a handler of its old connection that still runs. The user is known when the
handshake is accepted, or even later: a connection whose user changes counts for the new one from then on, and is closed
if that one has too many.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pywsapp._addresses import is_private
from pywsapp._limits.client_keys import address_key
from pywsapp._limits.connection_limits import ConnectionLimits
from pywsapp._limits.handshake_rate import HandshakeRate
from pywsapp._limits.key_counts import KeyCounts
from pywsapp._limits.over_limit import OverLimit
from pywsapp._limits.report import LimitReport
from pywsapp._server.user_limit import Peers, Place, UserLimit, close_above_limit
from pywsapp.auth.user_keys import key_of_user
from pywsapp.options import TooMany

if TYPE_CHECKING:
    from pywsapp._server.proxies import Proxies
    from pywsapp.connection import Connection
    from pywsapp.http import Request

#: From so many refusals of one private address in a row on, it looks as if a proxy was not trusted.
_SUSPICIOUS = 10


@dataclass(frozen=True, slots=True)
class Counting:
    """The counters of the admission of a process.

    Args:
        addresses: the connections of each address.
        users: the connections of each user.
        processes: among how many processes the handshakes per second are divided.
        user_key: returns what names the user of a handshake; None if it has no user.
        peers: carries messages to the other processes; None if there are none, or if they do not count together.
    """

    addresses: KeyCounts = field(default_factory=KeyCounts)
    users: KeyCounts = field(default_factory=KeyCounts)
    processes: int = 1
    user_key: Callable[[Request], str | None] = key_of_user
    peers: Peers | None = None


class Admission:
    """Admits the handshakes of a server, or refuses them.

    Args:
        limits: the limits.
        counting: what to count with.
        proxies: the trusted proxies, whose addresses do not count.
        reports: the reports of limits by their names.

    Attributes:
        counting: what it counts with.
        reports: the reports.
    """

    def __init__(
        self, limits: ConnectionLimits, counting: Counting, proxies: Proxies, reports: Mapping[str, LimitReport]
    ) -> None:
        self._limits = limits
        self.counting = counting
        self._proxies = proxies
        self.reports = reports
        rate = limits.max_handshakes_per_second
        self._rate = None if rate is None else HandshakeRate(rate / counting.processes)
        self._places: dict[Request, Place] = {}
        self._users: UserLimit | None = None
        if limits.max_connections_per_user is not None:
            self._users = UserLimit(
                limits.max_connections_per_user,
                counting.users,
                reports["max_connections_per_user"],
                closes_oldest=limits.on_too_many is TooMany.CLOSE_OLDEST,
                peers=counting.peers,
            )
        self._suspected: tuple[str, int] = ("", 0)  # a private address, and how often it was refused in a row

    def __len__(self) -> int:
        """Return the number of connections that count."""
        return len(self._places)

    def check(self, request: Request) -> None:
        """Count a handshake for its address, or refuse it, before its component is asked.

        `release` must be called if it is not accepted.

        Raises:
            OverLimit: with 503 above the rate, and with 429 if its address has too many connections.
        """
        place = self._make_place(request)
        # After the address, so that one address cannot use up the handshakes of the others.
        if self._rate is not None and (wait := self._rate.take(time.monotonic())):
            self._count_no_longer(place)
            self.reports["max_handshakes_per_second"].exceeded(_peer(request), time.monotonic())
            seconds = random.randint(1, math.ceil(wait))
            raise OverLimit(503, [("Retry-After", str(seconds))], "the server has too many handshakes")
        if place.address is not None:
            self._places[request] = place

    def add(self, request: Request) -> None:
        """Count the connection of a plain request for its address, until `release`.

        Raises:
            OverLimit: with 429 if its address has too many connections.
        """
        place = self._make_place(request)
        if place.address is not None:
            self._places[request] = place

    def admit(self, request: Request) -> Place:
        """Count a handshake that is accepted now; return its place, which needs the connection.

        Raises:
            OverLimit: with 429 if its address or its user has too many connections.
        """
        user = None if self._users is None else self.counting.user_key(request)
        place = self._places.get(request)
        if place is None:
            place = self._places[request] = self._make_place(request)
        if self._users is not None and user is not None:
            try:
                self._users.add(user, place)
            except OverLimit:
                self.release(request)
                raise
        return place

    def release(self, request: Request) -> None:
        """Count the connection of a request no longer; does nothing if it does not count."""
        place = self._places.pop(request, None)
        if place is not None:
            self._count_no_longer(place)

    def _make_place(self, request: Request) -> Place:
        address = self._address_of(request)
        if address is not None:
            self.counting.addresses.add(address)  # before the check, so that two processes never admit too many
            if self.counting.addresses.total(address) > (self._limits.max_connections_per_address or 0):
                self.counting.addresses.remove(address)
                raise self._too_many_of_address(address)
        return Place(address)

    def _count_no_longer(self, place: Place) -> None:
        if place.address is not None:
            self.counting.addresses.remove(place.address)
        if self._users is not None:
            self._users.remove(place)
        place.conn = None

    def user_changed(self, conn: Connection) -> None:
        """Count a connection for its new user, and no longer for the one before; close it if that is not possible.

        Raises:
            ConfigurationError: the user has no key.
        """
        place = self._places.get(conn.request)
        if self._users is None or place is None or not conn.is_open:
            return
        user = self.counting.user_key(conn.request)
        if user == place.user:
            return
        self._users.remove(place)
        if user is not None:
            try:
                self._users.add(user, place)
            except OverLimit:
                close_above_limit(conn)

    def _address_of(self, request: Request) -> str | None:
        """Return what the address of a request counts as; None if it does not count."""
        address = request.remote_address
        if self._limits.max_connections_per_address is None or not address or address in self._proxies:
            return None
        return address_key(address)

    def _too_many_of_address(self, address: str) -> OverLimit:
        self.reports["max_connections_per_address"].exceeded(address, time.monotonic())
        self._suspect(address)
        return OverLimit(429, body="too many connections from this address")

    def _suspect(self, address: str) -> None:
        """Log that a proxy may be missing in `trusted_proxies`, if a private address is refused again and again."""
        suspected, times = self._suspected
        times = times + 1 if address == suspected else 1
        self._suspected = address, times
        if times >= _SUSPICIOUS and is_private(address):
            self.reports["untrusted_proxy"].exceeded(address, time.monotonic())


def _peer(request: Request) -> str:
    return request.remote_address or "local"
