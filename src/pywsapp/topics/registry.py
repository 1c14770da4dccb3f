"""All topics of one process, and their tie to those of the other processes.

A `Topic` is an object for as long as somebody holds it, and the hub holds those with subscribers; a name that nobody
subscribes to costs nothing here and is not listened to on the broker.

A broadcast goes to this process's subscribers at once, and to the broker; what comes back from the broker with this
process's own name on it is dropped. So local delivery does not depend on the broker. Topics with a history are the
exception: what is broadcast on them gets its place there first, and is delivered when it comes back (`recovery`).
"""

from __future__ import annotations

import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import anyio

from pywsapp._outbox.awaitables import ALREADY_DONE, LazyAwaitable
from pywsapp._protocol.opcodes import TEXT
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import Broker, BrokerConnection, Kept, Position
from pywsapp.brokers.envelope import Envelope, EnvelopeError, decode_envelope, encode_envelope
from pywsapp.brokers.relay import Relay, RelayStats
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError, PywsappError
from pywsapp.topics.history.rules import HistoryRule, Publication
from pywsapp.topics.history.service import HistoryService
from pywsapp.topics.listeners import TopicListeners
from pywsapp.topics.names import TopicPattern, check_name
from pywsapp.topics.presence import ALIVE_TOPIC, PresenceDiff, PresenceService
from pywsapp.topics.topic import Topic

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("pywsapp")

#: Seconds that what is still to be published has when the app stops.
_FLUSH_SECONDS = 2.0
#: How often changes of presence are sent and told, and how long others may take to say who is there through them.
_TICK_SECONDS = 0.1
_SETTLE_SECONDS = 0.3


class HubStats(NamedTuple):
    """What the topics of one process have seen, counted from its start.

    Args:
        topics: that have subscribers in this process.
        dropped: messages of the broker that could not be read.
        lost: how often messages of a topic with a history were lost, and its subscribers told.
        broker: what the broker has done; None while the app does not run, or without one.
    """

    topics: int
    dropped: int
    lost: int
    broker: RelayStats | None


