"""The only caller of a component's methods: what they are promised is kept here and nowhere else.

Promises

1. `on_handshake(request)` is called before acceptance. If it refuses, or raises, nothing else is called.
2. `on_open(conn)` is called once, after acceptance and before any message.
3. `on_message(conn, message)` is called in the order of arrival, never twice at once for one connection, never before
   `on_open` has returned, and never after the connection began to close from this side. Messages that arrived before
   the peer closed are all delivered.
4. `on_close(conn)` is called exactly once if and only if `on_open` was entered: also after a crash, a cancellation, a
   lost connection, a ping timeout or a drain. It is the last call. `conn.close_code` and its kin are set.
5. `on_error(conn, exc)` is called for every Exception of on_open, on_message and on_close. By default it logs and
   closes with 1011; an overriding one decides, and the connection stays open unless it closes it. An exception of
   `on_error` itself is logged and closes with 1011.
6. Each method is `def` or `async def`, each for itself. A def runs right where the bytes came in. An async def runs in
   the connection's own task, a real one: timeouts, cancel scopes and context variables work, and pings are answered
   meanwhile. While it runs, messages wait in a bounded queue; when that is full, reading stops and TCP slows the peer.
7. Nothing that a component or a peer does wrong stops the server or touches another connection.

How

A handler is called; if what it returns can be awaited, the connection is *busy* and its task awaits it. The task is
made when first needed and then waits for more, so that a component of plain defs costs no task at all. Everything that
must happen later, in order, goes through `_work`: the awaitable that is being awaited, then the queued messages, then
the end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from pywsapp.component import Accept, MessageComponent, normalized, then
from pywsapp.connection import DONE, Connection, Flusher
from pywsapp.protocol.websocket import Ended, PongReceived
from pywsapp.values.close import CloseCode
from pywsapp.values.errors import Refuse
from pywsapp.values.response import Response

if TYPE_CHECKING:
    from pywsapp.protocol.websocket import WebSocket
    from pywsapp.values.options import Options
    from pywsapp.values.request import Request

logger = logging.getLogger("pywsapp")


class Host(Protocol):
    """What a lifecycle needs of whatever runs it."""

    flusher: Flusher

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that lives at least until `work` returns, or is cancelled with the host."""

    def forget(self, link: Any) -> None:
        """Drop a link that has ended."""


def ask_handshake(component: MessageComponent, request: Request) -> Accept | Awaitable[Accept]:
    """Ask a component about a handshake.

    Raises:
        Refuse: the component does not want it.
    """
    return then(component.on_handshake(request), lambda answer: normalized(answer, component))


def ask_request(component: MessageComponent, request: Request) -> Response | Awaitable[Response]:
    """Ask a component to answer a plain HTTP request.

    Raises:
        Refuse: the component does not want it.
    """
    return then(component.on_request(request), lambda response: response)


def refusal_for(exc: Exception, what: str) -> Refuse:
    """Give what a peer is told when deciding about its request raised something; logs it if it is our side's fault."""
    if isinstance(exc, Refuse):
        return exc
    logger.error("answering %r failed", what, exc_info=exc)
    return Refuse(500, body="internal error")


