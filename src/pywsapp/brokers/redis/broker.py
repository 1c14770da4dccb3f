"""Redis, or Valkey, as the way between processes: `App(..., broker="redis://localhost")`.

A topic is a channel, its name behind a prefix, and a message is an envelope published there; see docs/brokers.md for
the URLs and the options. What a topic keeps is in `redis_history`. Needs `pip install 'pywsapp[redis]'`.

There are two connections, for commands and for subscriptions, to each server that there is: one, or the masters of a
cluster. `redis_link` says how they work, and when they are lost.

On a cluster, sharded pub/sub is used: a channel belongs to a slot and so to one master, which alone carries it. When
slots move or a master fails, the server says so by a reply (MOVED, or a subscription that ends unasked) or its link is
lost; then the whole connection counts as lost, and the next one asks for the slots anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from pywsapp._clients.asyncio_bridge import connect_on_asyncio
from pywsapp._clients.redis_connection import RedisConnection
from pywsapp.brokers.base import Broker, BrokerConnection, Kept, Outgoing, Position, Receive
from pywsapp.brokers.redis.history import (
    Command,
    append_command,
    plain_payload,
    read_answer,
    read_command,
    read_payload,
)
from pywsapp.exceptions import BrokerUnavailable, ConfigurationError
from pywsapp.topics.names import TopicPattern

_SLOTS = 16384
_GLOB = re.compile(rb"[*?\[\\]")
#: Set for every connection, whatever the URL says: no timeouts and repetitions but our own, and no decoding.
_FIXED = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0, "decode_responses": False}


def broker_from_url(url: str) -> RedisBroker:
    """Make the broker for a URL; `prefix`, `cluster` and `durable` in its query are taken out, the rest is redis-py's.

    Raises:
        ConfigurationError: there is something in it that is not understood.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    prefix = query.pop("prefix", "pywsapp:")
    cluster, durable = (_switch(name, query.pop(name, "0")) for name in ("cluster", "durable"))
    rest = urlunsplit(parts._replace(query=urlencode(query)))
    return RedisBroker(rest, prefix=prefix, cluster=cluster, durable=durable)


def _switch(name: str, value: str) -> bool:
    if value not in ("0", "1"):
        raise ConfigurationError(f"{name}={value} in the URL of a Redis: it is 0 or 1")
    return value == "1"


class RedisBroker(Broker):
    """Carries messages by Redis' pub/sub, and keeps histories in its streams.

    Args:
        url: redis://, rediss:// (TLS) or unix://, as redis-py's `from_url` takes it.
        prefix: what the names of all channels and keys begin with; no braces.
        cluster: whether it is a Redis Cluster, for sharded pub/sub and histories; the URL names any of its nodes.
        durable: whether the server loses no message that it has taken when it is restarted, so that histories go on;
            `appendfsync always` does that. The same in all processes.
        health_seconds: after how many seconds of silence a connection is lost.

    Raises:
        ConfigurationError: there is something in them that is not understood.
    """

    keeps_history = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "pywsapp:",
        cluster: bool = False,
        durable: bool = False,
        health_seconds: float = 3.0,
    ) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # nor the query: passwords may be
        self.names = Names(prefix, sharded=cluster)
        self.durable = durable
        self.health_seconds = health_seconds
        try:
            self._options: dict[str, Any] = {**parse_url(url), **_FIXED, "retry": Retry(NoBackoff(), 0)}
            self._kind: Callable[..., Connection] = self._options.pop("connection_class", Connection)
            self.make_connection()
        except (TypeError, ValueError, RedisError) as exc:
            raise ConfigurationError(f"{self.name} is no URL of a Redis: {exc}") from None

    def make_connection(self, **changed: Any) -> Connection:
        """Make one of redis-py's connections, which is not connected yet."""
        return self._kind(**{**self._options, **changed})

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        return await connect_on_asyncio(self._connect, receive, patterns)

    async def _connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        connection = RedisBrokerConnection(self, receive)
        try:
            await connection.open(patterns)
        except BaseException:
            await connection.aclose()
            raise
        return connection


