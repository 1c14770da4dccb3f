"""The local bus: routers and brokers over real socket pairs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pywsapp.hosting.bus import BusRouter
from pywsapp.hosting.local_broker import LocalBroker
from pywsapp.testing import BROKER_CHECKS
from pywsapp.testing.brokers import Check

pytestmark = pytest.mark.anyio


@contextmanager
def bus(queue_limit: int = 64 * 1024 * 1024) -> Iterator[Bus]:
    router = BusRouter(queue_limit)
    made = Bus(router)
    try:
        yield made
    finally:
        router.close()
        made.close()


class Bus:
    """A router, and what is needed to be a worker at it."""

    def __init__(self, router: BusRouter) -> None:
        self.router = router
        self._ends: list[socket.socket] = []

    def socket(self) -> socket.socket:
        """Give the end of a worker."""
        ours, theirs = socket.socketpair()
        self.router.attach(len(self._ends) + 1, ours)
        self._ends.append(theirs)
        return theirs

    def broker(self) -> LocalBroker:
        return LocalBroker(self.socket())

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.mark.parametrize("check", BROKER_CHECKS.values(), ids=BROKER_CHECKS)
async def test_local_broker_keeps(check: Check) -> None:
    with bus() as made:
        await check(made.broker)
