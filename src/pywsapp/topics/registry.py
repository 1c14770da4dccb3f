"""The topics of one process, and their messages to and from other processes.

A `Topic` object exists as long as it is referenced. The registry references the topics with subscribers; a topic
without subscribers costs nothing, and the broker does not deliver its messages.

A broadcast is delivered to the subscribers of this process at once, and published to the broker. When the broker sends
it back, it is dropped. So local delivery does not depend on the broker. A topic with a history is different: its
messages are published first and are delivered when they come back with a position (`history.recovery` has the theory).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio

from pywsapp._log_fields import log_fields
from pywsapp._messages.objects import content_of, prepared_content
from pywsapp._outbox.awaitables import ALREADY_DONE, LazyCoroutine
from pywsapp._outbox.threads import current_thread, wrong_thread
from pywsapp._protocol.prepared import PreparedMessage
from pywsapp.brokers.base import Broker, BrokerConnection, Position
from pywsapp.brokers.envelope import Envelope, EnvelopeError, Keys
from pywsapp.brokers.message_ids import RecentIds
from pywsapp.brokers.relay import Relay
from pywsapp.brokers.relay_lag import measure_lag
from pywsapp.codecs.base import Codec
from pywsapp.connection import Connection
from pywsapp.exceptions import ConfigurationError
from pywsapp.options import Options
from pywsapp.topics.codec import Content, EnvelopeCodec
from pywsapp.topics.delivery import Subscribers, deliver, deliver_in_forms, deliver_kept
from pywsapp.topics.fallback.service import FallbackService
from pywsapp.topics.history.rules import HistoryRule
from pywsapp.topics.history.service import HistoryService
from pywsapp.topics.listeners import TopicListeners
from pywsapp.topics.names import RESERVED, TopicPattern, check_name
from pywsapp.topics.occupancy.changes import REPORTED_TOPIC, REPORTERS_TOPIC, Kind
from pywsapp.topics.occupancy.service import OccupancyService
from pywsapp.topics.presence.events import ALIVE_TOPIC
from pywsapp.topics.presence.service import PresenceService
from pywsapp.topics.process_events import ProcessEvents
from pywsapp.topics.replays import Novelty
from pywsapp.topics.topic import Topic
from pywsapp.topics.topic_codecs import TopicCodecs
from pywsapp.topics.topic_stats import TopicStats
from pywsapp.topics.users.events import USERS_TOPIC
from pywsapp.topics.users.service import UserService

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from pywsapp._trace_hooks import TraceHooks

logger = logging.getLogger("pywsapp")

#: Seconds for which an app waits for its broker before it listens. It is less than a usual `worker_timeout`, so that no
#: worker is killed because the broker does not answer.
START_SECONDS = 3.0
#: The topics of events between processes, which are no presence of a topic with subscribers.
_RESERVED_TOPICS = frozenset(
    {ALIVE_TOPIC, USERS_TOPIC, REPORTED_TOPIC, REPORTERS_TOPIC, *(kind.presence_topic for kind in Kind)}
)
#: Seconds in which queued messages can still be published when the app stops.
_FLUSH_SECONDS = 2.0


class TopicRegistry:
    """The topics of one app in one process. The app creates it.

    Args:
        broker: carries messages to other processes; None if there are no others.
        key: the secret that signs messages on the broker, or several that are accepted, the one that signs first; None
            signs nothing.
        options: the limits of histories and presence; None for the defaults.

    Attributes:
        relay: the connection to the broker while the app runs.
        codecs: the codecs in which topics carry objects.
        codec: encodes and decodes envelopes.
        listeners: the functions of `App.on_broadcast`.
        presence: the presence of topics.
        history: the histories of topics.
        users: the connections of each user.
        occupancy: reports topics and users that come and go.
        fallback: the fallback connections, and the batches for them.
        measures: whether the App measures times, with `App(metrics=True)` or `App.metrics`.
        trace_hooks: traces the App; None without `pywsapp.telemetry`.
        process_events: events of the layers above, between processes.
        subscribed: the topics that have subscribers in this process, by name.
        subscriptions: the subscriptions of connections in this process; topics count them.

    Raises:
        ConfigurationError: the key is empty.
    """

    def __init__(self, broker: Broker | None = None, key: Keys | None = None, options: Options | None = None) -> None:
        self.broker = broker
        self.relay: Relay | None = None
        options = Options() if options is None else options
        self.codecs = TopicCodecs()
        self.codec = EnvelopeCodec(key, self.codecs)
        self.listeners = TopicListeners("on_broadcast", "messages", "message")
        self.presence = PresenceService(self.codec, self.topic, options)
        self.history = HistoryService(self.codec, self._deliver_kept, options)
        self.users = UserService(self.codec, self.check_thread, options)
        self.occupancy = OccupancyService(self.codec, self.topic, self.presence, self.users, options)
        self.process_events = ProcessEvents(self.codec)
        self.fallback = FallbackService(self.codec, self.process_events)
        self._topics: WeakValueDictionary[str, Topic] = WeakValueDictionary()
        self._thread: int | None = None  # of the event loop, while the app runs
        self._tasks: TaskGroup | None = None  # while the app runs
        self._last_relay: Relay | None = None  # also after the run, since a worker then reports its last numbers
        self.subscriptions = 0
        self.subscribed: dict[str, tuple[Topic, Subscribers]] = {}
        self._has_warned = False
        self.measures = False
        self.trace_hooks: TraceHooks | None = None
        self._ids = RecentIds()  # of messages that were delivered here
        self.accepted_ids = RecentIds()  # of messages of clients that need no hook and no broadcast any more

    def topic(self, name: str) -> Topic:
        """Return the topic of a name.

        Raises:
            TopicError: the name is invalid.
            ConfigurationError: it is a Topic.
        """
        topic = self._topics.get(name) if isinstance(name, str) else None
        if isinstance(name, Topic):
            raise ConfigurationError(f"write the name, {name.name!r}, not the topic; topic.add(conn) subscribes to it")
        if topic is None:
            name = check_name(name)
            topic = self._topics[name] = Topic(name, self, self.history.rule(name), self.codecs.find(name))
        return topic

    def active(self) -> list[Topic]:
        """Return the topics that have subscribers in this process."""
        return [topic for topic, _ in self.subscribed.values()]

    @property
    def stats(self) -> TopicStats:
        """The numbers so far."""
        skipped = self.listeners.skipped + self.presence.watchers.skipped + self.occupancy.skipped
        broker = None if self._last_relay is None else self._last_relay.stats
        counted = len(self.subscribed), self.codec.dropped, self.history.lost, skipped, broker, self.subscriptions
        return TopicStats(*counted, self.presence.present_here, *self.history.kept_here)

    # -- what the app registers --------------------------------------------------------------------------------------

    def keep_history(self, rule: HistoryRule) -> None:
        """Keep a history of the topics of a rule.

        Raises:
            ConfigurationError: the broker keeps no histories, or a topic of the rule is in use.
        """
        if self.broker is not None and not self.broker.keeps_history:
            raise ConfigurationError(f"{self.broker.name} keeps no history; memory, workers and Redis do")
        self._check_unused(rule.pattern, "App.history")
        self.history.rules.append(rule)

    def use_codec(self, pattern: TopicPattern, codec: Codec) -> None:
        """Carry the objects of the topics of a pattern in a codec.

        Raises:
            ConfigurationError: the codec is invalid, or a topic of the pattern is in use.
        """
        self._check_unused(pattern, "App.topic_codec")
        self.codecs.add(pattern, codec)

    def _check_unused(self, pattern: TopicPattern, method: str) -> None:
        if any(pattern.matches(name) for name in self._topics):
            raise ConfigurationError(f"{method} must be called before its topics are used")

    def use_broker(self, broker: Broker | None) -> None:
        """Replace the broker before the app runs.

        Raises:
            ConfigurationError: a topic has a history, and the broker keeps none.
        """
        if broker is not None and not broker.keeps_history and self.history.rules:
            raise ConfigurationError(f"{broker.name} keeps no history; memory, workers and Redis do")
        self.broker = broker

    def include(self, other: TopicRegistry) -> None:
        """Add the topics, histories, listeners and presence watchers of another app; neither of the two runs.

        Raises:
            ConfigurationError: the other app has a broker or a key, or both have created the same topic.
        """
        if other.broker is not None or other.codec.is_signing:
            raise ConfigurationError("an App that is mounted on another App cannot have its own broker or broker_key")
        if both := sorted(set(self._topics) & set(other._topics)):
            raise ConfigurationError(f"both Apps use the topic {both[0]!r} already; mount before using it")
        for rule in other.history.rules:
            self.keep_history(rule)
        for pattern, codec in other.codecs:
            self.use_codec(pattern, codec)
        self.listeners.include(other.listeners)
        self.presence.watchers.include(other.presence.watchers)
        self.occupancy.include(other.occupancy)
        self.measures = self.measures or other.measures
        for name, topic in other._topics.items():
            topic._registry, topic.history, topic.codec = self, self.history.rule(name), self.codecs.find(name)
            self._topics[name] = topic

    # -- what topics call --------------------------------------------------------------------------------------------

    def check_thread(self, what: str) -> None:
        """Check that the caller runs in the thread of the event loop, if the app runs.

        Raises:
            ConfigurationError: it does not.
        """
        if self._thread is not None and self._thread != current_thread():
            raise wrong_thread(what)

    def start_receiving(self, topic: Topic, subscribers: Subscribers) -> None:
        """Have the broker deliver the messages of a topic, which has its first subscriber."""
        name = topic.name
        self.subscribed[name] = topic, subscribers
        received = ALREADY_DONE
        if self.relay is not None:
            is_covered = self.listeners.covers(name)
            if topic.history is not None:
                self.history.follow(name, subscribe=not is_covered)
            elif not is_covered:
                self.relay.subscribe(name)
            received = self._delivered(self.relay, topic)
        if self.presence.covers(name):
            self.presence.open(name, received)
        self.occupancy.opened(name)

    def received(self, topic: Topic) -> LazyCoroutine[None]:
        """Return what waits until the broker delivers the messages of a topic and its presence is known."""
        if self.relay is None:
            return ALREADY_DONE
        return self.presence.settled(topic.name) or self._delivered(self.relay, topic)

    def _delivered(self, relay: Relay, topic: Topic) -> LazyCoroutine[None]:
        return relay.subscribed(topic.name) if topic.history is None else self.history.followed(topic.name)

    def stop_receiving(self, topic: Topic) -> None:
        """Have the broker stop to deliver the messages of a topic, which has no subscriber any more."""
        del self.subscribed[topic.name]
        self.presence.close(topic.name)
        self.occupancy.closed(topic.name)
        self.history.unfollow(topic.name)
        if self.relay is not None and not self.listeners.covers(topic.name):
            self.relay.unsubscribe(topic.name)

    def broadcast(
        self,
        topic: Topic,
        message: PreparedMessage,
        exclude: frozenset[Connection] = frozenset(),
        message_id: str | None = None,
    ) -> LazyCoroutine[None]:
        """Send a message to all subscribers of a topic; return what waits until the broker has accepted it."""
        if self._thread is None and not self.subscribed:
            self._warn_of_no_receiver(topic)
        if topic.history is not None:
            return self._broadcast_kept(topic, content_of(message), topic.history, message_id)
        acknowledgement = ALREADY_DONE
        if self.relay is not None:
            data = self.codec.encode(topic.name, content_of(message), message_id)
            acknowledgement = self.relay.publish(topic.name, data)
        if message_id is not None and not self._ids.add(topic.name, message_id):
            return acknowledgement  # it is delivered here already
        self._deliver(topic.name, message, exclude)
        if self.listeners:
            self.listeners.call(topic, content_of(message))
        return acknowledgement

    def _warn_of_no_receiver(self, topic: Topic) -> None:
        """Warn once of a broadcast while the app does not run; a history in memory keeps its messages, though."""
        if self._has_warned or (topic.history is not None and self.broker is None):
            return
        self._has_warned = True
        logger.warning(
            "a broadcast on %r has no receiver, because the App does not run in this process; "
            "broadcast while it runs, or publish from another program with pywsapp.Publisher",
            topic.name,
            extra=log_fields("topic.no_receiver", topic=topic.name),
        )

    def _broadcast_kept(
        self, topic: Topic, content: Content, rule: HistoryRule, message_id: str | None
    ) -> LazyCoroutine[None]:
        name = topic.name
        if self.relay is not None:
            comes_back = name in self.subscribed or self.listeners.covers(name)
            return self.history.publish(name, content, rule, message_id, comes_back=comes_back)
        if self.history.append(name, content, rule, message_id):
            self.listeners.call(topic, content)
        return ALREADY_DONE

    # -- what the broker delivers ------------------------------------------------------------------------------------

    def receive(self, name: str, data: bytes, position: Position | None) -> None:
        """Handle an envelope from the broker; raises nothing, whatever the envelope is."""
        subscribed = self.subscribed.get(name)
        is_covered = self.listeners.covers(name)
        try:
            if subscribed is None and (name.startswith(RESERVED) or not is_covered):
                if name == USERS_TOPIC and self.users.is_for_others(data):
                    return
                if (name in _RESERVED_TOPICS or name in self.process_events) and not self.codec.is_own(name, data):
                    self._receive_event(self.codec.decode(name, data))
                return
            topic = self.topic(name) if subscribed is None else subscribed[0]
            if position is not None:
                self._receive_kept(topic, data, position, is_covered=is_covered)
            elif not self.codec.is_own(name, data):
                self._receive_plain(topic, self.codec.decode(name, data))
        except Exception as exc:
            self.codec.drop(name, exc)

    def _receive_plain(self, topic: Topic, envelope: Envelope) -> None:
        if envelope.message is None:
            self._receive_event(envelope)
            return
        if envelope.origin == self.codec.origin:
            return
        if topic.history is not None:
            raise EnvelopeError("the topic has a history, but the message has no position in it")
        if self.codec.is_signing:
            self.codec.guard.check_new(envelope)
        if envelope.id is not None and not self._ids.add(topic.name, envelope.id):
            return  # it was published again
        self._deliver(topic.name, prepared_content(envelope.message))
        self.listeners.call(topic, envelope.message)

    def _receive_event(self, envelope: Envelope) -> None:
        if envelope.origin == self.codec.origin:
            return
        if envelope.message is not None:
            raise EnvelopeError("the topic is reserved, but this is the message of an application")
        if self.codec.is_signing:
            self.codec.guard.check_new(envelope)
        if envelope.topic in self.process_events:
            self.process_events.receive(envelope)
        elif envelope.topic == REPORTED_TOPIC:
            self.occupancy.receive(envelope)
        else:
            (self.users if envelope.topic == USERS_TOPIC else self.presence).receive(envelope)

    def _receive_kept(self, topic: Topic, data: bytes, position: Position, *, is_covered: bool) -> None:
        if topic.history is None:
            raise EnvelopeError("the topic keeps no history here, but the message has a position in one")
        if not is_covered and self.history.has_delivered(topic.name, position):
            return
        envelope = self.codec.decode(topic.name, data)  # verified before its position moves anything
        if envelope.message is None:
            raise EnvelopeError("it has a position in a history, but it is not a message")
        novelty = self.codec.guard.novelty_of(envelope) if self.codec.is_signing else Novelty.NEXT
        if novelty is Novelty.REPEATED:
            raise EnvelopeError("it was received before")
        self.history.receive(envelope, data, position, is_next=novelty is Novelty.NEXT)
        # Listeners get the messages as they come, and need not wait until missing ones have been read.
        if is_covered and novelty is not Novelty.OLD:
            self.listeners.call(topic, envelope.message)

    def _deliver(self, name: str, message: PreparedMessage, exclude: frozenset[Connection] = frozenset()) -> None:
        subscribed = self.subscribed.get(name)
        if subscribed is None:
            return
        topic, subscribers = subscribed
        if topic._groups is not None:
            deliver_in_forms(name, topic._groups, message, exclude)
        else:
            deliver(subscribers, message, exclude)

    def _deliver_kept(self, name: str, position: Position, content: Content | None) -> None:
        subscribed = self.subscribed.get(name)
        if subscribed is None:
            return
        topic, subscribers = subscribed
        assert topic.history is not None
        deliver_kept(name, topic.history, topic._groups, subscribers, position, content)

    # -- running -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect to the other processes for the time of a block.

        Raises:
            Exception: what was raised inside the block, not wrapped in a group.
        """
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    await self._start(tasks)
                    yield
                    await self._finish()
                except Exception as exc:
                    failure = exc
                finally:
                    self._stop()
                tasks.cancel_scope.cancel()
        finally:
            if self.broker is not None:
                self.broker.close()
        if failure is not None:
            raise failure

    async def _start(self, tasks: TaskGroup) -> None:
        self._thread, self._tasks = current_thread(), tasks
        receive = self.codec.trace(self.trace_hooks, self.receive)
        self.listeners.start(tasks, self.trace_hooks)
        if self.broker is not None:
            self.relay = self._last_relay = Relay(self.broker, receive, self.listeners.patterns, self._connected)
        self.history.start(self.relay, tasks)
        self.users.start(self.relay)
        self.process_events.start(self.relay)
        self.fallback.start()
        self.presence.start(tasks, self.relay)
        self.occupancy.prepare(self.relay, self.trace_hooks)
        if self.relay is not None:
            tasks.start_soon(self.relay.run)
            if self.measures:
                tasks.start_soon(measure_lag, self.relay)
            with anyio.move_on_after(START_SECONDS):
                await self.relay.attempted.wait()
        self.presence.start_ticking(tasks)
        self.occupancy.start(tasks, self.active())

    async def _connected(self, connection: BrokerConnection) -> None:
        self.presence.connected()
        self.occupancy.connected()
        self.history.connected()

    def drain(self, delay: float) -> None:
        """Stop to wait for a broker that accepts nothing: the app drains after a delay, in seconds."""
        if self.relay is not None and self._tasks is not None:
            self._tasks.start_soon(self.relay.give_up_when_stuck, delay)

    async def _finish(self) -> None:
        self.presence.announce_end()
        if self.relay is not None:
            with anyio.move_on_after(_FLUSH_SECONDS):
                await self.relay.flush()

    def _stop(self) -> None:
        self.relay = self._thread = self._tasks = None
        self.history.stop()
        self.users.stop()
        self.fallback.stop()
        self.process_events.stop()
        self.presence.stop()
        self.occupancy.stop()  # afterwards, because it closes topics of presence, and there is nothing left to send
        self.listeners.stop()
