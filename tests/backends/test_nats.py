"""What a broker has to keep, on a real NATS server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from services import Nats, nats_server

from pywsapp.backends.nats import broker_from_url
from pywsapp.testing import BROKER_CHECKS
from pywsapp.testing.brokers import Check

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[Nats]:
    with nats_server() as running:
        yield running


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_nats_keeps(check: Check, server: Nats) -> None:
    await check(lambda: broker_from_url(server.url))
