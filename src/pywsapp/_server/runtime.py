"""State that the connections of one event loop share: flushing, time limits and the tasks of handlers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel

from pywsapp._event_loop import call_at_end_of_turn, known_to_anyio, note_asyncio, on_asyncio
from pywsapp._lifecycle.eager_check import check_eager_step
from pywsapp._lifecycle.lifecycle import Lifecycle
from pywsapp._limits.report import LimitReport
from pywsapp._log_fields import log_fields
from pywsapp._outbox.flushing import TurnFlusher
from pywsapp.auth.expiry import Expiries

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._outbox.outbox import Flusher
    from pywsapp.connection import Connection
    from pywsapp.options import Options
    from pywsapp.topics.users.service import UserService

logger = logging.getLogger("pywsapp")

#: `tick` is called for so many connections before other tasks get their turn.
_TICKS_A_TURN = 200


class Timed(Protocol):
    """A connection that has time limits."""

    def tick(self, now: float) -> None:
        """Enforce the time limits.

        Args:
            now: seconds of a monotonic clock.
        """


class TaskFlusher(TurnFlusher):
    """A flusher that flushes in a task, for event loops without `call_soon` (trio)."""

    def __init__(self) -> None:
        super().__init__(lambda _: self._event.set())
        self._event = anyio.Event()

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._event.wait()
            self._event = anyio.Event()
            self.flush()


class Runtime:
    """The connections of one event loop and what they share; the `Host` of their lifecycles.

    Args:
        options: its time limits decide how often `tick` is called for each connection.
        on_ended: called with each connection that has ended; must not raise.
        timed: further objects whose `tick` is called.
        on_disconnected: called with each connection that has lost its transport while its handlers still run; must not
            raise.
        users: the connections of each user; None if there is no App.

    Attributes:
        connections: the connections that have not ended: HTTP connections and lifecycles.
        flusher: flushes the outboxes at the end of a turn of the loop; exists while `run` runs.
        expiries: the connections whose users expire.
        users: the connections of each user.
        reports: the reports of limits by their names; a client has none.
        on_user_changed: called with each connection whose user was replaced; None if nothing else counts users.
    """

    def __init__(
        self,
        options: Options,
        on_ended: Callable[[Any], None] | None = None,
        timed: Sequence[Timed] = (),
        on_disconnected: Callable[[Any], None] | None = None,
        users: UserService | None = None,
    ) -> None:
        self.connections: set[Any] = set()
        self.flusher: Flusher
        self._options = options
        self._on_ended = on_ended
        self._on_disconnected = on_disconnected
        self.expiries = Expiries()
        self.users = users
        if users is not None:
            users.use_connections(lambda: [one.conn for one in self.connections if isinstance(one, Lifecycle)])
        self.timed = timed
        self.reports: Mapping[str, LimitReport] = {}
        self.on_user_changed: Callable[[Connection], None] | None = None
        self._handlers: TaskGroup | None = None
        self._empty: anyio.Event | None = None
        self._disconnected: set[Any] = set()

    @property
    def open_connections(self) -> int:
        """The number of connections that have a transport."""
        return len(self.connections) - len(self._disconnected)

    def disconnected(self, connection: Any) -> None:
        """Note that a connection has lost its transport, while its handlers still run."""
        self._disconnected.add(connection)
        if self._on_disconnected is not None:
            self._on_disconnected(connection)

    def exceeded(self, limit: str, conn: Connection) -> None:
        """Count that a connection has exceeded a limit, and log it if that is due."""
        if limit in self.reports:
            self.reports[limit].exceeded(conn, time.monotonic())

    def opened(self, conn: Connection) -> None:
        """Note the user of a connection that opens."""
        self.expiries.watch(conn)
        if self.users is not None:
            self.users.changed(conn)

    def user_changed(self, conn: Connection) -> None:
        """Note that a connection has another user than before, or one with another expiry."""
        self.opened(conn)
        if self.on_user_changed is not None:
            self.on_user_changed(conn)

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task for a handler; it can outlive `body` by `Options.on_close_timeout`."""
        assert self._handlers is not None
        note_asyncio()
        self._handlers.start_soon(work)

    def discard(self, connection: Any) -> None:
        """Remove a connection that has ended."""
        self.connections.discard(connection)
        self._disconnected.discard(connection)
        if self.expiries and isinstance(connection, Lifecycle):
            self.expiries.discard(connection.conn)
        if self.users is not None and isinstance(connection, Lifecycle):
            self.users.discard(connection.conn)
        if self._on_ended is not None:
            self._on_ended(connection)
        if not self.connections and self._empty is not None:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until no connection is left."""
        while self.connections:
            self._empty = anyio.Event()
            await self._empty.wait()

    async def run(self, body: Callable[[TaskGroup], Awaitable[None]]) -> None:
        """Run `body` with a task group for transports; abort all connections when it returns or is cancelled.

        Raises:
            Exception: the exception of `body`, not in an exception group.
        """
        with known_to_anyio():
            await self._run(body)

    async def _run(self, body: Callable[[TaskGroup], Awaitable[None]]) -> None:
        failure: Exception | None = None
        if on_asyncio():
            await check_eager_step()
        async with anyio.create_task_group() as self._handlers:
            try:
                async with anyio.create_task_group() as transports:
                    if on_asyncio():
                        self.flusher = TurnFlusher(call_at_end_of_turn())
                    else:
                        self.flusher = flusher = TaskFlusher()
                        transports.start_soon(flusher.run)
                    transports.start_soon(self._enforce_time_limits)
                    try:
                        await body(transports)
                    except Exception as exc:
                        failure = exc
                    finally:
                        self._abort_connections()
                    transports.cancel_scope.cancel()
            finally:
                with anyio.move_on_after(self._options.on_close_timeout, shield=True):
                    await self.wait_empty()
                self._handlers.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _abort_connections(self) -> None:
        for connection in list(self.connections):
            end_one(connection.abort)

    async def _enforce_time_limits(self) -> None:
        options = self._options
        shortest = min(
            options.handshake_timeout,
            options.ping_timeout,
            options.ping_interval or options.ping_timeout,
            options.close_timeout,
            options.message_timeout,
            options.idle_timeout or options.ping_timeout,
            options.max_connection_age or options.ping_timeout,
        )
        interval = min(1.0, max(0.02, shortest / 4))
        while True:
            await anyio.sleep(interval)
            await self._tick([*self.timed, self.expiries, *self.connections])

    async def _tick(self, connections: Iterable[Timed]) -> None:
        for number, connection in enumerate(connections):
            if number % _TICKS_A_TURN == _TICKS_A_TURN - 1:
                await anyio.lowlevel.checkpoint()
            try:
                connection.tick(anyio.current_time())
            except Exception:
                logger.exception(
                    "enforcing the time limits of %r failed", connection, extra=log_fields("connection.check_failed")
                )


def end_one(end: Callable[..., object], *args: object) -> None:
    """Close or abort one connection of many; a failure must not keep the others open."""
    try:
        end(*args)
    except Exception:
        logger.debug("closing a connection failed", exc_info=True, extra=log_fields("connection.close_failed"))
