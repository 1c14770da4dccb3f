"""One open connection, and the only caller of a component's methods.

Promises

1. `on_handshake(request)` is called before acceptance. If it refuses, or raises, nothing else is called.
2. `on_open(conn)` is called once, after acceptance and before any message.
3. `on_message(conn, message)` is called in the order of arrival, never twice at once for one connection, never before
   `on_open` has returned, and never after this side has called `close` or `abort`. Messages that arrived before the
   peer's close frame are all delivered; they can be answered as long as the peer waits for our close frame. When the
   transport is lost without one, the messages in the queue are delivered, but no more bytes are read.
4. `on_close(conn)` is called exactly once if and only if `on_open` was entered: also after a crash, a cancellation, a
   lost connection, a ping timeout or a drain. `conn.close_code`, `close_reason` and `was_clean` are set. It is the last
   call, except for `on_unsubscribe(conn, topic)` of each topic that the connection still subscribes to. When the server
   is cancelled, running handlers are cancelled; `on_close` is not, but gets `Options.on_close_timeout` at most.
5. `on_error(conn, exc)` is called for every Exception of on_open, on_message, on_close and of an async on_unsubscribe.
   By default it logs and closes with 1011; an overriding one decides, and the connection stays open unless it closes
   it. An exception of `on_error` itself is logged and closes with 1011, and so is a BaseException that is no Exception
   (the CancelledError of a task that other code cancelled, for instance). Only KeyboardInterrupt, SystemExit and the
   cancellation of the server pass.
6. Each method is `def` or `async def`, independently of the others. A def runs right where the bytes came in. An async
   def runs in the connection's own task, a real one: timeouts, cancel scopes and context variables work, and pings are
   answered meanwhile. While it runs, messages wait in a queue that is bounded in messages and bytes; when it is full,
   reading stops and TCP slows the peer down. `Options.handler_timeout` and `Options.cancel_on_disconnect` can end it.
7. No mistake of a component or a peer stops the server or touches another connection.

How

A handler is called; if it returns an awaitable, the connection is *busy* and its handler task awaits it. The task is
made when it is first needed and then waits for more, so a component of plain defs costs no task at all. Everything that
must happen later, in order, goes through the handler task: the awaitable that is being awaited, then async
`on_unsubscribe` calls, then the queued messages, then our answer to the peer's close frame, then the end.

One peer cannot block the others: a turn of the event loop handles the messages of a connection for `TURN_SECONDS`, and
at least `Options.max_queue` of them. The handler task reads what is left in later turns, and the transport is not read
meanwhile.

`states` has the states of a connection and their transitions; `state_machine` changes them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable
from time import monotonic
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from pywsapp._lifecycle.eager_step import EagerTask
from pywsapp._lifecycle.error_report import await_reported, report_error
from pywsapp._lifecycle.handler_task import TURN_SECONDS, HandlerTask, await_end, await_last
from pywsapp._lifecycle.host import Host
from pywsapp._lifecycle.keepalive import Keepalive
from pywsapp._lifecycle.lifetime import lifetime_of
from pywsapp._lifecycle.message_queue import MessageQueue, ReplyQueue, queue_limits
from pywsapp._lifecycle.mistakes import warn_of_returned
from pywsapp._lifecycle.peer_check import check_peer
from pywsapp._lifecycle.state_machine import OUTBOX_FULL, QUEUE_FULL, StateMachine
from pywsapp._lifecycle.states import State
from pywsapp._lifecycle.subscriptions import Subscriptions, make_subscriptions
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, LazyCoroutine
from pywsapp._outbox.pings import Pings
from pywsapp._protocol.events import Ended, PongReceived
from pywsapp._protocol.websocket import WebSocket
from pywsapp.component import MessageComponent
from pywsapp.connection import Connection, no_pong
from pywsapp.http import Request
from pywsapp.options import Options

if TYPE_CHECKING:
    from pywsapp._connection_driver import Replies
    from pywsapp._transports.base import Transport
    from pywsapp.topics.topic import Topic


class Lifecycle:
    """One open connection, driven by the events of its transport (see `_transports.base.TransportProtocol`).

    Args:
        component: handles the connection.
        request: the request of the handshake.
        ws: the protocol state of the connection.
        transport: moves its bytes.
        options: the limits.
        host: runs its tasks.
        subprotocol: the agreed subprotocol.
        make_connection: makes what the component sees; takes the arguments of `Connection`.

    Attributes:
        machine: the state of the connection, and its outbox.
        conn: what the component sees.
        is_busy: whether the handler task has work, or the end has begun.
        lifetime: the limits of its age and idle time; None without such limits.
    """

    __slots__ = (
        "_calls",
        "_component",
        "_eager_task",
        "_handler_task",
        "_host",
        "_keepalive",
        "_max_inflated",
        "_max_queue",
        "_on_message",
        "_options",
        "_pings",
        "_queue",
        "_subscriptions",
        "_ws",
        "conn",
        "is_busy",
        "lifetime",
        "machine",
    )

    def __init__(
        self,
        component: MessageComponent,
        request: Request,
        ws: WebSocket,
        transport: Transport,
        options: Options,
        host: Host,
        subprotocol: str | None = None,
        make_connection: Callable[..., Connection] = Connection,
    ) -> None:
        self.lifetime = lifetime = lifetime_of(options)
        flusher = host.flusher if lifetime is None else lifetime.watch_sends(host.flusher)
        self.machine = StateMachine(ws, transport, flusher, options)
        self.conn = self.machine.conn = make_connection(request, subprotocol, self, self.machine.outbox)
        self.is_busy = False
        self._component = component
        self._on_message = component.on_message if lifetime is None else lifetime.watch_messages(component.on_message)
        self._ws = ws
        self._options = options
        self._host = host
        self._keepalive = Keepalive()
        self._max_queue, self._max_inflated = queue_limits(options)
        self._handler_task: HandlerTask | None = None
        self._eager_task: EagerTask | None = None
        self._queue: MessageQueue | None = None
        self._subscriptions: Subscriptions | None = None
        self._pings: Pings | None = None
        if ws.traffic.measures is not None:
            self._on_message, self._pings = ws.traffic.measures.of_connection(self._on_message)
        self._calls: Replies | None = None

    # -- events of the transport -------------------------------------------------------------------------------------

    def open(self, trailing: bytes) -> None:
        """Begin, with the bytes that came right behind the handshake."""
        try:
            self._follow(self._component.on_open(self.conn))
        except BaseException as exc:
            self._follow(self.report(exc))
        if trailing:
            self.data_received(trailing)

    def connection_made(self, transport: Any) -> None:
        """Do nothing: the transport comes from the handshake."""

    def data_received(self, data: bytes) -> None:  # noqa: C901 - a call for each event would cost what a message does
        """Handle bytes from the peer; with none, go on with those that came before."""
        self._keepalive.is_alive = True
        conn, ws, machine = self.conn, self._ws, self.machine
        turn_ends, number = 0.0, 0
        ws.traffic.bytes_received += len(data)
        while True:
            room, inflate = self._max_queue, self._max_inflated
            if self._queue is not None and not machine.is_discarding:
                room -= len(self._queue)
                inflate -= self._queue.size
            for event in ws.receive(data, inflate, room):
                if type(event) is str or type(event) is bytes:
                    number += 1
                    if self.is_busy:
                        self._enqueue(event)
                    elif not machine.is_discarding:
                        try:
                            result = self._on_message(conn, event)
                            if result is not None:
                                self._follow(result)
                        except BaseException as exc:
                            self._follow(self.report(exc))
                elif isinstance(event, PongReceived):
                    if self._pings is not None:
                        self._pings.pong_received(event.payload)
                elif isinstance(event, Ended):
                    machine.peer_ended(event, is_busy=self.is_busy)
                    if self._calls is not None:
                        self._calls.end()
            if machine.outbox.size > machine.outbox.high_water:  # libuv reads on in this turn until reading is paused
                machine.outbox.flush()
            if not ws.has_more or machine.pause_causes or (self.is_busy and not machine.is_discarding):
                break
            now = monotonic()
            if turn_ends == 0.0:
                turn_ends = now + TURN_SECONDS
            elif now >= turn_ends and not self.is_busy:
                break
            data = b""
        ws.traffic.messages_received += number
        if ws.has_pongs:
            self._host.flusher.add(self.machine.outbox)
        if ws.has_more:
            machine.pause_reading(QUEUE_FULL)
            self._read_on()

    def _read_on(self) -> None:
        """Have the handler task read what `data_received` has left, if nothing prevents it."""
        if self._ws.has_more and not self.is_busy and not self.machine.pause_causes & OUTBOX_FULL:
            self._follow(LazyAwaitable(anyio.lowlevel.checkpoint))
        elif self._calls is not None and self._queue is not None and not self._queue.is_full:
            self._calls.wake_one()  # the reply to a call can be in what is left

    def eof_received(self) -> bool:
        """Handle the end of the peer's stream: without a close frame before it, the connection is lost.

        The peer still gets what is queued for it, where the transport can end one direction only.
        """
        return self.machine.stream_ended()

    def pause_writing(self) -> None:
        """Keep frames in the outbox, and stop reading: the peer reads too slowly for what is sent."""
        self.machine.outbox.pause()
        self.machine.pause_reading(OUTBOX_FULL)

    def resume_writing(self) -> None:
        """Send on, and read on: the peer has caught up."""
        self._keepalive.progressed()
        self.machine.outbox.resume()
        if self.machine.outbox.is_writable:
            self.machine.resume_reading(OUTBOX_FULL)
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        if self.machine.state is State.LOST:
            return
        self.machine.lose()
        if self._calls is not None:
            self._calls.end()
        if self._pings is not None:
            self._pings.end()
            self._pings = None
        if self.is_busy:
            self._host.disconnected(self)
            if self._options.cancel_on_disconnect and self._handler_task is not None:
                self.machine.is_discarding = True
                self._handler_task.cancel()
            return  # the handler task goes on to the end by itself
        self.is_busy = True
        if self._handler_task is not None:
            self._handler_task.wake()
            return
        last = self._call_on_close() or self._leave_topics()
        if last is None:
            self._release()
        else:
            self._host.start_soon(functools.partial(await_end, self._end(last)))

    # -- handlers ----------------------------------------------------------------------------------------------------

    def _follow(self, result: Any) -> None:
        """Have the handler task await what a handler returned.

        A coroutine takes its first step right here, if that is possible; it can end, or raise, in that step. The
        connection can be busy already: the handler has unsubscribed, and the awaitable of `on_unsubscribe` waits.
        """
        if type(result) is CoroutineType:
            if self._eager_task is not None:
                was_busy, self.is_busy = self.is_busy, True
                try:
                    result = self._eager_task.first_step(result)
                except BaseException as exc:
                    result = self._eager_task.call(self.report, exc)  # on_error runs in the context of the handler
                finally:
                    self.is_busy = was_busy
                if result is None:
                    if self._eager_task.returned is not None:
                        self.check_returned(self._eager_task.take_returned())
                    if self._subscriptions is not None and self._subscriptions.hooks:
                        self._wake_handler_task()
                    return
        elif result is ALREADY_DONE or result is None:
            return
        elif not isinstance(result, Awaitable):
            self.check_returned(result)
            return
        self._wake_handler_task()
        assert self._handler_task is not None
        self._handler_task.hand_over(result)

    def _wake_handler_task(self) -> None:
        """Have the handler task work off what waits for it; it is made when it is first needed."""
        self.is_busy = True
        if self._handler_task is None:
            self._handler_task = HandlerTask(self, self._options)
            self._host.start_soon(self._handler_task.main)
        else:
            self._handler_task.wake()

    def _enqueue(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = MessageQueue(self._max_queue, self._max_inflated)
        self._queue.put(message)
        if self._queue.is_full:
            self.machine.pause_reading(QUEUE_FULL)

    def report(self, exc: BaseException) -> Awaitable[None] | None:
        """Call `on_error`; return what must still be awaited, which raises nothing."""
        return report_error(self._component, self.conn, exc)

    def check_returned(self, value: Any) -> None:
        """Warn if what a handler returned goes nowhere."""
        warn_of_returned(self._component, value)

    # -- what the handler task asks ----------------------------------------------------------------------------------

    def use_eager_task(self, eager_task: EagerTask) -> None:
        """Run the first steps of coroutines on behalf of the handler task, from now on."""
        self._eager_task = eager_task

    def has_call(self) -> bool:
        """Return whether a handler must still be called or awaited."""
        if self._queue and self.machine.is_discarding:
            self._queue.clear()
        return bool(self._queue) or (self._subscriptions is not None and bool(self._subscriptions.hooks))

    def next_call(self) -> Any:
        """Call the handler whose turn it is; return what it returned. Raises what the handler raises."""
        if self._subscriptions is not None and self._subscriptions.hooks:
            return self._subscriptions.hooks.popleft()
        queue = self._queue
        assert queue is not None
        message = queue.get()
        if queue.is_half_empty and not self._ws.has_more:
            self.machine.resume_reading(QUEUE_FULL)
        return self._on_message(self.conn, message)

    def has_unread(self) -> bool:
        """Return whether received bytes can be read now; if there are none, reading from the transport goes on."""
        if not self._ws.has_more:
            self.machine.resume_reading(QUEUE_FULL)
            return False
        return self.machine.state is not State.LOST and not self.machine.pause_causes & OUTBOX_FULL

    def begin_turn(self) -> None:
        """Note that the handler task is awake."""
        self.is_busy = True

    def finish_turn(self) -> bool:
        """Note that the handler task has nothing left to do; return whether that is so for ever."""
        if self.machine.is_behind is None or not self.machine.is_behind():
            self.machine.answer()
        if self.machine.state is State.LOST:
            self._ws.abandon()
            return True
        self.is_busy = False
        return False

    async def end(self) -> None:
        """End with the handler task: call `on_close`, and unsubscribe from all topics."""
        if self.machine.state is not State.LOST:
            self.abort()
        await self._end(self._call_on_close())

    def _call_on_close(self) -> Awaitable[None] | None:
        """Call `on_close`; return what must still be awaited."""
        try:
            result = self._component.on_close(self.conn)
        except BaseException as exc:
            return self.report(exc)
        return await_reported(self._component, self.conn, result) if isinstance(result, Awaitable) else None

    def _leave_topics(self) -> Awaitable[None] | None:
        """Unsubscribe from the remaining topics; return what must still be awaited."""
        return None if self._subscriptions is None else self._subscriptions.leave()

    async def _end(self, last: Awaitable[None] | None) -> None:
        """Await what is left of `on_close` and `on_unsubscribe`, also while the task is being cancelled."""
        await await_last(last, self._leave_topics, self._options.on_close_timeout, self.conn)
        self._release()

    def _release(self) -> None:
        """Break the circle of references, and leave the host."""
        self.conn._driver = None
        self.machine.outbox.release()
        self._handler_task = self._eager_task = self._subscriptions = self._calls = None
        self._host.discard(self)

    # -- what the connection asks ------------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> LazyCoroutine[None]:
        """Close the connection; see `Connection.close`."""
        return self.machine.close(code, reason)

    def abort(self) -> None:
        """Drop the connection at once; see `Connection.abort`."""
        self.machine.abort()

    def ping(self, payload: bytes | None) -> LazyCoroutine[float]:
        """Send a ping; see `Connection.ping`."""
        if self._pings is None:
            self._pings = Pings()
        if not self.machine.outbox.is_open:
            return no_pong()  # and earlier pings can still be answered
        payload, latency = self._pings.add(payload)
        self.machine.outbox.flush()
        self.machine.outbox.transport.write(self._ws.ping(payload))
        return latency

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that the connection subscribes to, in the order of subscribing."""
        return () if self._subscriptions is None else tuple(self._subscriptions.topics)

    def ask_subscribe(self, topic: Topic, *, history: bool = False) -> Any:
        """Call `authorize` and `on_subscribe`; return what must be awaited, or what `on_subscribe` returned."""
        return (self._subscriptions or self.subscriptions()).ask(topic, history=history)

    def subscriptions(self) -> Subscriptions:
        """Return its topics and what it may do with them; they are made when they are first needed."""
        if self._subscriptions is None:
            self._subscriptions = make_subscriptions(self, self._component, self._options.max_topics, self._host)
        return self._subscriptions

    def hooks_wait(self) -> None:
        """Note that the subscriptions have something that must be awaited."""
        if not self.is_busy:
            self._wake_handler_task()

    def exceeded(self, limit: str) -> None:
        """Count that the connection has exceeded a limit."""
        self._host.exceeded(limit, self.conn)

    def user_changed(self) -> None:
        """Note that the user of the request, or its expiry, was replaced; see `Connection.refresh_user`."""
        self._host.user_changed(self.conn)
        if self._subscriptions is not None and self._subscriptions.authorization is not None:
            self._subscriptions.authorization.reauthorize()

    def limit_messages(self, size: int | None) -> None:
        """Receive and queue no more than `size` bytes; None is the limit of the options again."""
        limit = self._options.max_message_size if size is None else min(size, self._options.max_message_size)
        self._ws.use_limits(options := dataclasses.replace(self._options, max_message_size=limit))
        self._max_queue, self._max_inflated = queue_limits(options)
        if self._queue is not None:
            self._queue.use_limits(self._max_queue, self._max_inflated)

    def wait_for_replies(self, calls: Replies, *, more: bool) -> None:
        """Pass replies to the calls that wait; while they do, let `more` messages wait for the handler."""
        if self._calls is None:
            self._calls = calls
            self._queue = ReplyQueue(self._queue, calls.take)
        assert self._queue is not None
        self._max_queue, self._max_inflated = queue_limits(self._options, more=more)
        self._queue.use_limits(self._max_queue, self._max_inflated)
        if self._queue.is_full:
            self.machine.pause_reading(QUEUE_FULL)

    def read_replies(self) -> None:
        """Read on while the handler is busy, because a reply can come; not within `data_received`."""
        if self.is_busy and self._queue is not None and not self._queue.is_full:
            if self._ws.has_more:
                self.data_received(b"")
            else:
                self.machine.resume_reading(QUEUE_FULL)

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send pings, and end what takes too long; called about every second.

        Args:
            now: seconds of a monotonic clock.
        """
        machine = self.machine
        if machine.state is not State.OPEN:
            machine.tick(now, self._options.close_timeout)
            return
        if self.lifetime is not None and self.lifetime.tick(now, machine, self.is_busy or self._ws.is_unfinished):
            return
        check_peer(machine, self._ws, self._keepalive, self._pings, self._options, now)
