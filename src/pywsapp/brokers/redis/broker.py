"""`RedisBroker`: what its URL and its options mean."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit

from pywsapp._clients.redis_url import RedisUrl
from pywsapp.brokers.asyncio_bridge import connect_on_asyncio
from pywsapp.brokers.base import Broker, BrokerConnection, Receive
from pywsapp.brokers.redis.connection import RedisBrokerConnection
from pywsapp.brokers.redis.names import RedisNames
from pywsapp.exceptions import ConfigurationError


def broker_from_url(url: str) -> RedisBroker:
    """Return the broker for a URL.

    `prefix`, `cluster` and `durable` in the query of the URL become arguments of `RedisBroker`; redis-py parses the
    rest.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    query = dict(parse_qsl(urlsplit(url).query))
    prefix = query.pop("prefix", "pywsapp:")
    cluster, durable = (_parse_flag(name, query.pop(name, "0")) for name in ("cluster", "durable"))
    rest = url.partition("?")[0] + (f"?{urlencode(query)}" if query else "")
    return RedisBroker(rest, prefix=prefix, cluster=cluster, durable=durable)


def _parse_flag(name: str, value: str) -> bool:
    if value not in ("0", "1"):
        raise ConfigurationError(f"{name}={value} in the URL of a Redis server: use {name}=0 or {name}=1")
    return value == "1"


class RedisBroker(Broker):
    """Carries messages by the pub/sub of Redis, and keeps histories in its streams.

    Args:
        url: redis://, rediss:// (TLS) or unix://, as for the `from_url` of redis-py.
        prefix: the beginning of the names of all channels and keys, without braces.
        cluster: whether the server is a Redis Cluster, whose sharded pub/sub is used then. The URL names any node.
        durable: whether a restart of the server loses no message that it has accepted (`appendfsync always`), so that
            histories continue after it. The same in all processes.
        health_seconds: seconds of silence after which a connection is lost.

    Raises:
        ConfigurationError: the URL or the prefix is invalid.
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
        self._url = RedisUrl(url)
        self.name = self._url.name
        self._names = RedisNames(prefix, sharded=cluster)
        self._durable = durable
        self._health_seconds = health_seconds

    async def connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        return await connect_on_asyncio(self._connect, receive, patterns)

    async def _connect(self, receive: Receive, patterns: Sequence[str]) -> BrokerConnection:
        connection = RedisBrokerConnection(
            self._url, self._names, receive, health_seconds=self._health_seconds, durable=self._durable
        )
        try:
            await connection.open(patterns)
        except BaseException:
            await connection.aclose()
            raise
        return connection
