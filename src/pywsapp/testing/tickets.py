"""The rules for every store of tickets, as checks that run against a `TicketStore`.

    @pytest.mark.parametrize("check", TICKET_STORE_CHECKS.values(), ids=TICKET_STORE_CHECKS)
    async def test_my_store(check):
        await check(lambda: MyStore("my://localhost"))

Each check uses keys of its own, so the server may have other users.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from pywsapp.auth.tickets import TicketStore
from pywsapp.testing.checks import recorder, run_checks

MakeStore = Callable[[], TicketStore]
Check = Callable[[MakeStore], Awaitable[None]]

#: Every check by its name, in the order of `check_ticket_store`.
#: Every check by its name, in the order of `check_ticket_store`.
TICKET_STORE_CHECKS: dict[str, Check] = {}
_check = recorder(TICKET_STORE_CHECKS)


async def check_ticket_store(make: MakeStore) -> None:
    """Run all checks against a store of tickets. This takes about a second.

    Args:
        make: returns a store. It is called several times, and all its stores must have the same tickets if they are
            shared.

    Raises:
        AssertionError: the store breaks a rule, or raises something. The text begins with the rule.
    """
    await run_checks(TICKET_STORE_CHECKS, make, "the store")


@asynccontextmanager
async def _stores(make: MakeStore, number: int) -> AsyncIterator[list[TicketStore]]:
    async with AsyncExitStack() as opened:
        stores = [make() for _ in range(number)]
        for store in stores:
            opened.push_async_callback(store.aclose)
        yield stores if stores[0].is_shared else [stores[0]] * number


def _key() -> str:
    return secrets.token_hex(32)


@_check
async def what_is_put_is_taken_once(make: MakeStore) -> None:
    """A second `take` returns None, also from another store."""
    async with _stores(make, 2) as (one, two):
        for data in b"data", b"", b"\0\xff\r\n", b"a" * 8192:
            key = _key()
            await one.put(key, data, 60)
            found = await two.take(key)
            assert found == data, f"{data!r:.40} came back as {found!r:.40}"
            for store in one, two:
                assert await store.take(key) is None, "a ticket can be used twice"


@_check
async def an_unknown_key_is_none(make: MakeStore) -> None:
    """A ticket that was never put is not there."""
    async with _stores(make, 1) as (store,):
        assert await store.take(_key()) is None


@_check
async def one_of_many_takers_gets_a_ticket(make: MakeStore) -> None:
    """Two servers never both accept a ticket."""
    async with _stores(make, 4) as stores:
        key = _key()
        await stores[0].put(key, b"data", 60)
        found: list[bytes | None] = []

        async def take(store: TicketStore) -> None:
            found.append(await store.take(key))

        async with anyio.create_task_group() as tasks:
            for store in stores * 5:
                tasks.start_soon(take, store)
        assert [data for data in found if data is not None] == [b"data"], "several takers got the ticket, or none did"


@_check
async def a_ticket_expires(make: MakeStore) -> None:
    """After its time a ticket is gone, and another one with more time is not."""
    async with _stores(make, 1) as (store,):
        short, long = _key(), _key()
        await store.put(short, b"short", 0.2)
        await store.put(long, b"long", 60)
        await anyio.sleep(0.4)
        assert await store.take(short) is None, "an expired ticket can be used"
        assert await store.take(long) == b"long", "a ticket is gone before its time"


@_check
async def a_closed_store_can_be_used_again(make: MakeStore) -> None:
    """`aclose` never raises, also when it is called twice."""
    async with _stores(make, 1) as (store,):
        await store.aclose()
        await store.aclose()
        key = _key()
        await store.put(key, b"data", 60)
        assert await store.take(key) == b"data", "the store cannot be used again"