class RedisBrokerConnection(BrokerConnection):
    """The links to all servers; lost when one of them is."""

    def __init__(self, broker: RedisBroker, receive: Receive) -> None:
        self._broker = broker
        self._names = broker.names
        self._receive = receive
        self._patterns: list[TopicPattern] = []
        self._nodes: list[_Node] = []
        self._slots: list[_Node | None] = []
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, patterns: Sequence[str]) -> None:
        """Connect; to be closed also if this raises."""
        self._patterns = _distinct(patterns)
        globs = [pattern.prefix for pattern in self._patterns if pattern.prefix is not None]
        if self._names.sharded and globs:
            raise ConfigurationError(
                f"there are no patterns such as '{globs[0]}*' on a Redis Cluster's sharded pub/sub"
            )
        await (self._open_cluster() if self._names.sharded else self._add_node())
        if globs:
            await self._nodes[0].subscriptions.ask([("PSUBSCRIBE", *map(self._names.glob, globs))], len(globs))
        await self._change("SUBSCRIBE", [pattern.text for pattern in self._patterns if pattern.prefix is None])

    async def _add_node(self, **changed: Any) -> _Node:
        seconds = self._broker.health_seconds
        links = [
            RedisConnection(self._broker.make_connection(**changed), seconds, self._note_lost, take)
            for take in (None, self._take)
        ]
        node = _Node(links[0], links[1])
        self._nodes.append(node)
        for link in links:
            await link.open()
        server, replication = await node.commands.ask([("INFO", "server"), ("INFO", "replication")])
        if b"role:slave" in replication:
            raise BrokerUnavailable("it is a replica, and what is published there reaches nobody else")
        found = re.search(rb"run_id:(\w+)", server)
        node.run = found[1] if found and not self._broker.durable else b""
        return node

    async def _open_cluster(self) -> None:
        seed = await self._add_node()
        (slots,) = await seed.commands.ask([("CLUSTER", "SLOTS")])
        masters: dict[tuple[bytes, int], _Node] = {}
        self._slots = [None] * _SLOTS
        for first, last, (host, port, *_), *_ in slots:
            if (host, port) not in masters:
                address = {"host": host.decode()} if host else {}  # without one it is the one that was asked
                masters[host, port] = await self._add_node(**address, port=port)
            self._slots[first : last + 1] = [masters[host, port]] * (last + 1 - first)
        self._nodes.remove(seed)
        await seed.aclose()

    def _node(self, topic: str) -> _Node:
        if not self._names.sharded:
            return self._nodes[0]
        node = self._slots[key_slot(self._names.channel(topic))]
        if node is None:
            raise BrokerUnavailable("a part of the cluster has no master")
        return node

    # -- what is asked -----------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        publish = "SPUBLISH" if self._names.sharded else "PUBLISH"
        batches: dict[_Node, list[Command]] = {}
        loaded: set[_Node] = set()
        for topic, data, keep in messages:
            channel = self._names.channel(topic)
            node = self._node(topic)
            commands = batches.setdefault(node, [])
            if keep is None:
                commands.append((publish, channel, plain_payload(data)))
            else:
                # The whole script once in a batch, so that it does not matter what the server has forgotten.
                base, way = self._names.base(topic), (publish, channel)
                commands.append(append_command(base, node.run, keep, data, way, loaded=node in loaded))
                loaded.add(node)
        await _all(node.commands.ask(commands) for node, commands in batches.items())

    async def subscribe(self, topics: Sequence[str]) -> None:
        await self._change("SUBSCRIBE", [topic for topic in topics if not self._covered(topic)])

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._change("UNSUBSCRIBE", [topic for topic in topics if not self._covered(topic)])

    def _covered(self, topic: str) -> bool:
        """Tell whether it comes by a pattern; Redis would send it twice."""
        return any(pattern.matches(topic) for pattern in self._patterns)

    async def _change(self, command: str, topics: Sequence[str]) -> None:
        channels: dict[_Node, list[bytes]] = {}
        for topic in topics:
            channels.setdefault(self._node(topic), []).append(self._names.channel(topic))
        commands: dict[_Node, list[Command]]
        if self._names.sharded:  # the channels of one command would have to be in one slot
            commands = {node: [("S" + command, name) for name in names] for node, names in channels.items()}
        else:
            commands = {node: [(command, *names)] for node, names in channels.items()}
        await _all(node.subscriptions.ask(commands[node], len(names)) for node, names in channels.items())

    async def read_history(self, topic: str, since: Position | None) -> Kept:
        node = self._node(topic)
        (answer,) = await node.commands.ask([read_command(self._names.base(topic), node.run, since)])
        return read_answer(answer, since)

    async def wait_lost(self) -> None:
        await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        self._note_lost(None)
        with anyio.CancelScope(shield=True):  # nothing in there waits for a server
            for node in self._nodes:
                await node.aclose()

    # -- what comes --------------------------------------------------------------------------------------------------

    def _take(self, reply: Any) -> bool:
        """Take a reply if it is a published message."""
        if not isinstance(reply, list) or reply[0] not in (b"message", b"smessage", b"pmessage"):
            return False
        data, position = read_payload(reply[-1])
        if not self._lost.done():
            self._receive(self._names.topic(reply[-2]), data, position)
        return True

    def _note_lost(self, reason: Exception | None) -> None:
        if self._lost.done():
            return
        if reason is None:
            self._lost.set_result(None)
        else:
            self._lost.set_exception(reason)
            self._lost.exception()  # so that nobody has to wait for it


