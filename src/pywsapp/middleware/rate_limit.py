"""Middleware that limits how fast a client sends messages, pings and pongs.

A connection without it costs nothing. With it, a message within the limits costs one token bucket for each rate, and
the handler inside is called directly. `pywsapp._limits.token_bucket` has the theory of the buckets.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from pywsapp._lifecycle.delayed_call import DelayedCall, pause
from pywsapp._limits.budget import BudgetTable, MessageBudget, Rates
from pywsapp._limits.client_keys import address_key
from pywsapp._limits.message_counts import MessageCounts
from pywsapp._limits.shared_budget import SharedBuckets, SharedBudget
from pywsapp._signatures import name_of
from pywsapp.auth.user_keys import key_of_user
from pywsapp.close_codes import CloseCode
from pywsapp.component import Accept, ComponentFactory, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, ProtocolError
from pywsapp.http import Request
from pywsapp.middleware.base import Application, ComponentMiddleware

if TYPE_CHECKING:
    from pywsapp._lifecycle.lifecycle import Lifecycle

#: Returns the name of the client that a connection belongs to.
ClientName = Callable[[Connection], str]


class Exceeded(Enum):
    """The reaction of a `RateLimit` to a message above the limit."""

    DELAY = "delay"  #: handle it later, and read no further messages of the connection meanwhile
    DROP = "drop"  #: drop the message; the connection stays open
    CLOSE = "close"  #: close the connection with 1008
    CLOSE_TRY_LATER = "close_try_later"  #: close the connection with 1013, after which a client may come back


_CLOSE_CODES = {
    Exceeded.CLOSE: CloseCode.POLICY_VIOLATION,
    Exceeded.CLOSE_TRY_LATER: CloseCode.TRY_AGAIN_LATER,
}


class RateLimit(ComponentMiddleware):
    """Limits the messages, bytes and control frames that a connection, an address or a user sends in a second.

    Each rate is a token bucket: in t seconds at most `burst + rate * t` pass. Bytes are those of whole messages, text
    in UTF-8, after inflating. A message above the limit is delayed, dropped, or closes the connection. A message of
    more than `bytes_burst` bytes is delayed until the rate has earned it, is always dropped, or always closes.

    A delayed message is handled in order. Those behind it wait in the queue of the connection; when `Options.max_queue`
    is reached, the server stops reading, and TCP slows the client down. Pings are answered meanwhile. A delayed message
    is dropped when its connection ends before.

    Control frames are pings, and pongs that answer no ping of the server. They cannot be delayed: above their limit the
    server answers no ping, or closes the connection if `when_exceeded` says so. `Options.control_frames_per_second`
    limits those of each connection in any case.

    The limit counts in each process for itself, unless `shared` names a Redis server. `App.stats` has its numbers from
    its first connection on.

    Args:
        component: the component or App inside, as for `ComponentMiddleware`.
        messages_per_second: messages on average; None sets no limit.
        messages_burst: messages at once; those of one second by default, at least 1.
        bytes_per_second: bytes on average; None sets no limit.
        bytes_burst: bytes at once; those of one second by default.
        control_frames_per_second: pings and unsolicited pongs on average; None sets no limit.
        control_frames_burst: pings and unsolicited pongs at once; those of one second by default, at least 1.
        per: what the limit counts together: "connection"; "address", an IPv4 address or an IPv6 network of 64 bits;
            "user", the `user` of connections, or the address of those without one; or a function that returns the name
            of the client for a connection, which is called once, when it opens.
        when_exceeded: what happens with a message above the limit.
        shared: the URL of a Redis server (redis://, rediss://, unix://), where all processes count together; not for
            "connection". While it is unavailable, each process counts for itself.
        name: names the limit in logs, in `App.stats` and in Redis; "Chat per address" by default.
        max_idle: addresses or users without open connections that are remembered in this process, if they sent a
            moment ago. When there are more, the oldest is forgotten.

    Raises:
        ConfigurationError: an argument is not valid, or redis-py is not installed.
    """

    _budget: Any = None  # a MessageBudget or a SharedBudget, from `on_open` on
    _key: str | None = None  # of the budget in the table
    _user: Any = None  # for whom the budget is

    def __init__(
        self,
        component: MessageComponent | ComponentFactory | Application,
        *,
        messages_per_second: float | None = None,
        messages_burst: float | None = None,
        bytes_per_second: float | None = None,
        bytes_burst: float | None = None,
        control_frames_per_second: float | None = None,
        control_frames_burst: float | None = None,
        per: str | ClientName = "connection",
        when_exceeded: Exceeded = Exceeded.DELAY,
        shared: str | None = None,
        name: str | None = None,
        max_idle: int = 10_000,
    ) -> None:
        super().__init__(component)
        if not isinstance(when_exceeded, Exceeded):
            raise ConfigurationError(f"when_exceeded must be an Exceeded, not {when_exceeded!r}")
        if not callable(per) and per not in ("connection", "address", "user"):
            raise ConfigurationError(f'per must be "connection", "address", "user" or a function, not {per!r}')
        if type(max_idle) is not int or max_idle < 1:
            raise ConfigurationError(f"max_idle must be a whole number from 1 on, not {max_idle!r}")
        if shared is not None and per == "connection":
            raise ConfigurationError("a connection has one process, so its limit cannot be shared: choose another per")
        if messages_per_second is None and bytes_per_second is None and control_frames_per_second is None:
            raise ConfigurationError(
                "RateLimit needs messages_per_second, bytes_per_second or control_frames_per_second"
            )
        rates = Rates(
            *_rate("messages", messages_per_second, messages_burst),
            *_rate("bytes", bytes_per_second, bytes_burst),
            *_rate("control_frames", control_frames_per_second, control_frames_burst),
        )
        self._limit = _Limit(name or _default_name(component, per), rates, per, when_exceeded, shared, max_idle)

    def on_handshake(self, request: Request) -> Accept | Awaitable[Accept]:
        """Return what the component inside decides, with this middleware around it."""
        self._limit.report_to(request.app)
        return super().on_handshake(request)

    def on_open(self, conn: Connection) -> Any:
        """Find the budget of the connection, and call the hook of the component inside."""
        self._use_budget(conn)
        if self._limit.rates.control_frames is not None and conn._driver is not None:
            driver = cast("Lifecycle", cast("object", conn._driver))
            driver.machine.limit_control_frames(partial(self._take_control_frame, conn))
        return self.inner.on_open(conn)

    def on_close(self, conn: Connection) -> Any:
        """Release the budget of the connection, and call the hook of the component inside."""
        self._release()
        return self.inner.on_close(conn)

    def on_message(self, conn: Connection, message: Any) -> Any:
        """Call the hook of the component inside, if the message is within the limits."""
        limit, budget = self._limit, self._budget
        if limit.is_per_user and (budget is None or conn.user is not self._user):
            budget = self._use_budget(conn)
        size = _size(message) if limit.counts_bytes else 0
        now = monotonic()
        if budget.take(size, now):
            return self.inner.on_message(conn, message)
        if budget.must_ask(size, now):
            return DelayedCall(partial(self._ask, conn, size), self.inner.on_message, conn, message)
        if limit.when_exceeded is Exceeded.DELAY:
            wait = partial(self._wait, budget.reserve(size, now), conn, size)
            return DelayedCall(wait, self.inner.on_message, conn, message)
        limit.refuse(conn, now)
        return None

    def _take_control_frame(self, conn: Connection) -> bool:
        """Return whether a ping is answered, or close the connection; called within the protocol.

        Raises:
            ProtocolError: the connection must be closed.
        """
        limit, budget = self._limit, self._budget
        if budget is None or (limit.is_per_user and conn.user is not self._user):
            budget = self._use_budget(conn)
        now = monotonic()
        if not budget.take_control_frame(now):
            limit.refuse_control_frame(conn, now)
            return False
        if budget.begin_to_ask(now):
            limit.start_soon(budget.ask_for_control_frames)
        return True

    # -- messages that wait ------------------------------------------------------------------------------------------

    async def _ask(self, conn: Connection, size: int) -> bool:
        """Request a place in the shared budget, and wait; return whether the message must be handled."""
        limit = self._limit
        delays = limit.when_exceeded is Exceeded.DELAY
        seconds = await self._budget.ask(size, reserve=delays)
        if delays or seconds == 0:
            return await self._wait(seconds, conn, size)
        limit.refuse(conn, monotonic())
        return False

    async def _wait(self, seconds: float, conn: Connection, size: int) -> bool:
        """Wait; return whether the message must be handled, because the connection has not ended meanwhile."""
        counts = self._limit.counts
        if seconds > 0:
            counts.delayed.exceeded(conn, monotonic())
        if await pause(conn, seconds):
            return True
        if seconds > 0:
            self._budget.give_back(size)
            counts.dropped.exceeded(conn, monotonic())
        return False

    # -- budgets -----------------------------------------------------------------------------------------------------

    def _use_budget(self, conn: Connection) -> Any:
        """Find the budget for a connection whose user, if that matters, is a new one."""
        self._release()
        limit, now = self._limit, monotonic()
        if limit.per == "connection":
            self._budget = MessageBudget(limit.rates, now)
            return self._budget
        key = limit.key_of(conn)
        self._budget = limit.table.acquire(key, now)
        self._key = key
        if limit.is_per_user:
            self._user = conn.user
        return self._budget

    def _release(self) -> None:
        if self._key is not None:
            self._limit.table.release(self._key, monotonic())
            self._key = self._budget = None


class _Limit:
    """State that the copies of a `RateLimit` share."""

    def __init__(
        self,
        name: str,
        rates: Rates,
        per: str | ClientName,
        when_exceeded: Exceeded,
        shared: str | None,
        max_idle: int,
    ) -> None:
        self.rates = rates
        self.per = per
        self.when_exceeded = when_exceeded
        self.is_per_user = per == "user"
        self.counts_bytes = rates.bytes is not None
        self.counts = MessageCounts(name)
        self.table: BudgetTable[Any]
        self._buckets = None if shared is None else SharedBuckets(shared, name, rates)
        if self._buckets is None:
            self.table = BudgetTable(lambda _, now: MessageBudget(rates, now), max_idle)
        else:
            self.table = BudgetTable(partial(SharedBudget, self._buckets), max_idle)
        self._app: Any = None

    def key_of(self, conn: Connection) -> str:
        """Return the name of the client of a connection."""
        if callable(self.per):
            return self.per(conn)
        user = key_of_user(conn.request) if self.is_per_user else None
        return f"address {address_key(conn.remote_address)}" if user is None else f"user {user}"

    def refuse(self, conn: Connection, now: float) -> None:
        """Drop a message, and close its connection if the choice says so."""
        code = _CLOSE_CODES.get(self.when_exceeded)
        if code is None:
            self.counts.dropped.exceeded(conn, now)
        else:
            self.counts.closed.exceeded(conn, now)
            conn.close(code, "too many messages")

    def refuse_control_frame(self, conn: Connection, now: float) -> None:
        """Count a ping or pong above the limit.

        Raises:
            ProtocolError: the choice says that the connection is closed.
        """
        code = _CLOSE_CODES.get(self.when_exceeded)
        if code is None:
            self.counts.dropped_control_frames.exceeded(conn, now)
        else:
            self.counts.closed.exceeded(conn, now)
            raise ProtocolError(code, "too many pings or pongs")

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task of the App; when the App ends, it does not matter any more."""
        runner = getattr(self._app, "_runner", None)
        if runner is not None:
            with suppress(ConfigurationError):
                runner.hooks.background.start_soon(task)

    def report_to(self, app: Any) -> None:
        """Have an App count this limit in `App.stats`, and close the connection to Redis when the App ends."""
        if app is self._app:
            return
        self._app = app
        runner = getattr(app, "_runner", None)
        if runner is not None:
            runner.add_limit(self.counts, None if self._buckets is None else self._buckets.aclose)


def _rate(what: str, rate: object, burst: object) -> tuple[float | None, float]:
    if rate is None:
        if burst is not None:
            raise ConfigurationError(f"{what}_burst needs {what}_per_second")
        return None, 0.0
    _check_positive(f"{what}_per_second", rate)
    assert isinstance(rate, (int, float))
    if burst is None:
        return rate, max(1.0, rate)
    _check_positive(f"{what}_burst", burst)
    assert isinstance(burst, (int, float))
    if burst < 1:
        raise ConfigurationError(f"{what}_burst must be 1 or more, not {burst!r}")
    return rate, burst


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a number greater than 0, not {value!r}")


def _default_name(component: object, per: str | ClientName) -> str:
    inside = component
    while isinstance(inside, ComponentMiddleware):
        inside = inside.component
    kind = name_of(inside) if isinstance(inside, type) or not isinstance(inside, MessageComponent) else None
    return f"{kind or type(inside).__name__} per {name_of(per) if callable(per) else per}"


def _size(message: str | bytes) -> int:
    """Return the bytes of a message on the wire before compression."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
