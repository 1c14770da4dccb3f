"""Brokers between the processes of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.services import Redis, redis_server

from pywsapp.brokers.base import Broker
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.redis.broker import RedisBroker


@pytest.fixture(scope="package")
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def brokers(request: pytest.FixtureRequest) -> tuple[Broker, Broker]:
    """Return the brokers of two processes."""
    if request.param == "memory":
        broker = MemoryBroker()
        return broker, broker
    url = request.getfixturevalue("redis").url
    return RedisBroker(url), RedisBroker(url)
