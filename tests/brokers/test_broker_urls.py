"""A URL that a client library would take for another one is refused, and its password is not shown."""

from __future__ import annotations

import pytest

from pywsapp.brokers.urls import broker_for
from pywsapp.exceptions import ConfigurationError

SCHEMES = ["redis", "rediss", "unix", "amqp", "amqps", "nats", "tls"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rest", [":/host", ":host", ":me:secret@host", ":/me:secret@host", ":", ":?db=1"])
def test_a_url_without_two_slashes_is_refused(scheme: str, rest: str) -> None:
    with pytest.raises(ConfigurationError, match=r"invalid URL of .*: use") as caught:
        broker_for(scheme + rest)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "unix://run/redis.sock",  # redis-py takes /redis.sock
        "unix://",
        "unix:///",
        "redis://me:secret@host/name",  # redis-py takes database 0
        "redis://me:secret@host/1/2",
        "redis:///run/redis.sock",
        "nats://me:secret@host/shop",
        "nats://me:secret@host?prefix=shop",
    ],
)
def test_a_url_of_which_a_part_would_be_ignored_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"invalid URL of .*: use") as caught:
        broker_for(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://", "redis://"),
        ("redis://localhost", "redis://localhost"),
        ("redis://me:secret@localhost/2?prefix=a:", "redis://localhost/2"),
        ("redis:///3", "redis:///3"),
        ("REDIS://localhost/", "redis://localhost/"),
        ("rediss://host:1/0?cluster=1&ssl_ca_certs=ca.pem", "rediss://host:1/0"),
        ("unix:///run/redis.sock?db=2&prefix=a:", "unix:///run/redis.sock"),
        ("unix://me:secret@/run/redis.sock", "unix:///run/redis.sock"),
        ("nats://localhost/", "nats://localhost"),
        ("amqp://localhost/vhost", "amqp://localhost/vhost"),
    ],
)
def test_complete_urls_are_accepted(url: str, name: str) -> None:
    broker = broker_for(url)
    assert broker is not None
    assert broker.name == name
