"""The only caller of a component's methods: what they are promised is kept here and nowhere else.

Promises

1. `on_handshake(request)` is called before acceptance. If it refuses, or raises, nothing else is called.
2. `on_open(conn)` is called once, after acceptance and before any message.
3. `on_message(conn, message)` is called in the order of arrival, never twice at once for one connection, never before
   `on_open` has returned, and never after this side has called `close` or `abort`. Messages that arrived before the
   peer closed or was lost are all delivered, and may be answered as long as it waits for our close frame.
4. `on_close(conn)` is called exactly once if and only if `on_open` was entered: also after a crash, a cancellation, a
   lost connection, a ping timeout or a drain. `conn.close_code` and its kin are set. It is the last call, but for
   `on_unsubscribe(conn, topic)` of each topic that the connection is still in. When the server is cancelled, so are
   running handlers; `on_close` is not, but has no more than `Options.on_close_timeout`.
5. `on_error(conn, exc)` is called for every Exception of on_open, on_message and on_close. By default it logs and
   closes with 1011; an overriding one decides, and the connection stays open unless it closes it. An exception of
   `on_error` itself is logged and closes with 1011, and so is what is no Exception (the CancelledError of a task that
   somebody else cancelled, say); only KeyboardInterrupt, SystemExit and the cancellation of the server pass.
6. Each method is `def` or `async def`, each for itself. A def runs right where the bytes came in. An async def runs in
   the connection's own task, a real one: timeouts, cancel scopes and context variables work, and pings are answered
   meanwhile. While it runs, messages wait in a bounded queue; when that is full, reading stops and TCP slows the peer.
7. Nothing that a component or a peer does wrong stops the server or touches another connection.

How

A handler is called; if what it returns can be awaited, the connection is *busy* and its task, the `Worker`, awaits it.
The task is made when first needed and then waits for more, so that a component of plain defs costs no task at all.
Everything that must happen later, in order, goes through the worker: the awaitable that is being awaited, then the
queued messages, then our answer to the peer's close frame, then the end.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel

from pywsapp._hooks import as_accept, must_await, then
from pywsapp._lifecycle.eager_step import EagerTask
from pywsapp._lifecycle.handler_task import Worker, await_last, work
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, await_all, raise_if_cancelled, raise_if_leaving
from pywsapp._outbox.outbox import Flusher
from pywsapp._protocol.events import Ended, PongReceived
from pywsapp.close_codes import CloseCode
from pywsapp.component import Accept, MessageComponent
from pywsapp.connection import Connection
from pywsapp.exceptions import Refuse
from pywsapp.http import Response

if TYPE_CHECKING:
    from pywsapp._protocol.websocket import WebSocket
    from pywsapp.http import Request
    from pywsapp.options import Options

T = TypeVar("T")
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
    return then(_asked(component.on_handshake, request), lambda answer: as_accept(answer, component))


def ask_request(component: MessageComponent, request: Request) -> Response | Awaitable[Response]:
    """Ask a component to answer a plain HTTP request.

    Raises:
        Refuse: the component does not want it.
    """
    return _asked(component.on_request, request)


def _asked(method: Callable[[Request], T | Awaitable[T]], request: Request) -> T | Awaitable[T]:
    try:
        answer = method(request)
    except Exception:
        raise
    except BaseException as exc:
        raise_if_leaving(exc)
        raise RuntimeError(f"{method.__qualname__} raised {exc!r}") from exc
    return _awaited(cast("Awaitable[T]", answer)) if must_await(answer) else answer


async def _awaited(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Exception:
        raise
    except BaseException as exc:
        raise_if_cancelled(exc)
        raise RuntimeError(f"{answer!r} raised {exc!r}") from exc


def refusal_for(exc: Exception, what: str) -> Refuse:
    """Give what a peer is told when deciding about its request raised something; logs it if it is our side's fault."""
    if isinstance(exc, Refuse):
        return exc
    logger.error("answering %s failed", what, exc_info=exc)
    return Refuse(500, body="internal error")


