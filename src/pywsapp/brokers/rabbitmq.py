"""RabbitMQ, or what else speaks AMQP 0-9-1 as it does, by aio-pika: `App(broker="amqp://user:password@host/vhost")`.

All processes share one durable topic exchange. Each has a queue of its own there, which nobody else sees and which ends
with its connection, and binds it to the topics that it wants. A name becomes a routing key by swapping `:` and `.`: so
the segments of a name become the words of the key, and a pattern "room:*" becomes "room.#". That matches "room" itself
as well, and an unbound topic may still be on its way, so what comes is looked at again here.

A publisher gets a confirm for every message, which says that it lies in the queues of all who want it. The messages of
a batch are on their way at once, and their confirms are awaited together.

A process that reads too slowly would fill the broker's memory, for publishers do not wait for it. So its queue has a
bound, and the broker drops the oldest of what is more. It does not do so unseen: what it drops goes to a second queue
of the same process, which holds one message and is read as well. Whatever comes there ends the connection. Then the
`Relay` says so and begins anew, as it does whenever something was missed. If it stops reading altogether it misses
heartbeats too, and RabbitMQ closes its connection.

aio-pika's own reconnecting is not used: the `Relay` does that, for all brokers alike. Of its objects only connection
and channel are; what happens for each message goes to aiormq, the client below it, without a layer in between.

Needs `pip install 'pywsapp[rabbitmq]'`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq import Channel, spec
from aiormq.abc import DeliveredMessage

from pywsapp._clients.asyncio_bridge import connect_on_asyncio
from pywsapp._clients.log_filter import hush, quietly
from pywsapp.brokers.base import MIB, Broker, BrokerConnection, Outgoing, Receive
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern

_SWAP = str.maketrans(":.", ".:")
_CLOSE_SECONDS = 1.0
_BINDERS = 4


def broker_from_url(url: str) -> RabbitBroker:
    """Make a broker from amqp://user:password@host:port/vhost, or amqps:// for TLS.

    Raises:
        ConfigurationError: it is no such URL.
    """
    return RabbitBroker(url)


class RabbitBroker(Broker):
    """Carries messages through a RabbitMQ.

    Args:
        url: amqp:// or amqps://, with what aiormq takes behind a `?`: heartbeat, cafile, certfile, keyfile.
        exchange: the exchange's name, which all processes share that are to hear each other.
        heartbeat: seconds; a broker that is silent for `3 * (heartbeat + 1)` is lost, and RabbitMQ gives up a process
            that is silent for about twice as many. One in the URL comes first.
        max_queued: messages that wait for a process that reads too slowly; with more its connection ends.
        max_queued_bytes: bytes of messages likewise.
        ssl_context: for amqps://, instead of what the URL says.

    Raises:
        ConfigurationError: it is no such URL.
    """

    # From RabbitMQ 4 on that is the most that it takes; before it was 128 MiB.
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
            known = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known:  # the URL may have a password in it, so it is not shown
            raise ConfigurationError("a RabbitMQ's URL is amqp:// or amqps://user:password@host:port/vhost")
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._url = url
        self._exchange = exchange
        self._options: dict[str, Any] = {} if "heartbeat" in parse_qs(parts.query) else {"heartbeat": heartbeat}
        self._limits: dict[str, int | str] = {
            "x-max-length": max_queued,
            "x-max-length-bytes": max_queued_bytes,
            "x-overflow": "drop-head",
        }
        self._ssl_context = ssl_context

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        """Connect."""
        return await connect_on_asyncio(self._connect, receive, patterns)

    async def _connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        with quietly():
            opened = await aio_pika.connect(
                self._url,
                ssl_context=self._ssl_context,
                client_properties={"connection_name": "pywsapp"},
                **self._options,
            )
        connection = RabbitConnection(opened, self._exchange, receive, patterns)
        try:
            await connection.open(self._limits)
        except BaseException:
            await connection.aclose()
            raise
        return connection


class RabbitConnection(BrokerConnection):
    """A connection to RabbitMQ, with a channel to publish on, one that receives, and some that bind."""

    def __init__(
        self, connection: AbstractConnection, exchange: str, receive: Receive, patterns: Sequence[str]
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._receive = receive
        self._patterns = [TopicPattern(text) for text in patterns]
        self._topics: set[str] = set()
        self._lost = asyncio.Event()
        self._reason = "the connection was closed"
        self._publisher: Channel
        self._consumer: Channel
        self._binders: list[Channel]
        self._queue: str

    async def open(self, limits: dict[str, int | str]) -> None:
        """Make the channels, the exchanges and the queues, and receive from these."""
        self._connection.close_callbacks.add(self._on_close)
        self._publisher = await self._channel(confirms=True)
        self._binders = [await self._channel(confirms=False) for _ in range(_BINDERS)]
        self._consumer = channel = self._binders[0]
        dropped = f"{self._exchange}.dropped"
        await channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
        await channel.exchange_declare(dropped, exchange_type="direct", durable=True)

        told = await self._declare({"x-max-length": 1})
        await channel.queue_bind(told, dropped, told)
        await channel.basic_consume(told, self._on_dropped, no_ack=True)

        self._queue = await self._declare(
            {**limits, "x-dead-letter-exchange": dropped, "x-dead-letter-routing-key": told}
        )
        for pattern in self._patterns:
            await channel.queue_bind(self._queue, self._exchange, _binding_of(pattern))
        await channel.basic_consume(self._queue, self._on_message, no_ack=True)

    async def _channel(self, *, confirms: bool) -> Channel:
        channel = await self._connection.channel(publisher_confirms=confirms)
        channel.close_callbacks.add(self._on_close)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, Channel)
        return underlay

    async def _declare(self, arguments: dict[str, int | str]) -> str:
        answer = await self._consumer.queue_declare(exclusive=True, auto_delete=True, arguments=dict(arguments))
        assert answer is not None
        assert answer.queue is not None
        return answer.queue

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self._check()
        assert self._connection.transport is not None
        await self._connection.transport.ready()  # not while it is short of memory or disk, and says so
        await asyncio.gather(
            *(
                self._publisher.basic_publish(
                    data, exchange=self._exchange, routing_key=topic.translate(_SWAP), wait=False
                )
                for topic, data, _ in messages
            )
        )

    async def subscribe(self, topics: Sequence[str]) -> None:
        self._check()
        self._topics.update(topics)
        await self._each(topics, Channel.queue_bind)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._check()
        self._topics.difference_update(topics)
        await self._each(topics, Channel.queue_unbind)

    async def _each(self, topics: Sequence[str], change: Callable[..., Awaitable[object]]) -> None:
        """Bind or unbind topics; RabbitMQ answers for each, and a channel waits for that before the next one."""

        async def work(channel: Channel, share: Sequence[str]) -> None:
            for topic in share:
                await change(channel, self._queue, self._exchange, topic.translate(_SWAP))

        number = len(self._binders)
        with quietly():  # aiormq warns of what is cancelled because the app has ended
            await asyncio.gather(*(work(channel, topics[i::number]) for i, channel in enumerate(self._binders)))

    async def wait_lost(self) -> None:
        await self._lost.wait()
        raise BrokerUnavailable(self._reason)

    async def aclose(self) -> None:
        self._lose("the connection was closed")
        closing = asyncio.ensure_future(self._connection.close())
        await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
        closing.cancel()

    def _check(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable(self._reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._reason = reason
            self._lost.set()

    # -- what aiormq calls -------------------------------------------------------------------------------------------

    async def _on_message(self, message: DeliveredMessage) -> None:
        assert isinstance(message.delivery, spec.Basic.Deliver)
        topic = (message.delivery.routing_key or "").translate(_SWAP)
        wanted = topic in self._topics or any(pattern.matches(topic) for pattern in self._patterns)
        if wanted and not self._lost.is_set():
            self._receive(topic, message.body, None)

    async def _on_dropped(self, _: DeliveredMessage) -> None:
        self._lose("this process reads too slowly, and RabbitMQ dropped messages for it")

    def _on_close(self, _: object, exc: BaseException | None) -> None:
        if isinstance(exc, asyncio.CancelledError):  # that is how aiormq ends one whose heartbeats are missing
            self._lose("it does not answer")
        elif exc is not None:
            self._lose(f"{type(exc).__name__}: {exc}")
        else:
            self._lose("the connection was closed")


def _binding_of(pattern: TopicPattern) -> str:
    if pattern.prefix is None:
        return pattern.text.translate(_SWAP)
    return pattern.prefix.translate(_SWAP) + "#"


hush("aiormq.connection", "aiormq.channel", but="blocked")  # by a server that is short of memory
