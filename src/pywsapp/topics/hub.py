"""All topics of one process, and their tie to those of the other processes.

A `Topic` is an object for as long as somebody holds it, and the hub holds those with subscribers; a name that nobody
subscribes to costs nothing here and is not listened to on the broker.

A broadcast goes to this process's subscribers at once and to the broker from there; what comes back from the broker
with this process's own name on it is dropped. So local delivery does not depend on the broker.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

import anyio

from pywsapp.protocol.opcodes import TEXT
from pywsapp.protocol.prepared import PreparedMessage
from pywsapp.topics.broker import Broker, Position
from pywsapp.topics.envelope import Envelope, EnvelopeError, decode_envelope, encode_envelope
from pywsapp.topics.listeners import Listeners
from pywsapp.topics.names import Pattern, check_name
from pywsapp.topics.relay import Relay
from pywsapp.topics.topic import Connections, Topic
from pywsapp.values.errors import ConfigurationError, PywsappError
from pywsapp.waiting import DONE

logger = logging.getLogger("pywsapp")

#: Seconds that what is still to be published has when the app stops.
_FLUSH_SECONDS = 2.0


class Hub:
    """The topics of one app in one process.

    Args:
        broker: carries messages to other processes; None if there are none.
        key: signs what goes over the broker, and is asked of what comes.

    Attributes:
        origin: this process's name on the broker, made up anew for each hub.
    """

    def __init__(self, broker: Broker | None = None, key: bytes | None = None) -> None:
        self.origin = secrets.token_hex(8)
        self.broker = broker
        self.relay: Relay | None = None
        self.listeners = Listeners()
        self._key = key
        self._topics: WeakValueDictionary[str, Topic] = WeakValueDictionary()
        self._subscribed: dict[str, Topic] = {}
        self._dropped = 0

    def topic(self, name: str) -> Topic:
        """Give the topic of a name.

        Raises:
            TopicError: it is no name.
        """
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(check_name(name), self)
        return topic

    def topics(self) -> list[Topic]:
        """Give the topics that have subscribers in this process."""
        return list(self._subscribed.values())

    # -- what topics ask ---------------------------------------------------------------------------------------------

    def joined(self, topic: Topic, *, first: bool) -> Awaitable[None]:
        """Take note of a subscriber; give what waits until the broker sends for it."""
        if first:
            self._subscribed[topic.name] = topic
        if self.relay is None or self.listeners.cover(topic.name):
            return DONE  # type: ignore[no-any-return]
        if first:
            self.relay.subscribe(topic.name)
        return self.relay.subscribed(topic.name)

    def deserted(self, topic: Topic) -> None:
        """Take note that a topic has no subscriber any more."""
        del self._subscribed[topic.name]
        if self.relay is not None and not self.listeners.cover(topic.name):
            self.relay.unsubscribe(topic.name)

    def broadcast(self, topic: Topic, message: PreparedMessage, exclude: Connections) -> Awaitable[None]:
        """Send a message to everybody who subscribes to a topic; give what waits until the broker has it."""
        handover: Awaitable[None] = DONE
        if self.relay is not None:
            envelope = Envelope(topic.name, _content(message), self.origin)
            handover = self.relay.publish(topic.name, encode_envelope(envelope, self._key))
        topic.deliver(message, exclude)
        self.listeners.tell(topic, message)
        return handover

    # -- what the broker sends ---------------------------------------------------------------------------------------

    def receive(self, name: str, data: bytes, position: Position | None) -> None:
        """Take an envelope from the broker; raises nothing."""
        topic = self._subscribed.get(name)
        if topic is None and not self.listeners.cover(name):
            return
        try:
            envelope = decode_envelope(data, name, self._key)
            if envelope.origin == self.origin or envelope.message is None:
                return
            message = PreparedMessage(envelope.message)
            if topic is None:
                topic = self.topic(name)
        except EnvelopeError as exc:
            self._drop(name, exc)
        except PywsappError as exc:  # a name that is none
            self._drop(name, exc)
        else:
            topic.deliver(message)
            self.listeners.tell(topic, message)

    def _drop(self, name: str, exc: Exception) -> None:
        """Count what cannot be read, and tell of it ever more seldom: it may come as often as somebody likes."""
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:
            logger.warning("dropped a message of the broker on %.100r: %s (%d so far)", name, exc, self._dropped)

    @property
    def dropped(self) -> int:
        """How much came from the broker that could not be read."""
        return self._dropped

    # -- running -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be connected to the other processes meanwhile.

        Raises:
            Exception: what happened inside, and not in a group.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            self.listeners.start(tasks)
            if self.broker is not None:
                self.relay = Relay(self.broker, self.receive, self.listeners.patterns)
                for name in self._subscribed:
                    self.relay.subscribe(name)
                await tasks.start(self.relay.run)
            try:
                yield
                if self.relay is not None:
                    with anyio.move_on_after(_FLUSH_SECONDS):
                        await self.relay.flush()
            except Exception as exc:
                failure = exc
            finally:
                self.relay = None
                self.listeners.stop()
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def listen(self, pattern: str, handler: Callable[..., Any]) -> None:
        """Call a handler for every message on the topics of a pattern, wherever it was broadcast.

        Raises:
            ConfigurationError: it is no pattern, or the hub runs already.
        """
        if self.relay is not None:
            raise ConfigurationError("listeners are to be registered before the app runs")
        self.listeners.add(Pattern(pattern), handler)


def _content(message: PreparedMessage) -> str | bytes:
    return message.payload.decode() if message.opcode == TEXT else message.payload
