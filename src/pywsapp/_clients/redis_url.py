"""The URL of a Redis server, and the redis-py connections that it makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from pywsapp.exceptions import ConfigurationError

_DATABASE = re.compile(r"/?|/[0-9]+")
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
        if not _is_complete(url, parts):  # the message does not show the URL, because it can contain a password
            raise ConfigurationError(
                "invalid URL of a Redis server: use redis:// or rediss://user:password@host:port/database, "
                "or unix:///path/of/the/socket"
            )
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


def _is_complete(url: str, parts: SplitResult) -> bool:
    """Return whether redis-py uses each part of a URL, and does not take a part of it for nothing.

    It takes redis:/host for localhost, unix://run/redis.sock for /redis.sock, and redis://host/name for database 0.
    """
    if not url[len(parts.scheme) :].startswith("://"):
        return False
    if parts.scheme == "unix":
        return len(parts.path) > 1 and not parts.netloc.rpartition("@")[2]
    return _DATABASE.fullmatch(parts.path) is not None
