"""The memory broker keeps the contract of all brokers."""

from __future__ import annotations

import pytest

from pywsapp.brokers.memory import MemoryBroker
from pywsapp.testing.broker import BROKER_CHECKS
from pywsapp.testing.broker_peers import Check

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_the_memory_broker_keeps_the_contract(check: Check) -> None:
    broker = MemoryBroker()
    await check(lambda: broker)
