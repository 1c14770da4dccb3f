"""The limits of the life of a connection: its age, and the time without a message.

Only a connection whose options set such a limit has a `Lifetime`. Its functions wrap those
that its messages pass anyway, so a message of another connection passes no code of this module.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp._outbox.outbox import Flusher
from pywsapp.close_codes import CloseCode
from pywsapp.options import Options

if TYPE_CHECKING:
    from pywsapp._lifecycle.state_machine import StateMachine
    from pywsapp._outbox.outbox import Outbox

#: Names of the limits.
MAX_CONNECTION_AGE = "max_connection_age"
IDLE_TIMEOUT = "idle_timeout"

#: The share of `Options.max_connection_age` that a connection has.
_SHARES = 0.9, 1.1


class Lifetime:
    """The age and the idle time of one connection; `lifetime_of` makes it.

    No I/O happens here except closing the connection, and time is an argument.

    Args:
        options: the limits.

    Attributes:
        exceeded: the name of the limit that has ended the connection, or None.
    """

    __slots__ = ("_began", "_idle_since", "_is_used", "_max_age", "_options", "exceeded")

    def __init__(self, options: Options) -> None:
        self.exceeded: str | None = None
        self._options = options
        self._max_age = float("inf")
        if options.max_connection_age is not None:
            self._max_age = options.max_connection_age * random.uniform(*_SHARES)
        self._began: float | None = None
        self._idle_since = 0.0
        self._is_used = False  # since the last tick

    def watch_messages(self, on_message: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a function in place of `on_message` that notices messages."""
        if self._options.idle_timeout is None:
            return on_message

        def watched(conn: Any, message: Any) -> Any:
            self._is_used = True
            return on_message(conn, message)

        return watched

    def watch_sends(self, flusher: Flusher) -> Flusher:
        """Return a flusher in place of another that notices when the connection sends."""
        return flusher if self._options.idle_timeout is None else _WatchedFlusher(flusher, self)

    def used(self) -> None:
        """Note that a message has been sent."""
        self._is_used = True

    def tick(self, now: float, machine: StateMachine, is_working: bool) -> bool:
        """Close the connection if it has reached a limit; return whether it has.

        At its greatest age a connection waits for a running handler and for a message that has arrived in part, for
        `Options.drain_timeout` at most, as in a drain.

        Args:
            now: seconds of a monotonic clock.
            machine: the state of the connection, which must be open.
            is_working: whether a handler runs, or a message has arrived in part.
        """
        if self._began is None:
            self._began = self._idle_since = now
        options = self._options
        if self._is_used or is_working or not machine.outbox.is_writable:
            self._is_used = False
            self._idle_since = now
        late = now - self._began - self._max_age
        if late >= (options.drain_timeout if is_working else 0):
            self.exceeded = MAX_CONNECTION_AGE
            machine.close(CloseCode.SERVICE_RESTART, "the connection has reached its greatest age")
        elif options.idle_timeout is not None and now - self._idle_since >= options.idle_timeout:
            self.exceeded = IDLE_TIMEOUT
            machine.close(CloseCode.NORMAL, "idle")
        return self.exceeded is not None


class _WatchedFlusher(Flusher):
    """The flusher of one connection whose idle time is limited; another flusher does its work."""

    __slots__ = ("_flusher", "_lifetime")

    def __init__(self, flusher: Flusher, lifetime: Lifetime) -> None:
        super().__init__()
        self._flusher = flusher
        self._lifetime = lifetime

    def add(self, outbox: Outbox) -> None:
        """Note that the connection sends, and flush its outbox at the end of this turn."""
        self._lifetime.used()
        self._flusher.add(outbox)


def lifetime_of(options: Options) -> Lifetime | None:
    """Return a new `Lifetime`, or None if the options limit neither age nor idle time."""
    return Lifetime(options) if options.max_connection_age is not None or options.idle_timeout is not None else None
