"""The broker for NATS, with nats-py: `App(broker="nats://user:password@host")`. Needs `pip install 'pywsapp[nats]'`.

It uses core NATS: a message goes to the connections that subscribe at that time, and nothing is stored.

Names: a topic becomes a subject by swapping `:` and `.` and adding a prefix, so the segments of the name are the tokens
of the subject. The pattern "room:*" becomes "pywsapp.room.>". The server sends a message once for each matching
subscription, so a topic that a pattern covers is not subscribed as well.

Confirmation: the server confirms no message. But it handles the input of a connection in order. When it answers a PING,
it has accepted everything published before, and all subscriptions made before are active.

Slow readers: nats-py would make a queue and a task for each subscription. It also accepts a future, and passes each
message to the future's `set_result` at once. Here all subscriptions share one such future, which never ends, so nothing
piles up in this process. If it reads too slowly, the server notices (`max_pending`, 64 MiB, and `write_deadline`, 10 s)
and closes the connection. The `Relay` then reconnects, as after any loss. The reconnecting of nats-py is not used.
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

from pywsapp._clients.log_filter import filter_logs, logs_filtered
from pywsapp.brokers.asyncio_bridge import connect_on_asyncio
from pywsapp.brokers.base import MIB, Broker, BrokerConnection, Outgoing, Receive
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern, without_included

_SWAP_SEPARATORS = str.maketrans(":.", ".:")
_CONNECT_SECONDS = 2
_CLOSE_SECONDS = 1.0
#: The upper bound of `NatsBroker.max_size`, whatever the server allows.
_MAX_SIZE = 16 * MIB


def broker_from_url(url: str) -> NatsBroker:
    """Return the broker for a URL; see `NatsBroker`.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    return NatsBroker(url)


