"""Sessions in memory: the contract, expiry, and the bound."""

from __future__ import annotations

from typing import Any

import pytest

from pywsapp.exceptions import ConfigurationError, SessionEnded
from pywsapp.sessions import MemorySessionStore, SessionStore, Stored
from pywsapp.testing.sessions import SESSION_STORE_CHECKS, SessionCheck, check_session_store

pytestmark = pytest.mark.anyio


class Timed(MemorySessionStore):
    """A store whose time a test sets."""

    time = 1_000_000.0

    def now(self) -> float:
        return self.time


@pytest.mark.parametrize("check", SESSION_STORE_CHECKS.values(), ids=SESSION_STORE_CHECKS)
async def test_the_store_passes(check: SessionCheck) -> None:
    store = MemorySessionStore()
    await check(lambda: store)


async def test_a_sliding_session_lives_from_its_last_use() -> None:
    store = Timed(max_age=100)
    used, unused = await store.save(None, Stored({"a": 1})), await store.save(None, Stored({"a": 2}))
    for _ in range(3):
        store.time += 60
        assert await store.load(used) == Stored({"a": 1})
    assert await store.load(unused) is None
    assert len(store) == 1
    store.time += 100
    assert await store.load(used) is None
    with pytest.raises(SessionEnded):
        await store.save(used, Stored({"a": 3}))


async def test_a_fixed_session_ends_when_it_was_to_end() -> None:
    store = Timed(max_age=100, sliding=False)
    end = store.time + 100
    token = await store.save(None, Stored({"a": 1}, end))
    for _ in range(3):
        store.time += 30
        assert await store.load(token) == Stored({"a": 1}, end)
        await store.save(token, Stored({"a": 1}, end))
    store.time += 10
    assert await store.load(token) is None
    with pytest.raises(SessionEnded):
        await store.save(token, Stored({"a": 1}, end))


async def test_the_number_of_sessions_is_bounded() -> None:
    store = Timed(max_sessions=3)
    tokens = [await store.save(None, Stored({"number": number})) for number in range(3)]
    assert await store.load(tokens[0]) is not None  # it is now the one that expires last
    tokens.append(await store.save(None, Stored({"number": 3})))
    assert [await store.load(token) is not None for token in tokens] == [True, False, True, True]
    assert len(store) == 3


async def test_expired_sessions_are_removed_also_if_they_were_saved_late() -> None:
    store = Timed(max_age=100, sliding=False)
    first_end = store.time + 100
    first = await store.save(None, Stored({"a": 1}, first_end))
    store.time += 10
    await store.save(None, Stored({"a": 2}, store.time + 100))
    await store.save(first, Stored({"a": 3}, first_end))
    store.time = first_end
    assert await store.load(first) is None
    assert len(store) == 1


@pytest.mark.parametrize("options", [{"max_age": 0}, {"max_age": float("inf")}, {"max_size": 0}, {"max_sessions": 0}])
async def test_invalid_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        MemorySessionStore(**options)


class Forgetful(MemorySessionStore):
    """Breaks a rule: saving brings a deleted session back."""

    async def write(self, key: str, value: bytes, seconds: int, *, create: bool) -> bool:
        return await super().write(key, value, seconds, create=True)


class Sharing(MemorySessionStore):
    """Breaks a rule: it accepts any id."""

    async def load(self, token: str) -> Stored | None:
        return await super().load(token) or Stored({})


class Broken(MemorySessionStore):
    async def remove(self, key: str) -> None:
        raise LookupError("broken")


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Forgetful, "a deleted session stays deleted: saving a deleted"),
        (Sharing, "unknown tokens are no sessions: the token"),
        (Broken, "a deleted session stays deleted: the store raised LookupError"),
    ],
)
async def test_the_checks_find_a_broken_rule(kind: type[SessionStore], rule: str) -> None:
    store = kind()
    with pytest.raises(AssertionError, match=f"^{rule}"):
        await check_session_store(lambda: store)
