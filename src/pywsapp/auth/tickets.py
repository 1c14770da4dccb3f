"""One-time tickets: a page asks for one over HTTP, and opens its WebSocket with it within seconds.

    tickets = TicketIssuer("redis://localhost")

    @app.http("/ticket", methods=["POST"], authenticate=session_or_token)
    async def ticket(request):
        return {"ticket": await tickets.issue_for(request)}

    app.route("/chat", Chat(), authenticate=TicketAuthenticator(tickets))

    new WebSocket(url + "?ticket=" + ticket)

A ticket has 192 random bits. It is for one user and one origin, for half a minute, and is accepted once: the store
removes it when it is read. Only its hash is stored. So a ticket in the log of a proxy opens nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from pywsapp._clocks import monotonic_clock
from pywsapp._extras import import_extra
from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp._request_state import access_of
from pywsapp._signatures import check_takes
from pywsapp.auth.identity import Authenticated, as_identity
from pywsapp.auth.tokens import BaseTokenAuthenticator, BearerSubprotocol, QueryToken, TokenSource
from pywsapp.exceptions import ConfigurationError, InvalidCredentials, Refuse
from pywsapp.http import Request

logger = logging.getLogger("pywsapp")

#: Bytes of what is stored with a ticket.
MAX_DATA = 8192
_RANDOM_BYTES = 24
_LOG_SECONDS = 30.0


class TicketStore(ABC):
    """Keeps tickets until they are used or expire.

    Attributes:
        name: what it is, for the log.
        is_shared: whether several processes have the same tickets.
    """

    name = "the ticket store"
    is_shared = True

    @abstractmethod
    async def put(self, key: str, data: bytes, seconds: float) -> None:
        """Store the data of a ticket.

        Args:
            key: the hash of the ticket.
            data: the data.
            seconds: seconds until it expires.

        Raises:
            Exception: the ticket could not be stored.
        """

    @abstractmethod
    async def take(self, key: str) -> bytes | None:
        """Remove a ticket and return its data; None if there is none, or another caller has it.

        Raises:
            Exception: the store cannot be reached.
        """

    async def aclose(self) -> None:
        """Close the connections of the store. Never raises."""
        return


class MemoryTicketStore(TicketStore):
    """Keeps tickets in the memory of this process.

    Args:
        max_tickets: tickets at the same time; further ones are not issued.
        clock: returns seconds of a monotonic clock.
    """

    name = "the ticket store in memory"
    is_shared = False

    def __init__(self, max_tickets: int = 100_000, clock: Callable[[], float] = monotonic_clock) -> None:
        self._max_tickets = max_tickets
        self._clock = clock
        self._tickets: dict[str, tuple[float, bytes]] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    async def put(self, key: str, data: bytes, seconds: float) -> None:
        """Store the data of a ticket."""
        now = self._clock()
        while self._tickets and next(iter(self._tickets.values()))[0] <= now:  # the oldest ones are in front
            del self._tickets[next(iter(self._tickets))]
        if len(self._tickets) >= self._max_tickets:
            raise OverflowError(f"there are {self._max_tickets} tickets")
        self._tickets[key] = now + seconds, data

    async def take(self, key: str) -> bytes | None:
        """Remove a ticket and return its data."""
        expires, data = self._tickets.pop(key, (0.0, b""))
        return data if expires > self._clock() else None


class TicketIssuer:
    """Issues tickets, and redeems them.

    Args:
        store: "memory", the URL of a Redis server, or a `TicketStore`. Several workers or machines need Redis.
        seconds: how long a ticket can be used.

    Raises:
        ConfigurationError: an argument is not valid, or a library is missing.
    """

    def __init__(self, store: str | TicketStore = "memory", *, seconds: float = 30) -> None:
        self._store = _store_for(store) if isinstance(store, str) else store
        if not isinstance(self._store, TicketStore):
            raise ConfigurationError(f"store must be 'memory', a redis:// URL or a TicketStore, not {store!r}")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 1 <= seconds <= 3600:
            raise ConfigurationError(f"seconds must be from 1 to 3600, not {seconds!r}")
        self._seconds = seconds
        self._logged_at = float("-inf")

    def __repr__(self) -> str:
        return f"TicketIssuer({self._store.name})"

    async def issue_for(self, request: Request) -> str:
        """Return a ticket for the user and the page of a request, which must have a guard.

        The ticket is for the page's origin, so the page must send a POST: browsers send no Origin with a GET to their
        own site. The connection ends when the user of the request would.

        Raises:
            InvalidCredentials: the request has no user.
            Refuse: 400, the request has no Origin; 503, the ticket cannot be stored.
            ConfigurationError: the user cannot be written as JSON.
        """
        access = access_of(request)
        if access is None or access.user is None:
            raise InvalidCredentials
        origins = request.headers.getlist("origin")
        if len(origins) != 1 or origins[0] == "null":
            raise Refuse(400, body="the request needs an Origin field: send a POST")
        self._check_shared(request)
        identity = Authenticated(access.user, access.expires_at, access.subject)
        return await self.issue(identity, origin=origins[0])

    async def issue(self, user: Any, *, origin: str | None) -> str:
        """Return a ticket.

        Args:
            user: a value that JSON can express, or an `Authenticated` with such a user.
            origin: the origin of the page that can use the ticket: "https://example.com"; None for any client.

        Raises:
            Refuse: 503, the ticket cannot be stored.
            ConfigurationError: the user cannot be written as JSON, or is too large.
        """
        identity = as_identity(user)
        try:
            data = json.dumps([identity.user, identity.expires_at, identity.subject, origin]).encode()
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(f"the user of a ticket must be what JSON can express: {exc}") from None
        if len(data) > MAX_DATA:
            raise ConfigurationError(f"the user of a ticket takes {len(data)} bytes, and {MAX_DATA} are possible")
        ticket = secrets.token_urlsafe(_RANDOM_BYTES)
        try:
            await self._store.put(_key(ticket), data, self._seconds)
        except Exception as exc:
            raise self._unavailable(exc) from None
        return ticket

    async def redeem(self, ticket: str, request: Request) -> Authenticated:
        """Return the user of a ticket, which cannot be used again.

        Args:
            ticket: the ticket.
            request: the handshake, for its origin.

        Raises:
            InvalidCredentials: there is no such ticket, it was used, it has expired, or it is for another origin.
            Refuse: 503, the store cannot be reached.
        """
        self._check_shared(request)
        try:
            data = await self._store.take(_key(ticket))
            if data is None:
                raise InvalidCredentials("the ticket is not valid, was used already, or has expired")
            identity, origin = _parsed(data)
        except InvalidCredentials:
            raise
        except Exception as exc:
            raise self._unavailable(exc) from None
        if origin is not None and request.headers.getlist("origin") != [origin]:
            raise InvalidCredentials("the ticket is for another origin")
        return identity

    async def aclose(self) -> None:
        """Close the connection of the store: `app.on_shutdown(tickets.aclose)`. Never raises."""
        await self._store.aclose()

    def _check_shared(self, request: Request) -> None:
        if not self._store.is_shared and getattr(request.app, "worker", None) is not None:
            raise ConfigurationError(
                "each worker has tickets of its own in memory, so most of them are refused: "
                "write TicketIssuer('redis://...') for several workers"
            )

    def _unavailable(self, exc: Exception) -> Refuse:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            logger.warning(
                "%s failed: %s %s",
                self._store.name,
                type(exc).__name__,
                one_line(str(exc)),
                extra=log_fields("auth.store_failed", store=self._store.name, error=f"{type(exc).__name__} {exc}"),
            )
        return Refuse(503, {"Retry-After": "5"}, "tickets are not available now")


class TicketAuthenticator(BaseTokenAuthenticator):
    """An authenticator for tickets.

    Args:
        issuer: redeems the tickets.
        sources: where the ticket can be; by default `QueryToken("ticket")` and `BearerSubprotocol("ticket")`.
        user: a def or async def that makes the user from what the ticket was issued for, for instance from a database.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(self, issuer: TicketIssuer, *sources: TokenSource, user: Callable[[Any], Any] | None = None) -> None:
        if not isinstance(issuer, TicketIssuer):
            raise ConfigurationError(f"issuer must be a TicketIssuer, not {issuer!r}")
        if user is not None:
            check_takes(user, ("user",), "user")
        super().__init__(sources or (QueryToken("ticket"), BearerSubprotocol("ticket")))
        self._issuer = issuer
        self._make_user = user

    async def check(self, token: str, request: Request) -> Authenticated:
        """Return the user of the ticket of a request.

        Raises:
            InvalidCredentials: the ticket is not valid.
            Refuse: 503, the store cannot be reached.
        """
        identity = await self._issuer.redeem(token, request)
        if self._make_user is None:
            return identity
        user = self._make_user(identity.user)
        if isinstance(user, Awaitable):
            user = await user
        return Authenticated(as_identity(user).user, identity.expires_at, identity.subject)

    def verify(self, token: str) -> Authenticated:
        """Raise ConfigurationError: a ticket opens a connection, and is not for an open one."""
        raise ConfigurationError("a ticket opens a connection; it cannot be sent over one")


def _parsed(data: bytes) -> tuple[Authenticated, str | None]:
    """Return the user and the origin of a ticket from what was stored with it.

    Raises:
        Exception: it is not what `TicketIssuer.issue` stores.
    """
    user, expires_at, subject, origin = json.loads(data)
    if user is None or not isinstance(subject, (str, type(None))) or not isinstance(origin, (str, type(None))):
        raise ValueError("the data of a ticket is not what was stored")
    return Authenticated(user, expires_at, subject), origin


def _key(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()  # a ticket from JSON can be any text


def _store_for(url: str) -> TicketStore:
    if url == "memory":
        return MemoryTicketStore()
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError("the store of tickets is 'memory', redis://, rediss:// or unix://")
    store: TicketStore = import_extra("pywsapp.auth.redis_tickets", "redis").RedisTicketStore(url)
    return store