class NatsBroker(Broker):
    """Carries messages through a NATS server or a cluster of them.

    Args:
        url: nats:// or tls://user:password@host:port; a user without a password is a token. Several URLs with commas
            between them are the servers of one cluster, which are tried in random order. The first one with a user
            gives the credentials for all.
        prefix: the beginning of all subjects, without the dot after it. Processes with the same prefix hear each other.
        ping_seconds: seconds between pings. A connection is lost when the third ping is due and two are unanswered.
        ssl_context: for tls://, and for servers that require TLS; with None the system's certificate authorities.

    Attributes:
        max_size: the `max_payload` of the server in bytes, at most 16 MiB; before the first connection 1 MiB, which is
            the default of a server.

    Raises:
        ConfigurationError: the URL or the prefix is invalid.
    """

    max_size = MIB

    def __init__(
        self, url: str, *, prefix: str = "pywsapp", ping_seconds: int = 2, ssl_context: SSLContext | None = None
    ) -> None:
        servers = [_split(server) for server in url.split(",")]
        self._urls = [f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" for parts in servers]
        self.name = ",".join(self._urls)
        if not prefix or not prefix.isprintable() or not {"*", ">", " "}.isdisjoint(prefix) or "" in prefix.split("."):
            raise ConfigurationError(
                f"{prefix!r} is not a valid prefix of NATS subjects: use letters and digits, with single dots between"
            )
        self._prefix = f"{prefix}."
        self._credentials = _credentials(servers)
        self._requires_tls = any(parts.scheme == "tls" for parts in servers)
        self._options: dict[str, Any] = {"ping_interval": ping_seconds, "tls": ssl_context}

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        return await connect_on_asyncio(self._connect, receive, patterns)

    async def _connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        connection = NatsConnection(self._prefix, receive, patterns, requires_tls=self._requires_tls)
        try:
            self.max_size = min(await connection.open(self._urls, self._credentials, self._options), _MAX_SIZE)
        except BaseException:
            await connection.aclose()
            raise
        return connection


class NatsConnection(BrokerConnection):
    """A connection to a NATS server. `NatsBroker.connect` creates it."""

    def __init__(self, prefix: str, receive: Receive, patterns: Sequence[str], *, requires_tls: bool) -> None:
        self._client = Client()
        self._prefix = prefix
        self._requires_tls = requires_tls
        self._receive = receive
        self._patterns = without_included(map(TopicPattern, patterns))
        self._subscriptions: dict[str, Subscription] = {}
        self._message_future = _MessageFuture(self._on_message)
        self._is_open = False
        self._last_error: Exception = NoServersError()
        self._lost = asyncio.Event()
        self._reason = "the connection was closed"

    async def open(self, urls: list[str], credentials: dict[str, str], options: dict[str, Any]) -> int:
        """Connect, subscribe to the patterns, and return the largest size of a message in bytes.

        Raises:
            BrokerUnavailable: the server does not offer TLS though the URL requires it.
            Exception: no server can be reached, or it refuses the login.
        """
        checked: dict[str, Any] = {name: self._only_over_tls(secret) for name, secret in credentials.items()}
        try:
            with logs_filtered():
                await self._client.connect(
                    urls,
                    name="pywsapp",
                    allow_reconnect=False,
                    connect_timeout=_CONNECT_SECONDS,
                    # These two apply to the first connect as well: each server is tried twice, without a pause.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    # Names are validated already, and this validation takes a>b for a wildcard.
                    skip_subject_validation=True,
                    **checked,
                    **options,
                )
        except NoServersError:
            raise self._last_error from None
        self._check_tls()
        self._is_open = True
        for pattern in self._patterns:
            await self._subscribe(pattern.text)
        await self._flush()
        return self._client.max_payload

    def _only_over_tls(self, secret: str) -> Callable[[], str]:
        """Return the function that nats-py calls for a secret right before it sends the secret."""

        def checked_secret() -> str:
            self._check_tls()
            return secret

        return checked_secret

    def _check_tls(self) -> None:
        # Even for tls:// nats-py continues without TLS if the server, or an attacker in between, does not ask for it.
        if self._requires_tls and not self._client._server_info.get("tls_required"):
            raise BrokerUnavailable("the server does not ask for TLS")

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self._check_not_lost()
        for topic, data, _ in messages:
            await self._client.publish(self._prefix + topic.translate(_SWAP_SEPARATORS), data)
        await self._flush()

    async def subscribe(self, topics: Sequence[str]) -> None:
        self._check_not_lost()
        for topic in topics:
            if not any(pattern.matches(topic) for pattern in self._patterns):
                self._subscriptions[topic] = await self._subscribe(topic)
        await self._flush()

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._check_not_lost()
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
        subject = text.translate(_SWAP_SEPARATORS)
        if text.endswith("*"):
            subject = f"{subject[:-1]}>"
        return await self._client.subscribe(self._prefix + subject, future=self._message_future)

    async def _flush(self) -> None:
        """Wait until the server has handled everything sent so far."""
        await asyncio.sleep(0)  # nats-py writes in this turn
        # Data is left if the socket accepts no more, and the PING of the last flush would overtake it.
        while self._client.pending_data_size:
            await self._client.flush()
        await self._client.flush()
        self._check_not_lost()

    def _check_not_lost(self) -> None:
        if self._lost.is_set():
            raise BrokerUnavailable(self._reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._reason = reason
            self._lost.set()

    # -- called by nats-py -------------------------------------------------------------------------------------------

    def _on_message(self, message: Msg) -> None:
        if not self._lost.is_set():
            topic = message.subject[len(self._prefix) :].translate(_SWAP_SEPARATORS)
            self._receive(topic, message.data, None)

    async def _on_error(self, exc: Exception) -> None:
        self._last_error = exc
        if self._is_open:  # nats-py would continue, without a subscription that is not permitted, for example
            self._lose(_describe(exc))

    async def _on_closed(self) -> None:
        error = self._client.last_error
        self._lose("the connection was closed" if error is None else _describe(error))


class _MessageFuture(asyncio.Future[Any]):
    """A future that never ends, and passes every message of all subscriptions on at once."""

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        super().__init__()
        self._on_message = on_message

    def set_result(self, result: Msg) -> None:
        self._on_message(result)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    # The message does not show the URL, because it can contain a password.
    raise ConfigurationError("invalid URL of a NATS server: use nats:// or tls://user:password@host:port")


def _credentials(servers: list[SplitResult]) -> dict[str, str]:
    """Return the credentials of the first URL that has some. nats-py would not decode their %-escapes."""
    for parts in servers:
        if parts.username and parts.password:
            return {"user": unquote(parts.username), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}


def _describe(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"


# nats-py logs the end of a reader whose connection was closed, for example.
filter_logs("nats.aio.client")