class Hub:
    """The topics of one app in one process.

    Args:
        broker: carries messages to other processes; None if there are none.
        key: signs what goes over the broker, and is asked of what comes.

    Attributes:
        origin: this process's name on the broker, made up anew for each hub.

    Raises:
        ConfigurationError: the key is empty.
    """

    def __init__(self, broker: Broker | None = None, key: bytes | None = None) -> None:
        if key is not None and not key:
            raise ConfigurationError("the broker's key is empty; leave it out to sign nothing")
        self.origin = secrets.token_hex(8)
        self.broker = broker
        self.relay: Relay | None = None
        self._tasks: TaskGroup | None = None
        self._settled: dict[str, anyio.Event] = {}
        self.listeners = TopicListeners()
        self.presence = PresenceService(self.origin, self._send_event, self._tell_presence)
        self.watchers: list[tuple[TopicPattern, Callable[[Topic, PresenceDiff], Any]]] = []
        self._histories = HistoryService(self.origin, self._deliver_kept, self._lose)
        self._key = key
        self._topics: WeakValueDictionary[str, Topic] = WeakValueDictionary()
        self._subscribed: dict[str, Topic] = {}
        self._dropped = self._lost = 0
        self._running = False

    def topic(self, name: str) -> Topic:
        """Give the topic of a name.

        Raises:
            TopicError: it is no name.
        """
        topic = self._topics.get(name) if isinstance(name, str) else None
        if topic is None:
            name = check_name(name)
            topic = self._topics[name] = Topic(name, self, self._histories.rule(name))
        return topic

    def topics(self) -> list[Topic]:
        """Give the topics that have subscribers in this process."""
        return list(self._subscribed.values())

    # -- what topics ask ---------------------------------------------------------------------------------------------

    def joined(self, topic: Topic, *, first: bool) -> Awaitable[None]:
        """Take note of a subscriber; give what waits until the broker sends for it."""
        if first:
            self._subscribed[topic.name] = topic
            if self.has_presence(topic.name):
                self.presence.open(topic.name, settled=self.relay is None)
        if self.relay is None:
            return ALREADY_DONE  # type: ignore[no-any-return]
        subscribed = self._subscribe(topic, self.relay, first=first)
        if not self.has_presence(topic.name) or not (first or topic.name in self._settled):
            return subscribed
        assert self._tasks is not None
        if first:
            settled = self._settled[topic.name] = anyio.Event()
            self._tasks.start_soon(self._settle, topic.name, subscribed, settled)
        return LazyAwaitable(self._settled[topic.name].wait)

    def _subscribe(self, topic: Topic, relay: Relay, *, first: bool) -> Awaitable[None]:
        covered = self.listeners.cover(topic.name)
        if topic.history is not None:
            return self._histories.follow(topic.name, subscribe=not covered)
        if covered:
            return ALREADY_DONE  # type: ignore[no-any-return]
        if first:
            relay.subscribe(topic.name)
        return relay.subscribed(topic.name)

    async def _settle(self, name: str, subscribed: Awaitable[None], settled: anyio.Event) -> None:
        """Ask others who is there, and give them the time to say it."""
        await subscribed
        self.presence.ask(name)
        await anyio.sleep(_SETTLE_SECONDS)
        if self._settled.get(name) is settled:
            self.presence.settle(name)
        settled.set()

    def deserted(self, topic: Topic) -> None:
        """Take note that a topic has no subscriber any more."""
        del self._subscribed[topic.name]
        self.presence.close(topic.name)
        self._settled.pop(topic.name, None)
        self._histories.unfollow(topic.name)
        if self.relay is not None and not self.listeners.cover(topic.name):
            self.relay.unsubscribe(topic.name)

    def broadcast(
        self, topic: Topic, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()
    ) -> Awaitable[None]:
        """Send a message to everybody who subscribes to a topic; give what waits until the broker has it."""
        if topic.history is not None:
            return self._broadcast_kept(topic, message, topic.history)
        acknowledgement: Awaitable[None] = ALREADY_DONE
        if self.relay is not None:
            acknowledgement = self.relay.publish(topic.name, self._encoded(topic, message))
        topic.deliver(message, exclude)
        self.listeners.tell(topic, _content(message))
        return acknowledgement

    def _broadcast_kept(self, topic: Topic, message: PreparedMessage, rule: HistoryRule) -> Awaitable[None]:
        data, keep = self._encoded(topic, message), self._histories.keep(rule)
        if self.relay is not None:
            return self.relay.publish(topic.name, data, keep)
        position = self._histories.memory.append(topic.name, data, keep)
        assert position is not None
        self._deliver_wrapped(topic, position, _content(message))
        self.listeners.tell(topic, _content(message))
        return ALREADY_DONE  # type: ignore[no-any-return]

    def _encoded(self, topic: Topic, message: PreparedMessage) -> bytes:
        return encode_envelope(Envelope(topic.name, _content(message), self.origin), self._key)

    async def missed(self, topic: Topic, since: Position | None) -> tuple[Kept, list[PreparedMessage]]:
        """Give what a topic's history has behind a position, or behind None all it has, and what a client gets of it.

        Raises:
            BrokerUnavailable: it cannot be read.
        """
        if since is None:
            start = (await self._histories.read(topic.name, None)).position._replace(offset=0)
            kept = (await self._histories.read_current(topic.name, start))._replace(complete=True)
        else:
            kept = await self._histories.read_current(topic.name, since)
        found = []
        if not kept.complete:
            first = kept.messages[0][0] if kept.messages else kept.position.offset + 1
            found.append(_wrapped(topic, kept.position._replace(offset=first - 1), None))
        for offset, data in kept.messages:
            envelope = self._decoded(topic.name, data)
            if envelope is not None:
                found.append(_wrapped(topic, Position(kept.position.epoch, offset), envelope.message))
        return kept, [message for message in found if message is not None]

    # -- what the broker sends ---------------------------------------------------------------------------------------

    def receive(self, name: str, data: bytes, position: Position | None) -> None:
        """Take an envelope from the broker; raises nothing."""
        covered = self.listeners.cover(name)
        if name not in self._subscribed and name != ALIVE_TOPIC and not covered:
            return
        try:
            topic = self.topic(name)
            if position is None:
                self._receive_plain(topic, decode_envelope(data, name, self._key))
                return
            if topic.history is None:
                raise EnvelopeError("the topic keeps no history here, and the message has a place in one")
            # listeners hear of what comes, and need not wait for what has to be read before it
            message = decode_envelope(data, name, self._key).message if covered else None
        except PywsappError as exc:
            self._drop(name, exc)
            return
        self._histories.receive(name, data, position)
        if message is not None:
            self.listeners.tell(topic, message)

    def _receive_plain(self, topic: Topic, envelope: Envelope) -> None:
        if envelope.origin == self.origin:
            return
        if envelope.message is None:
            self.presence.receive(topic.name, envelope.origin, envelope.event or {}, time.monotonic())
            return
        if topic.history is not None:
            raise EnvelopeError("the topic has a history, and the message has no place in it")
        topic.deliver(PreparedMessage(envelope.message))
        self.listeners.tell(topic, envelope.message)

    def _deliver_kept(self, name: str, data: bytes, position: Position) -> None:
        envelope = self._decoded(name, data)
        if envelope is not None and envelope.message is not None:
            self._deliver_wrapped(self.topic(name), position, envelope.message)

    def _lose(self, name: str, position: Position) -> None:
        self._lost += 1
        if self._lost & (self._lost - 1) == 0:
            logger.error(
                "messages on %r up to %s are lost, its history is too short (%d so far)", name, position, self._lost
            )
        self._deliver_wrapped(self.topic(name), position, None)

    def _deliver_wrapped(self, topic: Topic, position: Position, content: str | bytes | None) -> None:
        message = _wrapped(topic, position, content) if topic.subscribers else None
        if message is not None:
            topic.deliver_kept(message, position)

    def _decoded(self, name: str, data: bytes) -> Envelope | None:
        try:
            return decode_envelope(data, name, self._key)
        except EnvelopeError as exc:
            self._drop(name, exc)
            return None

    def _drop(self, name: str, exc: Exception) -> None:
        """Count what cannot be read, and tell of it ever more seldom: it may come as often as somebody likes."""
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:
            logger.warning("dropped a message of the broker on %r: %s (%d so far)", name[:100], exc, self._dropped)

    @property
    def stats(self) -> HubStats:
        """What has happened so far."""
        broker = None if self.relay is None else self.relay.stats
        return HubStats(len(self._subscribed), self._dropped, self._lost, broker)

    # -- presence ----------------------------------------------------------------------------------------------------

    def has_presence(self, name: str) -> bool:
        """Tell whether somebody wants to know who is in a topic."""
        return any(pattern.matches(name) for pattern, _ in self.watchers)

    def watch(self, pattern: str, watcher: Callable[[Topic, PresenceDiff], Any]) -> None:
        """Tell a def about who comes to, and leaves, the topics of a pattern.

        Raises:
            ConfigurationError: it is no pattern, or the hub runs already.
        """
        if inspect.iscoroutinefunction(watcher):
            raise ConfigurationError("who is told of presence is a def; it may start tasks with App.start_soon")
        if self._running:
            raise ConfigurationError("who is told of presence is to be registered before the app runs")
        self.watchers.append((TopicPattern(pattern), watcher))

    def _send_event(self, name: str, event: dict[str, Any]) -> None:
        if self.relay is not None:
            self.relay.publish(name, encode_envelope(Envelope(name, None, self.origin, event), self._key))

    def _tell_presence(self, name: str, diff: PresenceDiff) -> None:
        for pattern, watcher in self.watchers:
            if pattern.matches(name):
                try:
                    watcher(self.topic(name), diff)
                except Exception:
                    logger.exception("telling of presence on %r failed", name)

    async def _keep_presence(self) -> None:
        while True:
            try:
                self.presence.tick(time.monotonic())
            except Exception:
                logger.exception("keeping presence failed")
            await anyio.sleep(_TICK_SECONDS)

    async def _connected(self, connection: BrokerConnection) -> None:
        self.presence.connected()
        await self._histories.connected(connection)

    # -- running -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be connected to the other processes meanwhile.

        Raises:
            Exception: what happened inside, and not in a group.
        """
        failure: Exception | None = None
        self._running = True
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._start(self._tasks)
                try:
                    yield
                    await self._finish()
                except Exception as exc:
                    failure = exc
                finally:
                    self._stop()
                    tasks, self._tasks = self._tasks, None
                tasks.cancel_scope.cancel()
        finally:
            if self.broker is not None:
                self.broker.close()
        if failure is not None:
            raise failure

    async def _start(self, tasks: TaskGroup) -> None:
        self.listeners.start(tasks)
        if self.broker is not None:
            self.relay = Relay(self.broker, self.receive, self.listeners.patterns, self._connected)
            self._histories.start(self.relay, tasks)
            if self.watchers:
                self.relay.subscribe(ALIVE_TOPIC)
            await tasks.start(self.relay.run)
        if self.watchers:
            tasks.start_soon(self._keep_presence)

    async def _finish(self) -> None:
        if self.watchers:
            self.presence.stop()
        if self.relay is not None:
            with anyio.move_on_after(_FLUSH_SECONDS):
                await self.relay.flush()

    def _stop(self) -> None:
        self.relay = None
        self._running = False
        self._histories.stop()
        self.listeners.stop()

    def listen(self, pattern: str, handler: Callable[..., Any]) -> None:
        """Call a handler for every message on the topics of a pattern, wherever it was broadcast.

        Raises:
            ConfigurationError: it is no pattern, or the hub runs already.
        """
        if self._running:
            raise ConfigurationError("listeners are to be registered before the app runs")
        self.listeners.add(TopicPattern(pattern), handler)

    def keep(self, rule: HistoryRule) -> None:
        """Keep a history of the topics of a rule.

        Raises:
            ConfigurationError: the broker keeps none, or one of the topics is in use.
        """
        if self.broker is not None and not self.broker.keeps_history:
            raise ConfigurationError(f"{self.broker.name} keeps no history; memory, workers and Redis do")
        if any(rule.pattern.matches(name) for name in self._topics):
            raise ConfigurationError("histories are to be set before their topics are used")
        self._histories.rules.append(rule)

    def adopt(self, other: Hub) -> None:
        """Take over the topics, histories, listeners and presence watchers of another registry; neither runs.

        Raises:
            ConfigurationError: the other registry has a broker or a key, or both have an object for the same topic.
        """
        if other.broker is not None or other._key is not None:
            raise ConfigurationError("an App that is mounted on another App cannot have its own broker or broker_key")
        both = sorted(set(self._topics) & set(other._topics))
        if both:
            raise ConfigurationError(f"both Apps use the topic {both[0]!r} already; mount before using it")
        for rule in other._histories.rules:
            self.keep(rule)
        self.listeners.adopt(other.listeners)
        self.watchers += other.watchers
        for name, topic in other._topics.items():
            topic._hub, topic.history = self, self._histories.rule(name)
            self._topics[name] = topic

    def use_broker(self, broker: Broker | None) -> None:
        """Replace the broker before the app runs.

        Raises:
            ConfigurationError: it runs already, or a topic has a history and the broker keeps none.
        """
        if self._running:
            raise ConfigurationError("a broker must be set before the app runs")
        if broker is not None and not broker.keeps_history and self._histories.rules:
            raise ConfigurationError(f"{broker.name} keeps no history; memory, workers and Redis do")
        self.broker = broker

    def use_key(self, key: bytes) -> None:
        """Replace the key that signs messages.

        Raises:
            ConfigurationError: the key is empty.
        """
        if not key:
            raise ConfigurationError("the broker's key is empty; leave it out to sign nothing")
        self._key = key


def _wrapped(topic: Topic, position: Position, content: str | bytes | None) -> PreparedMessage | None:
    """Give what clients get of a message, None if the app's own `wrap` fails."""
    assert topic.history is not None
    try:
        return PreparedMessage(topic.history.wrap(Publication(topic.name, str(position), content)))
    except Exception:
        logger.exception("the message %s on %r could not be wrapped", position, topic.name)
        return None


def _content(message: PreparedMessage) -> str | bytes:
    return message.payload.decode() if message.opcode == TEXT else message.payload
