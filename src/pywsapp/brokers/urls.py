"""Other people's libraries, one in each file, imported only by whoever wants it, or by a broker's URL."""

from __future__ import annotations

from importlib import import_module
from urllib.parse import urlsplit

from pywsapp.brokers.base import Broker
from pywsapp.exceptions import ConfigurationError

#: The module for each scheme, and what it needs installed.
_BROKERS = {
    "redis": ("redis.broker", "redis"),
    "rediss": ("redis.broker", "redis"),
    "unix": ("redis.broker", "redis"),
    "amqp": ("rabbitmq", "rabbitmq"),
    "amqps": ("rabbitmq", "rabbitmq"),
    "nats": ("nats", "nats"),
    "tls": ("nats", "nats"),
}


def broker_for(url: str) -> Broker | None:
    """Make the broker for a URL: redis://, rediss://, amqp://, amqps:// or nats://; "memory" is none.

    Raises:
        ConfigurationError: there is none for it, or its library is not installed.
    """
    scheme = urlsplit(url).scheme
    if url in ("memory", "memory:", "memory://"):
        return None
    if scheme not in _BROKERS:
        known = ", ".join(f"{name}://" for name in _BROKERS if name not in ("unix", "tls"))
        raise ConfigurationError(f"no broker for {scheme or 'a URL without a scheme'}: use memory, {known}")
    module, extra = _BROKERS[scheme]
    try:
        backend = import_module(f"pywsapp.brokers.{module}")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(f"{exc.name} is not installed: pip install 'pywsapp[{extra}]'") from exc
    broker = backend.broker_from_url(url)
    assert isinstance(broker, Broker)
    return broker