class Lifecycle:
    """The life of one open connection, driven by the events of its transport (see `hosting.transport.Link`)."""

    __slots__ = (
        "_alive",
        "_closing_since",
        "_component",
        "_finished",
        "_host",
        "_lost",
        "_next",
        "_on_message",
        "_options",
        "_pinged",
        "_pong_due",
        "_queue",
        "_stalled",
        "_wake",
        "_working",
        "_ws",
        "busy",
        "conn",
    )

    def __init__(
        self, component: MessageComponent, conn: Connection, ws: WebSocket, options: Options, host: Host
    ) -> None:
        self.conn = conn
        self.busy = False
        self._component = component
        self._on_message = component.on_message
        self._ws = ws
        self._options = options
        self._host = host
        self._lost = False
        self._finished = False
        self._working = False
        self._next: Awaitable[Any] | None = None
        self._queue: deque[str | bytes] | None = None
        self._wake: anyio.Event | None = None
        self._alive = True
        self._pinged: float | None = None
        self._pong_due = False
        self._closing_since: float | None = None
        self._stalled: tuple[int, float] | None = None

    # -- events of the transport -------------------------------------------------------------------------------------

    def open(self, glued: bytes) -> None:
        """Begin, with the bytes that came right behind the handshake."""
        self._call(self._component.on_open, self.conn)
        if glued:
            self.data_received(glued)

    def connection_made(self, transport: Any) -> None:
        """Nothing to do: the transport comes from the handshake."""

    def data_received(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._alive = True
        conn = self.conn
        for event in self._ws.receive(data):
            if isinstance(event, (str, bytes)):
                if self.busy:
                    self._enqueue(event)
                elif not conn.deaf:
                    try:
                        result = self._on_message(conn, event)
                    except Exception as exc:
                        self._failed(exc)
                    else:
                        if result is not None:
                            self._follow(result)
            elif isinstance(event, PongReceived):
                conn.ponged(event.payload)
            else:
                self._ended(event)
        if self._ws.has_pongs:
            self._host.flusher.add(conn)

    def eof_received(self) -> bool:
        """Take the peer's end of stream: without a close frame before it the connection is lost."""
        self.conn.flush()
        return False

    def pause_writing(self) -> None:
        """Learn that the peer reads too slowly for what is sent."""
        self.conn.writable(False)

    def resume_writing(self) -> None:
        """Learn that the peer has caught up."""
        self.conn.writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the transport."""
        if self._lost:
            return
        self._lost = True
        self.conn.lost()
        if self.busy:
            return  # the task goes on to the end by itself
        if self._wake is not None:
            self.busy = True
            self._wake.set()
            return
        result = self._call_on_close()
        if isinstance(result, Awaitable):
            self._next = result
            self._host.start_soon(self._close)
        else:
            self._host.forget(self)

    # -- calling handlers --------------------------------------------------------------------------------------------

    def _call(self, handler: Callable[..., Any], *arguments: Any) -> None:
        try:
            result = handler(*arguments)
        except Exception as exc:
            self._failed(exc)
        else:
            if result is not None:
                self._follow(result)

    def _failed(self, exc: Exception) -> None:
        try:
            result = self._component.on_error(self.conn, exc)
        except Exception as second:
            self._failed_twice(second)
        else:
            if result is not None:
                self._follow(result)

    def _failed_twice(self, exc: Exception) -> None:
        logger.error("%s.on_error itself failed for %r", type(self._component).__name__, self.conn, exc_info=exc)
        self.conn.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _follow(self, result: Any) -> None:
        """Let the connection's task await what a handler returned."""
        if result is DONE or not isinstance(result, Awaitable):
            return
        self.busy = True
        self._next = result
        if self._wake is not None:
            self._wake.set()
        else:
            self._host.start_soon(self._work)

    def _enqueue(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)
        if len(self._queue) >= self._options.max_queue:
            self.conn.queue_full(True)

    # -- the connection's task ---------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while True:
                await self._work_off()
                if self._lost:
                    break
                self.busy = False
                self._wake = anyio.Event()
                await self._wake.wait()
                self._wake = None
        finally:
            # reached by cancellation too, and by whatever else is not an Exception
            self.busy = True
            self._wake = None
            if not self._lost:
                self.conn.abort()
            await self._close()

    async def _work_off(self) -> None:
        """Await what is to be awaited, then deliver what is queued, until nothing is left."""
        while True:
            if self._next is not None:
                pending, self._next = self._next, None
                try:
                    await pending
                except Exception as exc:
                    await self._settle(exc)
            message = self._dequeue()
            if message is None:
                return
            try:
                result = self._on_message(self.conn, message)
                if result is not None and isinstance(result, Awaitable):
                    await result
            except Exception as exc:
                await self._settle(exc)

    def _dequeue(self) -> str | bytes | None:
        queue = self._queue
        if not queue:
            return None
        if self.conn.deaf:
            queue.clear()
            return None
        message = queue.popleft()
        if len(queue) <= self._options.max_queue // 2:
            self.conn.queue_full(False)
        return message

    async def _settle(self, exc: Exception) -> None:
        try:
            result = self._component.on_error(self.conn, exc)
            if isinstance(result, Awaitable):
                await result
        except Exception as second:
            self._failed_twice(second)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.conn.abort()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _ended(self, event: Ended) -> None:
        if not event.by_peer:
            logger.info("%r broke the protocol: %s", self.conn, event.reason)
        self.conn.ended(event)

    def _call_on_close(self) -> Any:
        """Call `on_close`, once, and give what it, or `on_error` after it, wants awaited."""
        if self._finished:
            return None
        self._finished = True
        try:
            return self._component.on_close(self.conn)
        except Exception as exc:
            try:
                return self._component.on_error(self.conn, exc)
            except Exception as second:
                self._failed_twice(second)
        return None

    async def _close(self) -> None:
        """Call and await `on_close`, also while the task is being cancelled."""
        with anyio.move_on_after(self._options.on_close_timeout, shield=True):
            result = self._next or self._call_on_close()
            self._next = None
            try:
                if isinstance(result, Awaitable):
                    await result
            except Exception as exc:
                await self._settle(exc)
        self._host.forget(self)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Learn the time: sends pings, and ends what takes too long. Called about every second.

        Args:
            now: seconds of a monotonic clock.
        """
        conn = self.conn
        if self._lost:
            return
        if conn.closed:
            if self._closing_since is None:
                self._closing_since = now
            elif now - self._closing_since >= self._options.close_timeout:
                conn.time_out()
            return
        expired = self._ws.tick(now)
        if expired is not None:
            self._ended(expired)
        elif not conn.is_writable:
            self._watch_progress(now)
        else:
            self._stalled = None
            if not conn.reading_paused:
                self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        """Ping when it is time; whatever comes back is a sign of life (RFC 6455 section 5.5.2)."""
        interval = self._options.ping_interval
        if interval is None:
            return
        if self._pinged is None:
            self._pinged = now
        if self._pong_due:
            if not self._alive and now - self._pinged >= self._options.ping_timeout:
                self._time_out("nothing came since a ping")
                return
            self._pong_due = not self._alive
        if not self._pong_due and now - self._pinged >= interval:
            self._pinged = now
            self._pong_due = True
            self._alive = False
            self.conn.keepalive()

    def _watch_progress(self, now: float) -> None:
        """While nothing is read because nothing can be written, pongs cannot tell; only what the peer takes can."""
        buffered = self.conn.buffered
        limit = (self._options.ping_interval or 0) + self._options.ping_timeout
        if self._stalled is None or self._stalled[0] != buffered:
            self._stalled = (buffered, now)
        elif now - self._stalled[1] >= limit:
            self._time_out("it takes nothing of what is sent")

    def _time_out(self, why: str) -> None:
        logger.info("%r timed out: %s", self.conn, why)
        self.conn.time_out()
