"""The broker for RabbitMQ, with aio-pika: `App(broker="amqp://user:password@host/vhost")`.

Needs `pip install 'pywsapp[rabbitmq]'`. Other servers that speak AMQP 0-9-1 like RabbitMQ work as well.

Names: all processes share one durable topic exchange. Each process has an exclusive queue, which ends with its
connection, and binds it to the topics that it subscribes to. A topic becomes a routing key by swapping `:` and `.`, so
the segments of the name are the words of the key. The pattern "room:*" becomes "room.#". That matches "room" itself
too, and messages of a topic that was just unbound can still arrive, so this process checks each message again.

Confirmation: RabbitMQ confirms each message when it is in the queues of all subscribers. The messages of a batch are
sent together, and their confirms are awaited together. It refuses a message (basic.nack) that one of the queues does
not take, such as a full queue of another program with `x-overflow: reject-publish`.

Refusals: RabbitMQ closes a channel when the user has no right to one topic (its "topic authorisation"). It has handled
what came before on that channel, and ignores what comes after. So this module opens another channel, refuses the topic,
sends what came after once more, and cannot know whether the messages before that were not confirmed have arrived.

Slow readers: publishers do not wait for subscribers, so a process that reads too slowly would fill the memory of
RabbitMQ. Its queue has a bound, and RabbitMQ drops the oldest messages beyond it. Dropped messages go to a second queue
of the same process, which holds one message. When a message arrives there, this process has lost messages, and its
connection counts as lost. The `Relay` then reconnects, as after any loss. A process that does not read at all misses
its heartbeats too, and RabbitMQ closes its connection.

Properties: aiormq closes its connection at a message with a property that it cannot decode, such as a time after the
year 9999, or with a routing key that is not UTF-8. Every program that can publish can send one. Nothing here needs the
properties, so they are removed before aiormq parses a frame (`amqp_frames`).

The reconnecting of aio-pika is not used. This module uses only connections and channels of aio-pika; for each message
it calls aiormq, the client library below, without a layer in between.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pywsapp._clients.log_filter import filter_logs, logs_filtered
from pywsapp._extras import missing_extra
from pywsapp.brokers.amqp_frames import FrameStream
from pywsapp.brokers.asyncio_bridge import connect_on_asyncio
from pywsapp.brokers.base import MIB, Broker, BrokerConnection, Outgoing, PartlyRefused, Receive
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern

try:
    import aio_pika
    from aio_pika.abc import AbstractConnection
    from aiormq import Channel, spec
    from aiormq.abc import DeliveredMessage
    from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
    from aiormq.exceptions import ChannelAccessRefused, DeliveryError
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "rabbitmq") from exc

_SWAP_SEPARATORS = str.maketrans(":.", ".:")
_CLOSE_SECONDS = 1.0
_NACK = "RabbitMQ refused it (basic.nack): a queue that is bound to its topic does not take it"
_UNCONFIRMED = "RabbitMQ closed the channel before it confirmed the message"
_TOPIC_REFUSED = re.compile(r"access to topic '(.*)' in exchange", re.DOTALL)
#: Topics that a connection refuses to publish on without asking RabbitMQ.
_MAX_FORBIDDEN = 1000
#: Channels that bind and unbind topics at the same time.
_BINDING_CHANNELS = 4


def broker_from_url(url: str) -> RabbitBroker:
    """Return the broker for a URL; see `RabbitBroker`.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    return RabbitBroker(url)