class _Node:
    """The two links to one server."""

    def __init__(self, commands: RedisConnection, subscriptions: RedisConnection) -> None:
        self.commands = commands
        self.subscriptions = subscriptions
        self.run = b""  # another one after each start of the server

    async def aclose(self) -> None:
        await self.commands.aclose()
        await self.subscriptions.aclose()


class Names:
    """What topics are called in Redis.

    Args:
        prefix: in front of everything.
        sharded: whether a channel is to be in the slot of its topic's keys.
    """

    def __init__(self, prefix: str, *, sharded: bool) -> None:
        if "{" in prefix or "}" in prefix:
            raise ConfigurationError(f"the prefix {prefix!r} has braces, which mean something in Redis")
        self.sharded = sharded
        self._prefix = prefix
        self._before = f"{prefix}{{".encode() if sharded else prefix.encode()
        self._after = len("}") if sharded else 0

    def base(self, topic: str) -> str:
        """Give what the names of the keys begin with; what is in its first braces says the slot."""
        return f"{self._prefix}{{{_escaped(topic)}}}"

    def channel(self, topic: str) -> bytes:
        return (self.base(topic) if self.sharded else f"{self._prefix}{topic}").encode()

    def topic(self, channel: bytes) -> str:
        name = channel[len(self._before) : len(channel) - self._after].decode("utf-8", "replace")
        return name[1:] if self.sharded and name[:1] == "\\" else name

    def glob(self, beginning: str) -> bytes:
        """Give Redis' pattern for all topics that begin like this."""
        return _GLOB.sub(rb"\\\g<0>", f"{self._prefix}{beginning}".encode()) + b"*"


def _escaped(topic: str) -> str:
    """Let no topic begin with a closing brace, for nothing would be in the braces then."""
    return f"\\{topic}" if topic[0] in "}\\" else topic


def _distinct(patterns: Sequence[str]) -> list[TopicPattern]:
    """Leave out what another pattern includes, for a message comes once for each."""
    found = [TopicPattern(text) for text in dict.fromkeys(patterns)]

    def included(pattern: TopicPattern, other: TopicPattern) -> bool:
        beginning = pattern.text if pattern.prefix is None else pattern.prefix
        return other is not pattern and other.prefix is not None and beginning.startswith(other.prefix)

    return [pattern for pattern in found if not any(included(pattern, other) for other in found)]


async def _all(work: Iterable[Any]) -> None:
    """Do things at once; none is no work."""
    await asyncio.gather(*work)
