"""`FlaskRedisStore`: the sessions that Flask-Session keeps in Redis. Needs `pip install 'pywsapp[redis,sessions]'`.

Flask-Session 0.8 writes MessagePack, or JSON if the site has `SESSION_SERIALIZATION_FORMAT = "json"`. Older versions
wrote pickles, which this module does not read.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from pywsapp._clients.redis_client import RedisClient
from pywsapp._extras import missing_extra
from pywsapp.exceptions import ConfigurationError, SessionEnded, SessionError
from pywsapp.sessions.base import Stored
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.json_data import check_size
from pywsapp.sessions.website import WebsiteStore

try:
    import msgspec
except ModuleNotFoundError as exc:
    raise missing_extra(exc, "sessions") from exc

#: Flask's `PERMANENT_SESSION_LIFETIME`, in seconds.
_LIFETIME = 31 * 24 * 3600
_ID = re.compile(r"[0-9A-Za-z_-]{22,256}")
_ID_BYTES = 32


class FlaskRedisStore(WebsiteStore):
    """Reads and writes the sessions of a Flask site with Flask-Session and `SESSION_TYPE = "redis"`.

    `SESSION_USE_SIGNER`, which Flask-Session deprecates, is not supported.

    Args:
        url: redis://, rediss:// or unix://; see docs/reference/brokers.md.
        prefix: `SESSION_KEY_PREFIX`.
        format: `SESSION_SERIALIZATION_FORMAT`, "msgpack" or "json": what is written. Both are read.
        options: those of `SessionStore`: `cookie` (`SESSION_COOKIE_NAME`), `max_age` (`PERMANENT_SESSION_LIFETIME`),
            `sliding`, `max_size`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "session:",
        format: str = "msgpack",
        cookie: SessionCookie | str = "session",
        max_age: float = _LIFETIME,
        **options: Any,
    ) -> None:
        super().__init__(cookie=cookie, max_age=max_age, **options)
        if format not in ("msgpack", "json"):
            raise ConfigurationError(f"format is 'msgpack' or 'json', not {format!r}")
        self._encode: Callable[[Any], bytes] = msgspec.msgpack.encode if format == "msgpack" else msgspec.json.encode
        decoders: list[Callable[[bytes], Any]] = [msgspec.msgpack.decode, msgspec.json.decode]
        self._decoders = decoders if format == "msgpack" else decoders[::-1]
        self._client = RedisClient(url)
        self._prefix = prefix
        self.name = f"the session store of Flask-Session, {self._client.name}"

    def cookie_seconds(self, data: Mapping[str, Any]) -> int | None:
        """Return the seconds that the browser keeps the cookie: of a permanent session only, as in Flask."""
        return super().cookie_seconds(data) if data.get("_permanent") else None

    async def load(self, token: str) -> Stored | None:
        """Return the session of an id."""
        if not _ID.fullmatch(token):
            return None
        key = self._prefix + token
        command = ("GETEX", key, "EX", math.ceil(self.max_age)) if self.is_sliding else ("GET", key)
        (value,) = await self._client.execute(command)
        if value is None:
            return None
        if len(value) > self.max_size:
            raise SessionError(f"it has {len(value)} bytes, and max_size is {self.max_size}")
        for decode in self._decoders:
            try:
                data = decode(value)
            except (ValueError, RecursionError):  # msgspec.DecodeError is a ValueError
                continue
            if isinstance(data, dict) and all(isinstance(name, str) for name in data):
                return Stored(data)
        raise SessionError(
            "it is neither MessagePack nor JSON: update the site to Flask-Session 0.8, because older ones write pickles"
        )

    async def save(self, token: str | None, stored: Stored) -> str:
        """Save a session under its id, or under a new one."""
        try:
            value = self._encode(stored.data)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise SessionError(f"the session cannot be saved: {exc}") from exc
        check_size(value, self.max_size)
        condition = () if token is None else ("XX",)
        token = secrets.token_urlsafe(_ID_BYTES) if token is None else token
        seconds = math.ceil(self.max_age)
        (reply,) = await self._client.execute(("SET", self._prefix + token, value, "EX", seconds, *condition))
        if reply is None:
            raise SessionEnded("the session was destroyed or has expired")
        return token

    async def delete(self, token: str) -> None:
        """Delete the session of an id."""
        await self._client.execute(("DEL", self._prefix + token))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()
