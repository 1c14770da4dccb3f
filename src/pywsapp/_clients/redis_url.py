"""The URL of a Redis server, and the redis-py connections that it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pywsapp.exceptions import ConfigurationError

#: Set for every connection, whatever the URL says: `RedisConnection` has its own timeouts, and decodes nothing.
_FIXED_OPTIONS = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0, "decode_responses": False}


class RedisUrl:
    """A URL of a Redis server: redis://, rediss:// (TLS) or unix://, as for the `from_url` of redis-py.

    Args:
        url: the URL.

    Attributes:
        name: the URL without its password, for logs.

    Raises:
        ConfigurationError: the URL is invalid.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        # The query is left out too, because it can contain a password.
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            self._options: dict[str, Any] = {**parse_url(url), **_FIXED_OPTIONS, "retry": Retry(NoBackoff(), 0)}
            self._connection_class: Callable[..., Connection] = self._options.pop("connection_class", Connection)
            self.new_connection()
        except (TypeError, ValueError, RedisError) as exc:
            raise ConfigurationError(f"{self.name} is not a valid URL of a Redis server: {exc}") from None

    def new_connection(self, **address: Any) -> Connection:
        """Return a connection of redis-py for a `RedisConnection`, not connected yet.

        Args:
            address: the host and the port, instead of those in the URL.
        """
        return self._connection_class(**{**self._options, **address})
