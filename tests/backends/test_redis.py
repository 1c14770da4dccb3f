"""What a broker has to keep, on a real Redis: one server, a Unix socket, and a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from services import Redis, redis_cluster, redis_server

from pywsapp.backends import broker_for
from pywsapp.testing import BROKER_CHECKS
from pywsapp.testing.brokers import Check
from pywsapp.topics.broker import Broker

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Redis]]:
    with redis_cluster() as servers:
        yield servers


def broker(url: str) -> Broker:
    made = broker_for(url)
    assert made is not None
    return made


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_redis_keeps(check: Check, redis: Redis) -> None:
    await check(lambda: broker(redis.url))


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_a_cluster_keeps(check: Check, cluster: list[Redis]) -> None:
    if "pattern" in check.__name__:
        pytest.skip("sharded pub/sub has none")
    await check(lambda: broker(f"{cluster[1].url}?cluster=1"))
