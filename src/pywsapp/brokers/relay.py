"""A process's side of a broker: what it publishes and subscribes, and what happens when the broker is unavailable.

One task keeps a connection. While there is one, two more tasks work. The first publishes everything that was queued
meanwhile as one batch, in order, so that a broker that needs a millisecond for an answer still accepts tens of
thousands of messages a second. The second subscribes and unsubscribes topics, also in batches. If one of the tasks
fails, all end and the connection is closed. After a pause that grows and is random, the next connection is tried. It
begins with all topics that are wanted by then.

A message that was on its way when the connection broke may or may not have arrived. A plain message is not repeated,
since it could arrive twice; awaiting its `Acknowledgement` raises `OutcomeUnknown`. A kept message is repeated, since
the broker recognises it by its id: it waits for the next connection. A message that is published while there is no
connection fails at once if it is plain, and waits if it is kept. The number of waiting messages is bounded. A message
that fails with `BrokerUnavailable` itself has not been published, and will not be.

A broker can refuse a single message or topic and still serve all others (`PartlyRefused`). A refused message fails at
once. It is not repeated, also if it is kept: its number is out of order as soon as a later message is accepted. A
refused topic is subscribed again after some seconds. When that succeeds, `on_connect` is called as after a connect,
because the topic has missed messages.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import anyio
from anyio.abc import TaskStatus

from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable, LazyCoroutine
from pywsapp.brokers.acknowledgement import Acknowledgement
from pywsapp.brokers.base import MIB, Broker, BrokerConnection, Keep, Outgoing, PartlyRefused, Position, Receive
from pywsapp.brokers.drop_log import DropLog
from pywsapp.brokers.outage import OutageLog
from pywsapp.brokers.relay_stats import RelayStats
from pywsapp.exceptions import TopicError

CONNECT_SECONDS = 5.0
PUBLISH_SECONDS = 10.0
CLOSE_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.1
#: Of two processes, one can connect this much later than the other, and what the first one publishes meanwhile does not
#: reach the second one, except by a history.
LONGEST_PAUSE_SECONDS = 3.0
#: After a connection that lasted this long, the pauses begin short again.
GOOD_SECONDS = 10.0
#: While the app drains: seconds in which the broker must accept the oldest message.
GIVE_UP_SECONDS = 2.0
MAX_PENDING = 10_000
MAX_PENDING_BYTES = 16 * MIB
#: A kept message is dropped after this many failed attempts to publish it, since it may be the cause of the failures.
MAX_TRIES = 5
#: Seconds until refused topics are subscribed again.
RETRY_SECONDS = 3.0
_BATCH = 500
_BATCH_BYTES = MIB


class Relay:
    """Keeps a connection to a broker, and publishes and subscribes over it. Topic registries and publishers create it.

    Args:
        broker: the broker to connect to.
        receive: takes what the broker delivers, see `Broker.connect`.
        patterns: subscribed all the time.
        on_connect: awaited after each connect, when all wanted topics are subscribed, and when a topic that the broker
            had refused is subscribed.

    Attributes:
        connection: the connection; None while there is none.
        lag: for how long the oldest message has waited, in seconds; `measure_lag` sets it.
        attempted: set when the first attempt to connect has succeeded or failed.
    """

    def __init__(
        self,
        broker: Broker,
        receive: Receive,
        patterns: Sequence[str] = (),
        on_connect: Callable[[BrokerConnection], Awaitable[None]] | None = None,
    ) -> None:
        self.broker = broker
        self._receive = receive
        self._patterns = patterns
        self._on_connect = on_connect
        self._running = False
        self._gave_up = False  # kept messages do not wait for a connection any more, since the app drains
        self.connection: BrokerConnection | None = None
        self._pending: deque[Acknowledgement] = deque()
        self._in_flight: list[Acknowledgement] = []
        self._pending_bytes = 0
        self._wanted: set[str] = set()
        self._active: set[str] = set()
        self._changed: dict[str, None] = {}
        self._batch: set[str] = set()  # the topics that the broker is asked to subscribe or unsubscribe now
        self._awaited: dict[str, anyio.Event] = {}
        self._refused_topics: set[str] = set()
        self._retry_at = math.inf  # when refused topics are subscribed again, in seconds of the loop's clock
        self._work = anyio.Event()  # set when there is something to publish
        self._change = anyio.Event()  # set when there is something to subscribe or unsubscribe
        self._idle: anyio.Event | None = None
        self._connects = self._published = self._failed = self._received = 0
        self.lag = self._since = 0.0  # when the connection was made, in seconds of the loop's clock
        self._outages = OutageLog(broker)
        self._drops = DropLog(broker)
        self.attempted = anyio.Event()
        self._starting: TaskStatus[None] | None = None  # until `attempted` is set

    @property
    def stats(self) -> RelayStats:
        """The activity of the relay so far."""
        pending = len(self._pending) + len(self._in_flight)
        counted = self._connects, self._published, self._failed, self._received
        return RelayStats(int(self.connection is not None), *counted, pending, self.lag)

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(self, topic: str, data: bytes, keep: Keep | None = None) -> Acknowledgement:
        """Queue a message. Never blocks.

        Raises:
            TopicError: it is larger than the broker's limit.
        """
        if len(data) > self.broker.max_size:
            raise TopicError(f"a message of {len(data)} bytes is more than {self.broker.name} carries")
        acknowledgement = Acknowledgement(Outgoing(topic, data, keep))
        if not self._running or (self.connection is None and (keep is None or self._gave_up)):
            self._fail([acknowledgement], f"{self.broker.name} is not connected")
            if not self._running:
                self._drops.note_ended(topic)
        elif len(self._pending) >= MAX_PENDING or self._pending_bytes + len(data) > MAX_PENDING_BYTES:
            self._fail([acknowledgement], f"{self.broker.name} is too slow: {len(self._pending)} messages wait for it")
            self._drops.note_too_many()
        else:
            if not self._pending:
                self._work.set()
            self._pending.append(acknowledgement)
            self._pending_bytes += len(data)
        return acknowledgement

    def publish_event(self, topic: str, data: bytes) -> LazyCoroutine[None]:
        """Queue an event between processes, as `publish` does; after the end of the relay it is not sent, nor logged.

        A process that is cancelled loses its broker before its shutdown hooks run. The others notice its end anyway.
        """
        return self.publish(topic, data) if self._running else ALREADY_DONE

    def _fail(self, acknowledgements: Iterable[Acknowledgement], reason: str) -> None:
        for acknowledgement in acknowledgements:
            self._failed += 1
            acknowledgement.fail(reason, is_unknown=acknowledgement.tries > 0)

    def withdraw(self, acknowledgement: Acknowledgement, reason: str) -> None:
        """Publish a queued message no more; nothing if it is done. Awaiting its acknowledgement raises then.

        It raises `OutcomeUnknown` if a connection was given the message, and may still publish it.
        """
        if acknowledgement in self._pending:
            self._pending.remove(acknowledgement)
            self._pending_bytes -= len(acknowledgement.message.data)
            self._fail([acknowledgement], reason)
        else:
            acknowledgement.tries = MAX_TRIES  # if it is kept and its connection breaks, it is not repeated
            acknowledgement.fail(reason, is_unknown=True)

    async def flush(self) -> None:
        """Wait until all queued messages have been published or have failed."""
        while self._pending or self._in_flight:
            if self._idle is None:
                self._idle = anyio.Event()
            await self._idle.wait()

    async def give_up_when_stuck(self, delay: float) -> None:
        """Fail the queued messages if the broker accepts none of them, until cancelled: the app drains.

        Code that awaits a kept message would wait for as long as the broker is unavailable, and the drain with it.

        Args:
            delay: seconds until the drain begins.
        """
        await anyio.sleep(delay)
        while True:
            oldest = self.oldest()
            await anyio.sleep(GIVE_UP_SECONDS)
            if oldest is not None and self.oldest() is oldest:
                self._gave_up = True
                self._fail([*self._in_flight, *self._pending], f"{self.broker.name} accepts nothing, and the app stops")
                self._in_flight, self._pending_bytes = [], 0
                self._pending.clear()
                self._note_idle()

    def oldest(self) -> Acknowledgement | None:
        """Return the acknowledgement of the message that has waited for the longest time."""
        return next(iter([*self._in_flight[:1], *islice(self._pending, 1)]), None)

    def _note_idle(self) -> None:
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    async def _publish(self, connection: BrokerConnection) -> None:
        while True:
            if not self._pending:
                self._note_idle()
                self._work = anyio.Event()
                await self._work.wait()
            batch = self._in_flight = self._take_batch()
            try:
                with anyio.fail_after(PUBLISH_SECONDS):
                    await connection.publish([acknowledgement.message for acknowledgement in batch])
            except PartlyRefused as exc:
                self._refuse(batch, exc)
            self._in_flight = []
            self._published += len(batch)
            for acknowledgement in batch:
                acknowledgement.accept()  # of those that were refused, nothing changes

    def _refuse(self, batch: Sequence[Acknowledgement], exc: PartlyRefused) -> None:
        for place, reason in exc.reasons.items():
            acknowledgement = batch[place]
            self._drops.note_refusal("a message", acknowledgement.message.topic, reason)
            if exc.is_certain:
                acknowledgement.tries -= 1  # as if no connection had been given it this time
            self._fail([acknowledgement], f"{self.broker.name} refused the message: {reason}")
        self._published -= len(exc.reasons)

    def _take_batch(self) -> list[Acknowledgement]:
        batch: list[Acknowledgement] = []
        size = 0
        while self._pending and len(batch) < _BATCH and size < _BATCH_BYTES:
            batch.append(self._pending.popleft())
            batch[-1].tries += 1
            size += len(batch[-1].message.data)
        self._pending_bytes -= size
        return batch

    def _put_back(self, reason: str) -> None:
        """Keep the messages that may be repeated for the next connection; the others fail."""
        waiting, self._in_flight, self._pending = [*self._in_flight, *self._pending], [], deque()
        for acknowledgement in waiting:
            if acknowledgement.message.keep is None or acknowledgement.tries >= MAX_TRIES:
                self._fail([acknowledgement], reason)
            else:
                self._pending.append(acknowledgement)
        self._pending_bytes = sum(len(acknowledgement.message.data) for acknowledgement in self._pending)
        if not self._pending:
            self._note_idle()

    # -- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(self, topic: str) -> None:
        """Have the messages of a topic delivered, now and after each reconnect; safe to call again."""
        if topic not in self._wanted:
            self._wanted.add(topic)
            self._note_change(topic)

    def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`; safe to call again."""
        if topic in self._wanted:
            self._wanted.discard(topic)
            self._note_change(topic)

    def _note_change(self, topic: str) -> None:
        if (topic in self._wanted) == (topic in self._active) and topic not in self._batch:
            self._changed.pop(topic, None)  # nothing is left to ask of the broker
            self._end_waiting(topic)
            return
        if not self._changed:
            self._change.set()
        self._changed[topic] = None

    def subscribed(self, topic: str) -> LazyCoroutine[None]:
        """Return what waits until the broker delivers a topic's messages.

        It does not wait without a connection, or for a topic that the broker has refused.
        """
        is_subscribed = topic in self._active and topic not in self._changed
        if self.connection is None or topic not in self._wanted or is_subscribed or topic in self._refused_topics:
            return ALREADY_DONE
        event = self._awaited.get(topic)
        if event is None:
            event = self._awaited[topic] = anyio.Event()
        return LazyAwaitable(event.wait)

    async def _subscribe(self, connection: BrokerConnection) -> None:
        while True:
            refused_before = set(self._refused_topics)
            await self._subscribe_changed(connection)
            if self._on_connect is not None and not self._active.isdisjoint(refused_before):
                await self._on_connect(connection)
            self._change = anyio.Event()
            with anyio.CancelScope(deadline=self._retry_at):
                await self._change.wait()
            if anyio.current_time() >= self._retry_at:
                self._retry_at = math.inf
                self._changed.update(dict.fromkeys(self._refused_topics))

    async def _subscribe_changed(self, connection: BrokerConnection) -> None:
        while self._changed:
            batch = [self._changed.popitem()[0] for _ in range(min(len(self._changed), _BATCH))]
            self._batch = set(batch)
            new = [topic for topic in batch if topic in self._wanted and topic not in self._active]
            old = [topic for topic in batch if topic not in self._wanted and topic in self._active]
            refused: Mapping[int, str] = {}
            with anyio.fail_after(PUBLISH_SECONDS):
                if new:
                    try:
                        await connection.subscribe(new)
                    except PartlyRefused as exc:
                        refused = exc.reasons
                    self._active.update(new)
                if old:
                    with suppress(PartlyRefused):  # the registry drops what still arrives
                        await connection.unsubscribe(old)
                    self._active.difference_update(old)
            self._refused_topics.difference_update(batch)
            for place, reason in refused.items():
                self._refuse_topic(new[place], reason)
            self._batch = set()
            for topic in batch:
                if topic not in self._changed:
                    self._end_waiting(topic)

    def _end_waiting(self, topic: str) -> None:
        if (event := self._awaited.pop(topic, None)) is not None:
            event.set()

    def _refuse_topic(self, topic: str, reason: str) -> None:
        self._drops.note_refusal("the subscription", topic, reason)
        self._active.discard(topic)
        self._refused_topics.add(topic)
        self._retry_at = min(self._retry_at, anyio.current_time() + RETRY_SECONDS)

    # -- the connection ----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection until cancelled. It has started when the first attempt has succeeded or failed."""
        self._running, self._starting = True, task_status
        attempts = 0
        try:
            while True:
                try:
                    await self._connect_and_work()
                    reason = "the connection was closed"
                except Exception as exc:
                    reason = _reason(exc)
                was_stable = self.connection is not None and anyio.current_time() - self._since > GOOD_SECONDS
                attempts = 1 if was_stable else attempts + 1
                self._note_lost(reason)
                await anyio.sleep(pause_before(attempts))
        finally:
            self._end("the app has stopped")

    def _end(self, reason: str) -> None:
        self._running, self.connection = False, None
        failed_before = self._failed
        self._put_back(reason)
        self._fail(self._pending, reason)
        self._pending.clear()
        self._note_idle()
        self._wake_subscribers()
        self._drops.note_unpublished(self._failed - failed_before, reason)

    async def _connect_and_work(self) -> None:
        """Connect and work; return, or raise, when the connection is lost."""
        with anyio.fail_after(CONNECT_SECONDS):
            connection = await self.broker.connect(self._count_and_receive, self._patterns)
        try:
            self._active.clear()
            self._refused_topics.clear()
            self._retry_at = math.inf
            self._changed = dict.fromkeys(self._wanted)
            await self._subscribe_changed(connection)
            if self._on_connect is not None:
                await self._on_connect(connection)
            self._note_connected(connection)
            await self._work_on(connection)
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await connection.aclose()

    async def _work_on(self, connection: BrokerConnection) -> None:
        """Publish and subscribe until one of the tasks ends or fails; it ends the others, and its failure is raised."""
        failures: list[Exception] = []

        async def work(function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
            try:
                await function(*arguments)
            except Exception as exc:
                failures.append(exc)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, self._publish, connection)
            tasks.start_soon(work, self._subscribe, connection)
            tasks.start_soon(work, connection.wait_lost)
        if failures:
            raise failures[0]

    def _note_connected(self, connection: BrokerConnection) -> None:
        self.connection = connection
        self._since = anyio.current_time()
        self._connects += 1
        self._outages.note_connected(self._failed, self._since)
        self._note_attempt()

    def _note_lost(self, reason: str) -> None:
        self.connection = None
        self._outages.note_lost(reason, self._failed, anyio.current_time())
        self._put_back(f"{self.broker.name} is unavailable: {reason}")
        self._changed.clear()  # the next connection subscribes all wanted topics
        self._wake_subscribers()
        self._note_attempt()

    def _wake_subscribers(self) -> None:
        """Wake those who wait for a subscription, because it does not come with this connection."""
        awaited, self._awaited = self._awaited, {}
        for event in awaited.values():
            event.set()

    def _note_attempt(self) -> None:
        self.attempted.set()
        if self._starting is not None:
            self._starting.started()
            self._starting = None

    def _count_and_receive(self, topic: str, data: bytes, position: Position | None) -> None:
        self._received += 1
        self._receive(topic, data, position)


def pause_before(attempt: int) -> float:
    """Return the random pause in seconds before an attempt; it grows with the attempt's number, which begins at 1."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 30))
    return random.uniform(longest / 2, longest)


def _reason(exc: BaseException) -> str:
    inner: tuple[BaseException, ...] = getattr(exc, "exceptions", ())
    if inner:
        return _reason(inner[0])
    if isinstance(exc, TimeoutError) and not str(exc):
        return "it does not answer"
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
