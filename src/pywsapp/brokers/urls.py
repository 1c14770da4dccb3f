"""The brokers of pywsapp by the scheme of their URLs. Each module is imported when a URL asks for it."""

from __future__ import annotations

from urllib.parse import urlsplit

from pywsapp._extras import import_extra
from pywsapp.brokers.base import Broker
from pywsapp.exceptions import ConfigurationError

#: The module in this package for each scheme, and the extra of pywsapp that installs its client library.
_BROKERS = {
    "redis": ("redis", "redis"),
    "rediss": ("redis", "redis"),
    "unix": ("redis", "redis"),
    "amqp": ("rabbitmq", "rabbitmq"),
    "amqps": ("rabbitmq", "rabbitmq"),
    "nats": ("nats", "nats"),
    "tls": ("nats", "nats"),
}


def broker_for(url: str) -> Broker | None:
    """Return the broker for a URL, and None for "memory", which stands for no broker.

    Args:
        url: redis://, rediss://, unix://, amqp://, amqps://, nats:// or tls://, or "memory".

    Raises:
        ConfigurationError: no broker has the scheme, its client library is not installed, or the URL is invalid.
    """
    scheme = urlsplit(url).scheme
    if url in ("memory", "memory:", "memory://"):
        return None
    if scheme not in _BROKERS:
        known = ", ".join(f"{name}://" for name in _BROKERS if name not in ("unix", "tls"))
        raise ConfigurationError(f"no broker for {scheme or 'a URL without a scheme'}: use memory, {known}")
    module, extra = _BROKERS[scheme]
    broker = import_extra(f"pywsapp.brokers.{module}", extra).broker_from_url(url)
    assert isinstance(broker, Broker)
    return broker


def as_broker(broker: str | Broker | None) -> Broker | None:
    """Return the broker that a program names by a URL or an object; see `broker_for`."""
    return broker_for(broker) if isinstance(broker, str) else broker