class Lifecycle:
    """The life of one open connection, driven by the events of its transport (see `hosting.transport.Link`)."""

    __slots__ = (
        "_alive",
        "_closing_since",
        "_component",
        "_host",
        "_lost",
        "_max_inflated",
        "_on_message",
        "_options",
        "_pinged",
        "_pong_due",
        "_queue",
        "_stalled",
        "_ws",
        "busy",
        "conn",
        "eager_task",
        "pending",
        "worker",
    )

    def __init__(
        self, component: MessageComponent, conn: Connection, ws: WebSocket, options: Options, host: Host
    ) -> None:
        self.conn = conn
        conn.component = component
        self.busy = False
        self.pending: Awaitable[Any] | None = None
        self._component = component
        self._on_message = component.on_message
        self._ws = ws
        self._options = options
        self._max_inflated = min(options.max_message_size, sys.maxsize)  # what the twin can hold
        self._host = host
        self._lost = False
        self._queue: deque[str | bytes] | None = None
        self.worker: Worker | None = None
        self.eager_task: EagerTask | None = None
        self._alive = True
        self._pinged: float | None = None
        self._pong_due = False
        self._closing_since: float | None = None
        self._stalled: tuple[int, float] | None = None

    # -- events of the transport -------------------------------------------------------------------------------------

    def open(self, glued: bytes) -> None:
        """Begin, with the bytes that came right behind the handshake."""
        try:
            self._follow(self._component.on_open(self.conn))
        except BaseException as exc:
            self._failed(exc)
        if glued:
            self.data_received(glued)

    def connection_made(self, transport: Any) -> None:
        """Nothing to do: the transport comes from the handshake."""

    def data_received(self, data: bytes) -> None:  # noqa: C901 - a call costs what a message does
        """Take bytes from the peer, or none to go on with those that came before."""
        self._alive = True
        conn, ws = self.conn, self._ws
        for event in ws.receive(data, self._max_inflated):
            if type(event) is str or type(event) is bytes:
                if self.busy:
                    self._enqueue(event)
                elif not conn.deaf:
                    try:
                        result = self._on_message(conn, event)
                        if result is not None:
                            self._follow(result)
                    except BaseException as exc:
                        self._failed(exc)
            elif isinstance(event, PongReceived):
                conn.ponged(event.payload)
            elif isinstance(event, Ended):
                self._ended(event)
        if ws.has_pongs:
            self._host.flusher.add(conn)
        if ws.has_more:  # inflating it all at once could fill the memory, and hold everybody up
            conn.queue_full(True)
            if not self.busy:
                self._follow(LazyAwaitable(anyio.lowlevel.checkpoint))

    def eof_received(self) -> bool:
        """Take the peer's end of stream: without a close frame before it the connection is lost."""
        self.conn.flush()
        return False

    def pause_writing(self) -> None:
        """Learn that the peer reads too slowly for what is sent."""
        self.conn.writable(False)

    def resume_writing(self) -> None:
        """Learn that the peer has caught up."""
        self._stalled = None
        self.conn.writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the transport."""
        if self._lost:
            return
        self._lost = True
        self.conn.lost()
        if self.busy:
            return  # the worker goes on to the end by itself
        self.busy = True
        if self.worker is not None:
            self.worker.wake()
            return
        last = self._call_on_close() or self._leave_topics()
        if last is None:
            self._host.forget(self)
        else:
            self._host.start_soon(functools.partial(await_last, self._end(last)))

    def abort(self) -> None:
        """Drop the connection at once."""
        self.conn.abort()

    def _ended(self, event: Ended) -> None:
        if not event.by_peer:
            logger.info("%r broke the protocol: %s", self.conn, event.reason)
        elif self.busy and not self.conn.closed:
            self.conn.closed_by_peer(event)
            return
        self.conn.ended(event)

    # -- calling handlers --------------------------------------------------------------------------------------------

    def _follow(self, result: Any) -> None:
        """Let the worker await what a handler returned; a coroutine is begun here, and may end here or raise."""
        if type(result) is CoroutineType:
            if self.eager_task is not None:
                self.busy = True
                try:
                    result = self.eager_task.begin(result)
                except BaseException as exc:
                    result = self.eager_task.call(self.report, exc)  # on_error sees what the handler saw
                finally:
                    self.busy = False
                if result is None:
                    return
        elif result is ALREADY_DONE or not isinstance(result, Awaitable):
            return
        self.busy = True
        self.pending = result
        if self.worker is None:
            self._host.start_soon(functools.partial(work, self))
        else:
            self.worker.wake()

    def _enqueue(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)
        if len(self._queue) >= self._options.max_queue:
            self.conn.queue_full(True)

    def _failed(self, exc: BaseException) -> None:
        """Take what a def handler raised."""
        self._follow(self.report(exc))

    def report(self, exc: BaseException) -> Awaitable[None] | None:
        """Call `on_error`, or do what it does by default; give what is still to be awaited, which raises nothing."""
        raise_if_leaving(exc)
        if not isinstance(exc, Exception):
            self._give_up("%s failed for %r", exc)
            return None
        try:
            result = self._component.on_error(self.conn, exc)
        except BaseException as second:
            raise_if_leaving(second)
            self._give_up("%s.on_error itself failed for %r", second)
            return None
        return self._reported(result) if isinstance(result, Awaitable) else None

    async def _reported(self, result: Awaitable[Any]) -> None:
        try:
            await result
        except BaseException as second:
            raise_if_cancelled(second)
            self._give_up("%s.on_error itself failed for %r", second)

    def _give_up(self, what: str, exc: BaseException) -> None:
        logger.error(what, type(self._component).__name__, self.conn, exc_info=exc)
        self.conn.close(CloseCode.INTERNAL_ERROR, "internal error")

    # -- what the worker asks ----------------------------------------------------------------------------------------

    def has_message(self) -> bool:
        """Tell whether a message waits that is still to be delivered."""
        queue = self._queue
        if queue and self.conn.deaf:
            queue.clear()
        return bool(queue)

    def deliver(self) -> Any:
        """Call `on_message` for the message that waits longest; raises what it raises."""
        queue = self._queue
        assert queue is not None
        message = queue.popleft()
        if len(queue) <= self._options.max_queue // 2 and not self._ws.has_more:
            self.conn.queue_full(False)
        return self._on_message(self.conn, message)

    def has_more(self) -> bool:
        """Tell whether bytes that came are still to be read; if not, reading goes on."""
        if not self._ws.has_more:
            self.conn.queue_full(False)
        return self._ws.has_more

    def rest(self) -> bool:
        """Take note that all is done for now; give whether all is done for ever."""
        self.conn.answer_close()
        if self._lost:
            self._ws.abandon()
        else:
            self.busy = False
        return self._lost

    async def end(self) -> None:
        """End with the worker's task."""
        if not self._lost:
            self.conn.abort()
        await self._end(self._call_on_close())

    def _call_on_close(self) -> Awaitable[None] | None:
        """Call `on_close`; give what is still to be awaited."""
        try:
            result = self._component.on_close(self.conn)
        except BaseException as exc:
            return self.report(exc)
        return self._settled(result) if isinstance(result, Awaitable) else None

    async def _settled(self, result: Awaitable[Any]) -> None:
        try:
            await result
        except BaseException as exc:
            raise_if_cancelled(exc)
            last = self.report(exc)
            if last is not None:
                await last

    def _leave_topics(self) -> Awaitable[None] | None:
        """Unsubscribe from what is left; give what is still to be awaited."""
        reports = []
        for topic in self.conn.topics:
            try:
                topic.remove(self.conn)
            except BaseException as exc:
                reports.append(self.report(exc))
        return await_all(reports)

    async def _end(self, last: Awaitable[None] | None) -> None:
        """Await what `on_close` wants awaited, also while the task is being cancelled."""
        limit = self._options.on_close_timeout
        while last is not None or (last := self._leave_topics()) is not None:
            with anyio.move_on_after(limit, shield=True) as scope:
                await last
            if scope.cancelled_caught:
                logger.warning("on_close took longer than %g s for %r and was cancelled", limit, self.conn)
            last = None
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
        if conn.close_code is not None:
            self._watch_closing(now)
            return
        expired = self._ws.tick(now, paused=conn.reading_paused)
        if expired is not None:
            self._ended(expired)
        elif conn.reading_paused:
            self._pinged, self._pong_due = now, False  # a pong would not be seen
            if not conn.is_writable:
                self._watch_progress(now)
        else:
            self._keep_alive(now)

    def _watch_closing(self, now: float) -> None:
        if self._closing_since is None:
            self._closing_since = now
        elif now - self._closing_since >= self._options.close_timeout:
            self._closing_since = now
            if not self.conn.answer_close():
                self.conn.drop("close timeout")

    def _keep_alive(self, now: float) -> None:
        """Ping when it is time; whatever comes back is a sign of life (RFC 6455 section 5.5.2)."""
        interval = self._options.ping_interval
        if interval is None:
            return
        if self._pinged is None:
            self._pinged = now
        self._pong_due = self._pong_due and not self._alive
        if self._pong_due and now - self._pinged >= self._options.ping_timeout:
            self._time_out("ping timeout")
        elif not self._pong_due and now - self._pinged >= interval:
            self._pinged = now
            self._pong_due = True
            self._alive = False
            self.conn.keepalive()

    def _watch_progress(self, now: float) -> None:
        """While nothing is read because nothing can be written, only what the peer takes is a sign of life."""
        unsent = self.conn.unsent
        limit = (self._options.ping_interval or 0) + self._options.ping_timeout
        if self._stalled is None or unsent < self._stalled[0]:
            self._stalled = (unsent, now)
        elif now - self._stalled[1] >= limit:
            self._time_out("send timeout")

    def _time_out(self, reason: str) -> None:
        logger.info("%r timed out: %s", self.conn, reason)
        self.conn.drop(reason)
