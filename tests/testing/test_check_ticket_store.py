"""`check_ticket_store`: it passes a good store, and finds each fault of a bad one."""

from __future__ import annotations

from typing import Any

import anyio.lowlevel
import pytest
from support.services import redis_server

from pywsapp.auth import MemoryTicketStore, TicketStore
from pywsapp.auth.redis_tickets import RedisTicketStore
from pywsapp.testing import TICKET_STORE_CHECKS, check_ticket_store

pytestmark = [pytest.mark.anyio, pytest.mark.once]


@pytest.mark.parametrize("check", TICKET_STORE_CHECKS.values(), ids=TICKET_STORE_CHECKS)
async def test_the_store_in_memory(check: Any) -> None:
    await check(MemoryTicketStore)


async def test_redis() -> None:
    with redis_server() as server:
        await check_ticket_store(lambda: RedisTicketStore(server.url))


class Reusing(MemoryTicketStore):
    async def take(self, key: str) -> bytes | None:
        data = await super().take(key)
        if data is not None:
            await self.put(key, data, 60)
        return data


class Racing(MemoryTicketStore):
    async def take(self, key: str) -> bytes | None:
        found = self._tickets.get(key)
        await anyio.lowlevel.checkpoint()
        self._tickets.pop(key, None)
        return None if found is None or found[0] <= self._clock() else found[1]


class Lasting(MemoryTicketStore):
    async def put(self, key: str, data: bytes, seconds: float) -> None:
        await super().put(key, data, 60)


class Failing(MemoryTicketStore):
    async def take(self, key: str) -> bytes | None:
        raise OSError("no route to host")


class NotShared(MemoryTicketStore):
    is_shared = True


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Reusing, "what is put is taken once: a ticket can be used twice"),
        (Racing, "one of many takers gets a ticket: several takers got the ticket"),
        (Lasting, "a ticket expires: an expired ticket can be used"),
        (Failing, "what is put is taken once: the store raised OSError"),
        (NotShared, "what is put is taken once: b'data' came back as None"),
    ],
)
async def test_faults_are_found(kind: type[TicketStore], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        await check_ticket_store(kind)
