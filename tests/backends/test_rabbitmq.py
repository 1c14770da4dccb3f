"""What a broker has to keep, on a real RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from services import Rabbit, rabbitmq_server

from pywsapp.backends.rabbitmq import broker_from_url
from pywsapp.testing import BROKER_CHECKS
from pywsapp.testing.brokers import Check

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[Rabbit]:
    with rabbitmq_server() as running:
        yield running


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_rabbitmq_keeps(check: Check, server: Rabbit) -> None:
    await check(lambda: broker_from_url(server.url))
