"""The stores of sessions by the scheme of their URLs. Each module is imported when a URL asks for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from pywsapp._extras import import_extra
from pywsapp.exceptions import ConfigurationError
from pywsapp.sessions.base import SessionStore
from pywsapp.sessions.memory import MemorySessionStore

#: The module in this package and its class for each scheme, and the extra of pywsapp that installs its client library.
_STORES = {
    "redis": ("redis", "RedisSessionStore", "redis"),
    "rediss": ("redis", "RedisSessionStore", "redis"),
    "unix": ("redis", "RedisSessionStore", "redis"),
    "memcached": ("memcached", "MemcachedSessionStore", "sessions"),
}
_FLAGS = {"0": False, "1": True}


def session_store_for(url: str) -> SessionStore:
    """Return the store for a URL.

    Args:
        url: redis://, rediss://, unix:// or memcached://, or "memory". `max_age` and `max_size` in its query are
            numbers, `sliding` is 0 or 1, and `cookie` and `prefix` are names; the rest belongs to the client library.

    Raises:
        ConfigurationError: no store has the scheme, its client library is not installed, or the URL is invalid.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    options = _options(query)
    rest = url.partition("?")[0] + (f"?{urlencode(query)}" if query else "")
    if rest in ("memory", "memory:", "memory://"):
        if "prefix" in options:
            raise ConfigurationError("sessions in memory have no prefix")
        return MemorySessionStore(**options)
    if parts.scheme not in _STORES:
        raise ConfigurationError(
            f"no session store for {parts.scheme or 'a URL without a scheme'}: use memory, redis://, rediss://, "
            "unix:// or memcached://, or an object such as SignedCookieStore(key)"
        )
    module, name, extra = _STORES[parts.scheme]
    implementation = import_extra(f"pywsapp.sessions.{module}", extra)
    store = getattr(implementation, name)(rest, **options)
    assert isinstance(store, SessionStore)
    return store


def _options(query: dict[str, str]) -> dict[str, Any]:
    """Remove the options of a store from a query, and return them."""
    options: dict[str, Any] = {name: query.pop(name) for name in ("cookie", "prefix") if name in query}
    try:
        if "max_age" in query:
            options["max_age"] = float(query.pop("max_age"))
        if "max_size" in query:
            options["max_size"] = int(query.pop("max_size"))
        if "sliding" in query:
            options["sliding"] = _FLAGS[query.pop("sliding")]
    except (ValueError, KeyError):
        raise ConfigurationError("in the URL of a session store max_age is in seconds, and sliding is 0 or 1") from None
    return options


def as_session_store(store: object) -> SessionStore:
    """Return the store that a program names by a URL or an object.

    Raises:
        ConfigurationError: it is neither; or see `session_store_for`.
    """
    if isinstance(store, str):
        return session_store_for(store)
    if not isinstance(store, SessionStore):
        raise ConfigurationError(f"a session store is a URL or a SessionStore, not {store!r}")
    return store
