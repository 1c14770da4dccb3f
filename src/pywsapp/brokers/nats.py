"""The broker for NATS, with nats-py: `App(broker="nats://user:password@host")`. Needs `pip install 'pywsapp[nats]'`.

It uses core NATS: a message goes to the connections that subscribe at that time, and nothing is stored.

Names: a topic becomes a subject by swapping `:` and `.` and adding a prefix, so the segments of the name are the tokens
of the subject. The pattern "room:*" becomes "pywsapp.room.>". The server sends a message once for each matching
subscription, so a topic that a pattern covers is not subscribed as well.

Confirmation: the server confirms no message. But it handles the input of a connection in order. When it answers a PING,
it has accepted everything published before, and all subscriptions made before are active. It refuses an action without
a right before the PONG, by an error that names the subject, in lower case as nats-py passes it on. Such an error
belongs to the call that waits for the PONG. If no call has named the subject, the server has withdrawn the right to a
subscription, and the connection counts as lost, so that the next one asks for the subscription again.

Messages: nats-py ends its connection, or stops to read from it, at a message whose subject, reply or headers it cannot
decode, and every program that can publish can send such a message. So a parser of this module takes messages out of
what the server sends, and passes the rest on to the parser of nats-py. It skips headers and replies: no topic has any.

Slow readers: nats-py would make a queue for each subscription. It also accepts a future; here all subscriptions share
one, which never ends. The parser passes each message on at once, so nothing piles up in this process. If it reads too
slowly, the server notices (`max_pending`, 64 MiB, and `write_deadline`, 10 s) and closes the connection. The `Relay`
then reconnects, as after any loss. The reconnecting of nats-py is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pywsapp._clients.log_filter import filter_logs, logs_filtered
from pywsapp._extras import missing_extra
from pywsapp.brokers.asyncio_bridge import connect_on_asyncio
from pywsapp.brokers.base import MIB, Broker, BrokerConnection, Outgoing, PartlyRefused, Receive
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern, without_included

try:
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription
    from nats.errors import NoServersError, ProtocolError
    from nats.protocol.parser import Parser
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "nats") from exc

_SWAP_SEPARATORS = str.maketrans(":.", ".:")
_CONNECT_SECONDS = 2
#: The names, in errors of the server, of actions that a user can have no right to.
_PUBLISH, _SUBSCRIBE = "publish", "subscription"
_CLOSE_SECONDS = 1.0
_LINE_END = b"\r\n"
_MESSAGE_STARTS = b"MSG ", b"HMSG "
#: The event loop has no strong reference to tasks.
_CLOSING: set[asyncio.Future[None]] = set()
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
        self._client._ps = _MessageParser(self._client, self._on_message)
        self._prefix = prefix
        self._requires_tls = requires_tls
        self._receive = receive
        self._patterns = without_included(map(TopicPattern, patterns))
        self._subscriptions: dict[str, Subscription] = {}
        self._message_future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._publishing: dict[str, list[int]] = {}  # the places of the messages, by their subjects in lower case
        self._subscribing: dict[str, list[int]] = {}
        self._refused: dict[str, dict[int, str]] = {_PUBLISH: {}, _SUBSCRIBE: {}}
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
        self._publishing.clear()
        for place, (topic, data, _) in enumerate(messages):
            subject = self._prefix + topic.translate(_SWAP_SEPARATORS)
            self._publishing.setdefault(subject.lower(), []).append(place)
            await self._client.publish(subject, data)
        await self._flush()
        self._raise_refused(_PUBLISH)

    async def subscribe(self, topics: Sequence[str]) -> None:
        self._check_not_lost()
        self._subscribing.clear()
        for place, topic in enumerate(topics):
            if not any(pattern.matches(topic) for pattern in self._patterns):
                self._subscribing.setdefault(self._subject(topic).lower(), []).append(place)
                self._subscriptions[topic] = await self._subscribe(topic)
        await self._flush()
        self._subscribing.clear()
        for place in self._refused[_SUBSCRIBE]:
            await self._subscriptions.pop(topics[place]).unsubscribe()
        self._raise_refused(_SUBSCRIBE)

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
        closing = asyncio.ensure_future(self._close())  # it ends the tasks and the socket if this call is cancelled
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)
        await asyncio.wait({closing})

    async def _close(self) -> None:
        client = self._client
        with suppress(Exception):
            await asyncio.wait_for(client.close(), _CLOSE_SECONDS)
        # nats-py does not end these when the server does not read, or when an attempt to connect is given up.
        for task in (client._reading_task, client._ping_interval_task, client._flusher_task):
            if task is not None:
                task.cancel()
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _raise_refused(self, action: str) -> None:
        """Raise what the server has refused of a call.

        Raises:
            PartlyRefused: there is something.
        """
        refused, self._refused[action] = self._refused[action], {}
        if refused:
            raise PartlyRefused(refused)

    def _subject(self, text: str) -> str:
        subject = text.translate(_SWAP_SEPARATORS)
        return f"{self._prefix}{subject[:-1]}>" if text.endswith("*") else self._prefix + subject

    async def _subscribe(self, text: str) -> Subscription:
        return await self._client.subscribe(self._subject(text), future=self._message_future)

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

    def _on_message(self, subject: bytes, data: bytes) -> None:
        if not self._lost.is_set():
            topic = subject.decode("utf-8", "replace")[len(self._prefix) :].translate(_SWAP_SEPARATORS)
            self._receive(topic, data, None)

    async def _on_error(self, exc: Exception) -> None:
        self._last_error = exc
        if self._is_open and not self._is_refusal(exc):  # nats-py would continue
            self._lose(_describe(exc))

    def _is_refusal(self, exc: Exception) -> bool:
        """Return whether an error refuses messages or topics of the calls that run; then these calls raise it."""
        for action, subjects in ((_PUBLISH, self._publishing), (_SUBSCRIBE, self._subscribing)):
            _, found, subject = str(exc).partition(f'permissions violation for {action} to "')
            if found:
                places = subjects.get(subject.rpartition('"')[0], ())
                self._refused[action].update(dict.fromkeys(places, _describe(exc)))
                return bool(places)
        return False

    async def _on_closed(self) -> None:
        error = self._client.last_error
        self._lose("the connection was closed" if error is None else _describe(error))


class _MessageParser(Parser):
    """The parser of a client of nats-py, which does not decode messages.

    Args:
        client: its client.
        on_message: called with the subject and the data of each message of a subscription.
    """

    def __init__(self, client: Client, on_message: Callable[[bytes, bytes], None]) -> None:
        super().__init__(client)
        self._client = client
        self._on_message = on_message
        self._received = bytearray()

    def reset(self) -> None:
        """Discard what was received; nats-py calls this for a new connection."""
        super().reset()
        self._received = bytearray()

    async def parse(self, data: bytes = b"") -> None:
        """Handle bytes from the server.

        Raises:
            ProtocolError: this is not what a server sends.
        """
        received = self._received
        received += data
        while (end := received.find(_LINE_END)) >= 0:
            if not received.startswith(_MESSAGE_STARTS):
                line = bytes(received[: end + len(_LINE_END)])
                del received[: len(line)]
                await super().parse(line)
                if self.buf:
                    raise ProtocolError("an unknown line of the server")
                continue
            subject, sid, header_size, size = _parse_message_line(bytes(received[:end]))
            start = end + len(_LINE_END)
            if len(received) < start + size + len(_LINE_END):
                return
            content = bytes(received[start + header_size : start + size])
            del received[: start + size + len(_LINE_END)]
            if sid in self._client._subs:
                self._on_message(subject, content)


def _parse_message_line(line: bytes) -> tuple[bytes, int, int, int]:
    """Parse `MSG subject sid [reply] size` or `HMSG subject sid [reply] header-size size`.

    Returns:
        the subject, the number of the subscription, the bytes of the headers, and the bytes of headers and data.

    Raises:
        ProtocolError: it is neither.
    """
    has_headers = line.startswith(b"HMSG")
    try:
        _, subject, sid, *reply, size = line.split(b" ")
        header_size = int(reply.pop()) if has_headers else 0
        if len(reply) <= 1 and 0 <= header_size <= int(size):
            return subject, int(sid), header_size, int(size)
    except (ValueError, IndexError):
        pass
    raise ProtocolError("a malformed message line of the server")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        has_more = parts.path not in ("", "/") or parts.query or parts.fragment  # nats-py would ignore it
        if parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0 and not has_more:
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
