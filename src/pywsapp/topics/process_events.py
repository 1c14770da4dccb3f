"""Events between processes on further reserved topics, for the layers above the topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp._outbox.awaitables import ALREADY_DONE, LazyCoroutine
from pywsapp.brokers.envelope import Envelope
from pywsapp.topics.codec import EnvelopeCodec

if TYPE_CHECKING:
    from pywsapp.brokers.relay import Relay


class ProcessEvents:
    """The reserved topics of the layers above. The topic registry creates the object.

    Args:
        codec: encodes events; its `origin` names this process.
    """

    def __init__(self, codec: EnvelopeCodec) -> None:
        self._codec = codec
        self._relay: Relay | None = None
        self._handlers: dict[str, Callable[[Envelope], None]] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._handlers

    def start(self, relay: Relay | None) -> None:
        """Start with a broker, if there is one."""
        self._relay = relay

    def stop(self) -> None:
        """Stop, and drop all handlers."""
        self._relay = None
        self._handlers.clear()

    @property
    def has_others(self) -> bool:
        """Whether events can reach other processes."""
        return self._relay is not None

    def listen(self, topic: str, handle: Callable[[Envelope], None]) -> LazyCoroutine[None]:
        """Call a function with each event of other processes on a topic, until `unlisten` or the end of the App.

        Args:
            topic: a reserved name.
            handle: takes the envelope; it raises `EnvelopeError` if the event is invalid.

        Returns:
            an awaitable. Awaiting it waits until the broker delivers the topic. It need not be awaited.
        """
        self._handlers[topic] = handle
        if self._relay is None:
            return ALREADY_DONE
        self._relay.subscribe(topic)
        return self._relay.subscribed(topic)

    def unlisten(self, topic: str) -> None:
        """Undo `listen`."""
        self._handlers.pop(topic, None)
        if self._relay is not None:
            self._relay.unsubscribe(topic)

    def receive(self, envelope: Envelope) -> None:
        """Handle an event of another process.

        Raises:
            EnvelopeError: the event is invalid.
        """
        self._handlers[envelope.topic](envelope)

    def publish(self, topic: str, event: dict[str, Any]) -> LazyCoroutine[None]:
        """Send an event to the other processes that listen; nothing without a broker. Never blocks.

        Returns:
            an awaitable. Awaiting it waits until the broker has accepted the event. It need not be awaited.
        """
        if self._relay is None:
            return ALREADY_DONE
        return self._relay.publish_event(topic, self._codec.encode_event(topic, event))