class RabbitBroker(Broker):
    """Carries messages through RabbitMQ.

    Args:
        url: amqp:// or amqps://user:password@host:port/vhost (amqps for TLS). The query takes the parameters of aiormq:
            heartbeat, cafile, certfile, keyfile.
        exchange: the name of the exchange. Processes with the same exchange hear each other.
        heartbeat: seconds. A server that is silent for `3 * (heartbeat + 1)` seconds is lost; RabbitMQ closes the
            connection of a process that is silent for about twice the heartbeat. A heartbeat in the URL wins.
        max_queued: messages that RabbitMQ queues for a process that reads too slowly; beyond it the connection is lost.
        max_queued_bytes: the same in bytes.
        ssl_context: for amqps://, instead of the parameters in the URL.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    # The default limit of RabbitMQ 4; older versions accept 128 MiB.
    max_size = 16 * MIB

    def __init__(
        self,
        url: str,
        *,
        exchange: str = "pywsapp",
        heartbeat: int = 4,
        max_queued: int = 50_000,
        max_queued_bytes: int = 64 * MIB,
        ssl_context: SSLContext | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            is_valid = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_valid = False
        if not is_valid:  # the message does not show the URL, because it can contain a password
            raise ConfigurationError("invalid URL of RabbitMQ: use amqp:// or amqps://user:password@host:port/vhost")
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._url = url
        self._exchange = exchange
        self._options: dict[str, Any] = {} if "heartbeat" in parse_qs(parts.query) else {"heartbeat": heartbeat}
        self._queue_limits: dict[str, int | str] = {
            "x-max-length": max_queued,
            "x-max-length-bytes": max_queued_bytes,
            "x-overflow": "drop-head",
        }
        self._ssl_context = ssl_context

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        return await connect_on_asyncio(self._connect, receive, patterns)

    async def _connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        with logs_filtered():
            opened = await aio_pika.connect(
                self._url,
                ssl_context=self._ssl_context,
                client_properties={"connection_name": "pywsapp"},
                connection_class=_Connection,
                **self._options,
            )
        connection = RabbitConnection(opened, self._exchange, receive, patterns)
        try:
            await connection.open(self._queue_limits)
        except BaseException:
            await connection.aclose()
            raise
        return connection


class _Transports(TransportFactory):
    """Opens the connections of aiormq, so that it can parse every message that is received."""

    async def create(self, url: Any, **kwargs: Any) -> tuple[Any, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        return FrameStream(reader), writer


class _Connection(aio_pika.Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kwargs["transport_factory"] = _Transports()

    async def connect(self, timeout: float | None = None) -> None:
        try:
            await super().connect(timeout)
        except BaseException:
            await self.close()  # otherwise its `__del__` closes it in a task, and warns outside of an event loop
            raise


class RabbitConnection(BrokerConnection):
    """A connection to RabbitMQ, with one channel that receives, one that publishes and several that bind.

    `RabbitBroker.connect` creates it.
    """

    def __init__(
        self, connection: AbstractConnection, exchange: str, receive: Receive, patterns: Sequence[str]
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._receive = receive
        self._patterns = [TopicPattern(text) for text in patterns]
        self._topics: set[str] = set()
        self._forbidden: set[str] = set()  # topics that this user may not publish on
        self._lost = asyncio.Event()
        self._reason = "the connection was closed"
        self._publishing_channel: Channel
        self._binding_channels: list[Channel]
        self._queue: str

    async def open(self, queue_limits: dict[str, int | str]) -> None:
        """Create the channels, the exchanges and the queues, and start to receive.

        Raises:
            Exception: the connection is lost, or RabbitMQ refuses a request.
        """
        self._connection.close_callbacks.add(self._on_close)
        self._publishing_channel = await self._open_channel(confirms=True)
        self._binding_channels = [await self._open_channel(confirms=False) for _ in range(_BINDING_CHANNELS)]
        channel = await self._open_channel(confirms=False)
        dropped_exchange = f"{self._exchange}.dropped"
        await channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
        await channel.exchange_declare(dropped_exchange, exchange_type="direct", durable=True)

        dropped_queue = await _declare_queue(channel, {"x-max-length": 1})
        await channel.queue_bind(dropped_queue, dropped_exchange, dropped_queue)
        await channel.basic_consume(dropped_queue, self._on_dropped, no_ack=True)

        to_dropped_queue = {"x-dead-letter-exchange": dropped_exchange, "x-dead-letter-routing-key": dropped_queue}
        self._queue = await _declare_queue(channel, {**queue_limits, **to_dropped_queue})
        for pattern in self._patterns:
            await channel.queue_bind(self._queue, self._exchange, _binding_key(pattern))
        await channel.basic_consume(self._queue, self._on_message, no_ack=True)

    async def _open_channel(self, *, confirms: bool) -> Channel:
        channel = await self._connection.channel(publisher_confirms=confirms)
        channel.close_callbacks.add(self._on_close)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, Channel)
        return underlay

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self._check_not_lost()
        assert self._connection.transport is not None
        await self._connection.transport.ready()  # waits while RabbitMQ blocks publishers, short of memory or disk
        refused: dict[int, str] = {}
        places: Sequence[int] = range(len(messages))
        while places := self._permitted(messages, places, refused):
            results = await asyncio.gather(
                *(self._publish_one(messages[place]) for place in places), return_exceptions=True
            )
            places = await self._places_after_refusal(messages, places, results, refused)
        if refused:  # a message that one queue does not take is in the other queues of its topic
            is_certain = not any(reason in (_NACK, _UNCONFIRMED) for reason in refused.values())
            raise PartlyRefused(refused, is_certain=is_certain)

    async def _publish_one(self, message: Outgoing) -> None:
        key = message.topic.translate(_SWAP_SEPARATORS)
        await self._publishing_channel.basic_publish(message.data, exchange=self._exchange, routing_key=key, wait=False)

    def _permitted(self, messages: Sequence[Outgoing], places: Sequence[int], refused: dict[int, str]) -> list[int]:
        """Return the places of the messages that may be published, as far as this connection knows."""
        forbidden = [place for place in places if messages[place].topic in self._forbidden]
        refused.update((place, f"no right to publish on {messages[place].topic!r}") for place in forbidden)
        return [place for place in places if place not in refused]

    async def _places_after_refusal(
        self, messages: Sequence[Outgoing], places: Sequence[int], results: Sequence[Any], refused: dict[int, str]
    ) -> Sequence[int]:
        """Note what was refused; return the places of the messages behind one that has closed the channel."""
        topic = None
        for place, result in zip(places, results, strict=True):
            if isinstance(result, DeliveryError):
                refused[place] = _NACK
            elif isinstance(result, BaseException):
                topic = _refused_topic(result)
                if topic is None:
                    raise result
        first = next((place for place in places if messages[place].topic == topic), None)
        if topic is None or first is None:
            return ()
        if len(self._forbidden) < _MAX_FORBIDDEN:
            self._forbidden.add(topic)
        self._publishing_channel = await self._open_channel(confirms=True)
        again = []
        for place, result in zip(places, results, strict=True):
            if isinstance(result, ChannelAccessRefused):
                if place > first and messages[place].topic != topic:
                    again.append(place)
                else:
                    refused[place] = _UNCONFIRMED if place < first else str(result)
        return again

    async def subscribe(self, topics: Sequence[str]) -> None:
        self._check_not_lost()
        self._topics.update(topics)
        await self._change_bindings(topics, Channel.queue_bind)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._check_not_lost()
        self._topics.difference_update(topics)
        await self._change_bindings(topics, Channel.queue_unbind)

    async def _change_bindings(self, topics: Sequence[str], change: Callable[..., Awaitable[object]]) -> None:
        """Bind or unbind topics on several channels, since each channel waits for an answer before its next request."""

        refused: dict[int, str] = {}
        channels = self._binding_channels

        async def change_share(number: int) -> None:
            for place in range(number, len(topics), len(channels)):
                key = topics[place].translate(_SWAP_SEPARATORS)
                try:
                    await change(channels[number], self._queue, self._exchange, key)
                except ChannelAccessRefused as exc:
                    if _refused_topic(exc) is None:
                        raise
                    refused[place] = str(exc)
                    channels[number] = await self._open_channel(confirms=False)

        with logs_filtered():  # aiormq warns when this is cancelled, which happens when an app ends
            await asyncio.gather(*(change_share(number) for number in range(len(channels))))
        if refused:
            raise PartlyRefused(refused)

    async def wait_lost(self) -> None:
        await self._lost.wait()
        raise BrokerUnavailable(self._reason)

    async def aclose(self) -> None:
        self._lose("the connection was closed")
        closing = asyncio.ensure_future(self._connection.close())
        await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
        closing.cancel()

    def _check_not_lost(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable(self._reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._reason = reason
            self._lost.set()

    # -- called by aiormq and aio-pika -------------------------------------------------------------------------------

    async def _on_message(self, message: DeliveredMessage) -> None:
        assert isinstance(message.delivery, spec.Basic.Deliver)
        topic = (message.delivery.routing_key or "").translate(_SWAP_SEPARATORS)
        is_wanted = topic in self._topics or any(pattern.matches(topic) for pattern in self._patterns)
        if is_wanted and not self._lost.is_set():
            self._receive(topic, message.body, None)

    async def _on_dropped(self, _: DeliveredMessage) -> None:
        self._lose("this process reads too slowly, and RabbitMQ dropped messages for it")

    def _on_close(self, _: object, exc: BaseException | None) -> None:
        if _refused_topic(exc) is not None:  # the call that caused it goes on with another channel
            return
        if isinstance(exc, asyncio.CancelledError):  # aiormq cancels a connection that misses heartbeats
            self._lose("the server does not answer")
        elif exc is not None:
            self._lose(f"{type(exc).__name__}: {exc}")
        else:
            self._lose("the connection was closed")


async def _declare_queue(channel: Channel, arguments: dict[str, int | str]) -> str:
    """Create an exclusive queue, and return the name that RabbitMQ gave it."""
    answer = await channel.queue_declare(exclusive=True, auto_delete=True, arguments=dict(arguments))
    assert answer is not None
    assert answer.queue is not None
    return answer.queue


def _refused_topic(exc: object) -> str | None:
    """Return the topic to which RabbitMQ refuses access; None if the exception says something else."""
    found = _TOPIC_REFUSED.search(str(exc)) if isinstance(exc, ChannelAccessRefused) else None
    return None if found is None else found[1].translate(_SWAP_SEPARATORS)


def _binding_key(pattern: TopicPattern) -> str:
    if pattern.prefix is None:
        return pattern.text.translate(_SWAP_SEPARATORS)
    return pattern.prefix.translate(_SWAP_SEPARATORS) + "#"


# A server that is short of memory blocks publishers, and only aiormq reports that.
filter_logs("aiormq.connection", "aiormq.channel", allowed_text="blocked")
