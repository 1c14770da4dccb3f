"""The rules for every store of sessions, as checks that run against a `SessionStore`.

    async def test_my_store():
        await check_session_store(lambda: MyStore("my://localhost"))

With pytest, each check can be a test of its own:

    @pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
    async def test_my_store(check):
        await check(lambda: MyStore("my://localhost"))

The checks need a store that can write. They run on any event loop that the store supports.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from pywsapp.exceptions import SessionEnded, SessionError
from pywsapp.sessions.base import SessionStore, Stored
from pywsapp.testing.checks import recorder, run_checks

MakeSessionStore = Callable[[], SessionStore]
SessionCheck = Callable[[MakeSessionStore], Awaitable[None]]

#: Characters of base64 that 128 bits need.
_TOKEN_CHARACTERS = 22
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")
#: Every check by its name, in the order of `check_session_store`.
SESSION_STORE_CHECKS: dict[str, SessionCheck] = {}
_check = recorder(SESSION_STORE_CHECKS)

DATA = {
    "user": 42,
    "name": "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS} \N{GRINNING FACE}",
    "cart": [{"id": 1, "price": 1.5}, {"id": 2, "price": -0.25}],
    "": None,
    "flags": {"admin": False, "beta": True, "nested": {"list": [[], {}]}},
    "quotes": "\"'\\;,|=%\n\t ",
}
HOSTILE_TOKENS = (
    "",
    "x",
    "0" * 32,
    "a" * 4096,
    "../../etc/passwd",
    "*",
    "a b\r\nget b",
    "\0",
    "\N{GRINNING FACE}",
    "\udc80",
    "eyJ1c2VyIjogNDJ9.aaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ".eJw.aaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ":1:a",
    "null",
)


async def check_session_store(make: MakeSessionStore) -> None:
    """Run all checks against a store. This takes some seconds.

    Args:
        make: returns a SessionStore. It is called several times, and all its stores must have the same sessions.

    Raises:
        AssertionError: the store breaks a rule, or raises something else. The text begins with the rule.
    """
    await run_checks(SESSION_STORE_CHECKS, make, "the store")


@asynccontextmanager
async def open_stores(make: MakeSessionStore, number: int = 1) -> AsyncIterator[list[SessionStore]]:
    """Make stores, and close them at the end."""
    stores = [make() for _ in range(number)]
    try:
        yield stores
    finally:
        with anyio.CancelScope(shield=True):
            for store in stores:
                await store.aclose()


async def _create(store: SessionStore, data: dict[str, Any] | None = None) -> str:
    return await store.save(None, Stored(dict(data if data is not None else {"user": 1})))


async def _data(store: SessionStore, token: str) -> dict[str, Any] | None:
    stored = await store.load(token)
    return None if stored is None else stored.data


@_check
async def what_was_saved_is_loaded(make: MakeSessionStore) -> None:
    async with open_stores(make, 2) as (one, other):
        token = await _create(one, DATA)
        for store in one, other, one:
            found = await _data(store, token)
            assert found == DATA, f"loaded {found!r} instead of {DATA!r}"


@_check
async def a_token_can_be_a_cookie_and_cannot_be_guessed(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        tokens = [await _create(store, {"user": number}) for number in range(5)]
        for token in tokens:
            assert len(token) >= _TOKEN_CHARACTERS, "the token is too short for 128 bits"
            assert _COOKIE_VALUE.fullmatch(token), "the token has characters that a cookie cannot have"
        assert len(set(tokens)) == len(tokens), "two sessions have the same token"


@_check
async def unknown_tokens_are_no_sessions(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        for token in HOSTILE_TOKENS:
            found = await store.load(token)
            assert found is None, f"the token {token[:40]!r} has a session"


@_check
async def a_changed_token_is_no_session(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        token = await _create(store, {"user": 1, "name": "Ana"})
        last = len(token) - 1
        for place in {0, 1, len(token) // 3, len(token) // 2, last - 2, last - 1}:
            changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
            assert await store.load(changed) is None, f"changed at {place}, the token still has a session"
        for changed in token[:-1], token + "A", token[1:], token + token:
            assert await store.load(changed) is None, "a token of another length still has the session"


@_check
async def a_session_is_replaced_as_a_whole(make: MakeSessionStore) -> None:
    async with open_stores(make, 2) as (one, other):
        token = await _create(one, {"a": 1, "b": 2})
        for data in ({"b": 3, "c": [4]}, {"d": "longer" * 20}, {"e": 0}):
            token = await one.save(token, Stored(dict(data)))
            found = await _data(other, token)
            assert found == data, f"loaded {found!r} instead of {data!r}"


@_check
async def sessions_are_separate(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        one, other = await _create(store, {"user": 1}), await _create(store, {"user": 2})
        one = await store.save(one, Stored({"user": 3}))
        assert await _data(store, one) == {"user": 3}
        assert await _data(store, other) == {"user": 2}, "saving one session changed another one"


@_check
async def loaded_data_belongs_to_the_caller(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        data: dict[str, Any] = {"list": [1]}
        token = await store.save(None, Stored(data))
        data["list"].append(2)
        found = await _data(store, token)
        assert found is not None
        assert found == {"list": [1]}, "a change after saving changed the stored session"
        found["list"].append(3)
        assert await _data(store, token) == {"list": [1]}, "a change of loaded data changed the stored session"


@_check
async def a_deleted_session_stays_deleted(make: MakeSessionStore) -> None:
    async with open_stores(make, 2) as (one, other):
        if one.is_in_cookie:
            return  # nothing can make a token invalid before it expires
        token = await _create(one)
        await other.delete(token)
        assert await one.load(token) is None, "a deleted session can be loaded"
        ended = False
        try:
            await one.save(token, Stored({"user": 1}))
        except SessionEnded:
            ended = True
        assert ended, "saving a deleted session did not raise SessionEnded, so the user is logged in again"
        assert await other.load(token) is None, "saving brought a deleted session back"
        await one.delete(token)
        await one.delete("A" * len(token))


@_check
async def values_that_cannot_be_stored_raise_session_error(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        for value in object(), lambda: None, SessionStore:
            raised = False
            try:
                await store.save(None, Stored({"value": value}))
            except SessionError:
                raised = True
            assert raised, f"saving {type(value).__name__} did not raise SessionError"


@_check
async def a_session_has_a_largest_size(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        if store.is_in_cookie:
            return  # the cookie has its own limit
        raised = False
        try:
            await store.save(None, Stored({"value": "x" * store.max_size}))
        except SessionError:
            raised = True
        assert raised, f"a session of more than max_size={store.max_size} bytes was saved"


@_check
async def calls_at_the_same_time_do_not_mix(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):

        async def use(number: int) -> None:
            token = await _create(store, {"user": number})
            for turn in range(5):
                token = await store.save(token, Stored({"user": number, "turn": turn}))
                found = await _data(store, token)
                assert found == {"user": number, "turn": turn}, f"user {number} got {found!r}"

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(use, number)


@_check
async def a_cancelled_call_disturbs_no_other(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        tokens = [await _create(store, {"user": number}) for number in range(4)]
        for number in range(40):
            with anyio.move_on_after(0.0005 * (number % 5)):
                await store.load(tokens[number % 4])
            mine = (number + 1) % 4
            found = await _data(store, tokens[mine])
            assert found == {"user": mine}, f"after a cancelled call user {mine} got {found!r}"


@_check
async def a_closed_store_can_be_used_again(make: MakeSessionStore) -> None:
    async with open_stores(make) as (store,):
        await store.aclose()
        token = await _create(store)
        await store.aclose()
        await store.aclose()
        token = await store.save(token, Stored({"user": 2}))
        assert await _data(store, token) == {"user": 2}
