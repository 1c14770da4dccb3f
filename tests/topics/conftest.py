"""Brokers between the processes of a test."""

from __future__ import annotations

import pytest

from pywsapp.brokers import relay as relay_module
from pywsapp.brokers.base import Broker
from pywsapp.brokers.memory import MemoryBroker
from pywsapp.brokers.redis.broker import RedisBroker
from pywsapp.topics.history import service as histories_module


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relays connect again at once, and read a history again at once."""
    monkeypatch.setattr(relay_module, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(relay_module, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(histories_module, "_RETRY_SECONDS", 0.01)


@pytest.fixture(params=["memory", "redis"])
def brokers(request: pytest.FixtureRequest) -> tuple[Broker, Broker]:
    """Return the brokers of two processes."""
    if request.param == "memory":
        broker = MemoryBroker()
        return broker, broker
    url = request.getfixturevalue("redis").url
    return RedisBroker(url), RedisBroker(url)
