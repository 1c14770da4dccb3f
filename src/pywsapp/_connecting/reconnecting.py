"""A loop over connections: when one is lost, the next one is opened after a pause."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple

import anyio
from typing_extensions import Self

from pywsapp._clocks import monotonic_clock, wall_clock
from pywsapp._connecting.arguments import ConnectArguments, Fields
from pywsapp._connecting.background import BackgroundConnection
from pywsapp._connecting.backoff import ReconnectRules
from pywsapp._connecting.inbox import LoopConnection, MessageT
from pywsapp._http_text import one_line
from pywsapp._log_fields import log_fields
from pywsapp.close_codes import CloseCode
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, ConnectionClosed, HandshakeError

logger = logging.getLogger("pywsapp")

#: Returns the header fields of one attempt.
MakeFields = Callable[[], Awaitable[Fields]]


class Clock(NamedTuple):
    """Time and chance, which tests replace."""

    now: Callable[[], float] = monotonic_clock
    wall_clock: Callable[[], float] = wall_clock
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    uniform: Callable[[float, float], float] = random.uniform


class Reconnecting(Generic[MessageT]):
    """An asynchronous iterator over open connections; `pywsapp.reconnecting` creates it.

    Args:
        arguments: where to connect to, and how.
        make_fields: returns the header fields of each attempt; None for those of the arguments.
        rules: when to connect again.
        clock: time and chance.

    Attributes:
        attempts: how often the loop has tried to connect.
    """

    def __init__(
        self, arguments: ConnectArguments, make_fields: MakeFields | None, rules: ReconnectRules, clock: Clock
    ) -> None:
        self.attempts = 0
        self._arguments = arguments
        self._make_fields = make_fields
        self._clock = clock
        self._rules = rules
        self._current: BackgroundConnection[LoopConnection[MessageT]] | None = None
        self._conn: LoopConnection[MessageT] | None = None
        self._lost_at: float | None = None  # since when an outage lasts that was logged at INFO
        self._has_ended = False
        self._is_busy = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LoopConnection[MessageT]:
        """Connect, after a pause unless this is the first time.

        Raises:
            StopAsyncIteration: the last connection has ended with 1000.
            ConnectionClosed: it has ended with a code after which a client does not come back.
            HandshakeError: the server refused the handshake, and would refuse it again.
            OSError: the server cannot be reached, and a limit of `Backoff` is exceeded.
        """
        if self._is_busy:
            raise ConfigurationError("two tasks iterate over one reconnecting() at the same time")
        if self._has_ended:
            raise StopAsyncIteration
        self._is_busy = True
        self._has_ended = True  # unless a connection is returned
        try:
            pause = await self._end_current()
            while True:
                if pause > 0:
                    await self._clock.sleep(pause)
                try:
                    conn = await self._attempt()
                except (HandshakeError, OSError) as exc:
                    pause = self._after_failure(exc)
                else:
                    self._has_ended = False
                    return conn
        finally:
            self._is_busy = False

    async def aclose(self) -> None:
        """Close the connection with code 1000, and wait until it has ended; the iteration is over then."""
        self._has_ended = True
        current, self._current, self._conn = self._current, None, None
        if current is not None:
            await current.close(CloseCode.NORMAL)

    def __del__(self) -> None:
        # `break` and an exception of the body end the loop, and nothing else says so.
        if self._current is not None:
            self._current.leave(CloseCode.NORMAL)

    async def _attempt(self) -> LoopConnection[MessageT]:
        self.attempts += 1
        fields = None if self._make_fields is None else await self._make_fields()
        arguments = self._arguments.renewed(fields)
        self._current = current = BackgroundConnection(arguments, LoopConnection)
        self._conn = conn = await current.open()
        self._rules.opened(self._clock.now())
        if self._lost_at is not None:
            seconds = self._clock.now() - self._lost_at
            logger.info(
                "connected to %s again after %.1f s",
                arguments.target,
                seconds,
                extra=log_fields("client.reconnected", url=str(arguments.target), duration_seconds=seconds),
            )
            self._lost_at = None
        return conn

    async def _end_current(self) -> float:
        """End the last connection; return the seconds to wait before the next one."""
        current, conn = self._current, self._conn
        self._current = self._conn = None
        if current is None or conn is None:
            return 0
        is_left = conn.is_open or conn._was_left_open
        await current.close(CloseCode.NORMAL)
        now = self._clock.now()
        pause = self._rules.lost(None if is_left else conn.close_code, now)
        what = "the body of the loop left it" if is_left else _described(conn)
        if pause is not None:
            self._report(
                "client.lost", now, pause, "the connection to %s has ended (%s); connecting again in %.1f s", what
            )
            return pause
        if conn.close_code == CloseCode.NORMAL and not is_left:
            raise StopAsyncIteration
        raise ConnectionClosed(
            f"the connection to {self._arguments.target} ended with {what}, and the loop does not connect again",
            code=conn.close_code,
            reason=conn.close_reason,
        )

    def _after_failure(self, exc: HandshakeError | OSError) -> float:
        """Return the seconds to wait after a failed attempt, or raise the exception."""
        self._current = self._conn = None
        now = self._clock.now()
        pause = self._rules.failed(exc, now, self._clock.wall_clock())
        if pause is None:
            raise exc
        what = f"{type(exc).__name__}: {one_line(str(exc))}"
        self._report("client.not_connected", now, pause, "connecting to %s failed (%s); trying again in %.1f s", what)
        return pause

    def _report(self, event: str, now: float, pause: float, text: str, what: str) -> None:
        """Log the first failure of an outage at INFO, and the others at DEBUG."""
        level = logging.INFO if self._rules.is_first else logging.DEBUG
        if level == logging.INFO:
            self._lost_at = now
        logger.log(
            level,
            text,
            self._arguments.target,
            what,
            pause,
            extra=log_fields(event, url=str(self._arguments.target), error=what, retry_seconds=pause),
        )


def _described(conn: Connection) -> str:
    return f"code {conn.close_code}" + (f" {one_line(conn.close_reason)}" if conn.close_reason else "")
