"""NATS, by nats-py: `App(broker="nats://user:password@host")`.

Core NATS: messages go to who listens now, and nothing is kept. A name becomes a subject by swapping `:` and `.` and
putting a prefix before it: so the segments of a name become the tokens of the subject, and a pattern "room:*" becomes
"pywsapp.room.>". The server sends a message once for every subscription that matches, so a topic that a pattern covers
is not subscribed as well.

Nothing confirms a message. But the server handles what comes over a connection in order, so when it answers a PING, it
has taken what was published before, and knows what was subscribed.

nats-py would make a queue and a task for every subscription. It also takes a future, to which it hands the message at
once; here there is one such future for all, and it never ends. So nothing piles up in this process: if it reads too
slowly, the server notices (`max_pending`, 64 MiB, and `write_deadline`, 10 s), and ends the connection. Then the
`Relay` says so and begins anew, as it does whenever something was missed. nats-py's own reconnecting is not used.

Needs `pip install 'pywsapp[nats]'`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import NoServersError

from pywsapp._clients.asyncio_bridge import connect_on_asyncio
from pywsapp._clients.log_filter import hush, quietly
from pywsapp.brokers.base import MIB, Broker, BrokerConnection, Outgoing, Receive
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern

_SWAP = str.maketrans(":.", ".:")
_CONNECT_SECONDS = 2
_CLOSE_SECONDS = 1.0
_LARGEST = 16 * MIB


def broker_from_url(url: str) -> NatsBroker:
    """Make a broker from nats://user:password@host:port, or tls://; several, with commas between, are one cluster.

    Raises:
        ConfigurationError: it is no such URL.
    """
    return NatsBroker(url)


class NatsBroker(Broker):
    """Carries messages through a NATS server, or a cluster of them.

    Args:
        url: nats:// or tls://; with a name and no password the name is a token. Several, one of which says who this is,
            are tried in random order.
        prefix: the first token of all subjects, which all processes share that are to hear each other.
        ping_seconds: between pings; a server that leaves two unanswered is lost with the third.
        ssl_context: for tls://, and for servers that ask for TLS; the system's authorities if None.

    Attributes:
        max_size: the server says it when connected (`max_payload`); before, what it is unless configured, 1 MiB.

    Raises:
        ConfigurationError: it is no such URL, or no such prefix.
    """

    max_size = MIB

    def __init__(
        self, url: str, *, prefix: str = "pywsapp", ping_seconds: int = 2, ssl_context: SSLContext | None = None
    ) -> None:
        servers = [_split(server) for server in url.split(",")]
        self._urls = [f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" for parts in servers]
        self.name = ",".join(self._urls)
        if not prefix or not prefix.isprintable() or not {"*", ">", " "}.isdisjoint(prefix) or "" in prefix.split("."):
            raise ConfigurationError(f"{prefix!r} cannot be the first token of a subject")
        self._prefix = f"{prefix}."
        self._credentials = _credentials(servers)
        self._secure = any(parts.scheme == "tls" for parts in servers)
        self._options: dict[str, Any] = {"ping_interval": ping_seconds, "tls": ssl_context}

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        """Connect."""
        return await connect_on_asyncio(self._connect, receive, patterns)

    async def _connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        connection = NatsConnection(self._prefix, receive, patterns, secure=self._secure)
        try:
            self.max_size = min(await connection.open(self._urls, self._credentials, self._options), _LARGEST)
        except BaseException:
            await connection.aclose()
            raise
        return connection


class NatsConnection(BrokerConnection):
    """A connection to a NATS server."""

    def __init__(self, prefix: str, receive: Receive, patterns: Sequence[str], *, secure: bool) -> None:
        self._client = Client()
        self._prefix = prefix
        self._secure = secure
        self._receive = receive
        self._patterns = [TopicPattern(text) for text in dict.fromkeys(patterns)]
        self._subscriptions: dict[str, Subscription] = {}
        self._sink = _Sink(self._on_message)
        self._opened = False
        self._error: Exception = NoServersError()
        self._lost = asyncio.Event()
        self._reason = "the connection was closed"

    async def open(self, urls: list[str], credentials: dict[str, str], options: dict[str, Any]) -> int:
        """Connect and subscribe to the patterns; give how many bytes a message may have."""
        told: dict[str, Any] = {name: self._told_if_secure(secret) for name, secret in credentials.items()}
        try:
            with quietly():
                await self._client.connect(
                    urls,
                    name="pywsapp",
                    allow_reconnect=False,
                    connect_timeout=_CONNECT_SECONDS,
                    # while connecting this counts all the same: each server is tried twice, and at once
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    # names are checked already, and this check takes a>b for a wildcard
                    skip_subject_validation=True,
                    **told,
                    **options,
                )
        except NoServersError:
            raise self._error from None
        self._check_secure()
        self._opened = True
        for pattern in self._patterns:
            if not any(other.matches(pattern.text) for other in self._patterns if other is not pattern):
                await self._subscribe(pattern.text)
        await self._flush()
        return self._client.max_payload

    def _told_if_secure(self, secret: str) -> Callable[[], str]:
        """Give what nats-py calls when it is about to send a password."""

        def tell() -> str:
            self._check_secure()
            return secret

        return tell

    def _check_secure(self) -> None:
        # even for tls:// it goes on without TLS when the server, or whoever is in between, does not ask for it
        if self._secure and not self._client._server_info.get("tls_required"):
            raise BrokerUnavailable("the server does not ask for TLS")

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self._check()
        for topic, data, _ in messages:
            await self._client.publish(self._prefix + topic.translate(_SWAP), data)
        await self._flush()

    async def subscribe(self, topics: Sequence[str]) -> None:
        self._check()
        for topic in topics:
            if not any(pattern.matches(topic) for pattern in self._patterns):
                self._subscriptions[topic] = await self._subscribe(topic)
        await self._flush()

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._check()
        for topic in topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is not None:
                await subscription.unsubscribe()
        await self._flush()

    async def wait_lost(self) -> None:
        await self._lost.wait()
        raise BrokerUnavailable(self._reason)

    async def aclose(self) -> None:
        self._lose("the connection was closed")
        with suppress(Exception):
            await asyncio.wait_for(self._client.close(), _CLOSE_SECONDS)

    async def _subscribe(self, text: str) -> Subscription:
        subject = self._prefix + (text[:-1].translate(_SWAP) + ">" if text.endswith("*") else text.translate(_SWAP))
        return await self._client.subscribe(subject, future=self._sink)

    async def _flush(self) -> None:
        """Wait until the server has handled what was sent."""
        await asyncio.sleep(0)  # nats-py writes now
        while self._client.pending_data_size:  # it does not, for the socket takes no more; and a PING would overtake
            await self._client.flush()
        await self._client.flush()
        self._check()

    def _check(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable(self._reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._reason = reason
            self._lost.set()

    # -- what nats-py calls ------------------------------------------------------------------------------------------

    def _on_message(self, message: Msg) -> None:
        if not self._lost.is_set():
            self._receive(message.subject[len(self._prefix) :].translate(_SWAP), message.data, None)

    async def _on_error(self, exc: Exception) -> None:
        self._error = exc
        if self._opened:  # it would go on without what is not allowed, for instance, and nobody would know
            self._lose(_text(exc))

    async def _on_closed(self) -> None:
        self._lose("the connection was closed" if self._client.last_error is None else _text(self._client.last_error))


class _Sink(asyncio.Future[Any]):
    """Takes every message of all subscriptions, at once."""

    def __init__(self, take: Any) -> None:
        super().__init__()
        self._take = take

    def set_result(self, result: Msg) -> None:
        self._take(result)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    # the URL may have a password in it, so it is not shown
    raise ConfigurationError("a NATS server's URL is nats:// or tls://user:password@host:port")


def _credentials(servers: list[SplitResult]) -> dict[str, str]:
    """Give those of the first URL that has some; nats-py would take them as they are, with % and all."""
    for parts in servers:
        if parts.username and parts.password:
            return {"user": unquote(parts.username), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}


def _text(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"


hush("nats.aio.client")  # of a reader that ends because its connection was closed, for instance
