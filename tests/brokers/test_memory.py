"""The memory broker keeps what every broker has to keep."""

from __future__ import annotations

import pytest

from pywsapp.brokers.memory import MemoryBroker
from pywsapp.testing.broker import BROKER_CHECKS, Check

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_memory_broker_keeps(check: Check) -> None:
    broker = MemoryBroker()
    await check(lambda: broker)
