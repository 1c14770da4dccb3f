"""The numbers of connections that the workers of a machine share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

if sys.platform == "win32":
    pytest.skip("Windows has no workers", allow_module_level=True)

from pywsapp._process.connection_counts import ConnectionCount, ConnectionCounts


def worker_of(counts: ConnectionCounts) -> tuple[int, ConnectionCount]:
    place = counts.take()
    assert place is not None
    fd = os.dup(counts.fds[0])
    try:
        return place, ConnectionCount(fd, place)
    finally:
        os.close(fd)


@contextmanager
def two_workers() -> Iterator[tuple[ConnectionCount, ConnectionCount]]:
    with ConnectionCounts(1) as counts:
        yield worker_of(counts)[1], worker_of(counts)[1]


def test_each_process_sees_the_sum() -> None:
    with ConnectionCounts(2) as counts:
        (_, first), (place, second) = worker_of(counts), worker_of(counts)
        assert first.update(3) == 3
        assert second.update(4) == 7
        assert first.update(1) == 5
        counts.release(place)
        assert first.update(1) == 1, "the second process has ended"


def test_rows_are_used_again_and_have_an_end(caplog: pytest.LogCaptureFixture) -> None:
    with ConnectionCounts(2) as counts:
        places = [counts.take() for _ in range(8)]
        assert sorted(place for place in places if place is not None) == list(range(8))
        assert counts.take() is None
        assert counts.take() is None
        counts.release(None)
        counts.release(5)
        assert counts.take() == 5
    assert caplog.messages == ["too many workers have not ended: a new one counts its own connections only"]


# -- addresses and users -----------------------------------------------------------------------------------------------


def test_addresses_and_users_count_in_all_processes() -> None:
    with two_workers() as (first, second):
        first.addresses.add("192.0.2.1")
        second.addresses.add("192.0.2.1")
        second.addresses.add("192.0.2.1")
        assert first.addresses.total("192.0.2.1") == second.addresses.total("192.0.2.1") == 3
        assert first.users.total("192.0.2.1") == 0, "addresses and users do not mix"
        second.users.add("ana")
        assert first.users.total("ana") == 1
        assert first.update(0) == 0
        second.addresses.remove("192.0.2.1")
        first.addresses.remove("192.0.2.1")
        assert first.addresses.total("192.0.2.1") == 1
        first.users.add("\ud800")  # no text that a client sends, but what a program can name a user
        assert second.users.total("\ud800") == 1


def test_the_row_of_a_process_that_has_died_is_cleared_for_the_next() -> None:
    with ConnectionCounts(1) as counts:
        (_, first), (place, second) = worker_of(counts), worker_of(counts)
        for number in range(500):
            second.addresses.add(f"192.0.2.{number}")
            second.users.add("ana")
        second.update(500)
        counts.release(place)
        assert first.update(0) == 0
        assert {first.addresses.total(f"192.0.2.{number}") for number in range(500)} == {0}
        assert first.users.total("ana") == 0
        for _ in range(3):  # the process that gets the row in the end starts at zero
            place, third = worker_of(counts)
            assert third.addresses.total("192.0.2.1") == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["add", "remove"]), st.sampled_from(["a", "b", "c"])), max_size=60
    )
)
def test_few_keys_count_exactly(steps: list[tuple[int, str, str]]) -> None:
    with two_workers() as workers:
        model: list[dict[str, int]] = [{}, {}]
        for number, step, key in steps:
            addresses, own = workers[number].addresses, model[number]
            if step == "add":
                addresses.add(key)
                own[key] = own.get(key, 0) + 1
            elif own.get(key):
                addresses.remove(key)
                own[key] -= 1
            for other in workers:
                for name in ("a", "b", "c"):
                    assert other.addresses.total(name) == sum(some.get(name, 0) for some in model)


def test_with_ten_thousand_addresses_few_clients_are_counted_too_high_and_none_too_low() -> None:
    with two_workers() as (first, second):
        for number in range(10_000):
            second.addresses.add(f"{number}")
        exact = [first.addresses.total(f"{number}") for number in range(10_000)]
        assert min(exact) == 1
        assert exact.count(1) >= 9985  # four are too high on average
        new = [first.addresses.total(f"new {number}") for number in range(10_000)]
        assert new.count(0) >= 9985
        assert [second.addresses.total(f"new {number}") for number in range(1000)] == [0] * 1000, "its own are exact"


def test_two_supervisors_hash_with_different_secrets() -> None:
    with two_workers() as (first, _), two_workers() as (second, _):
        assert first.addresses._places_of("192.0.2.1") != second.addresses._places_of("192.0.2.1")


# -- without shared memory ---------------------------------------------------------------------------------------------


def test_without_shared_memory_each_process_counts_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with ConnectionCounts(2) as counts:
        assert (counts.fds, counts.take(), counts.take()) == ([], None, None)
        counts.release(None)
    assert caplog.messages == [
        "workers cannot share memory (no space left on device), so each of them counts its own connections only"
    ]


def test_a_file_takes_the_place_of_anonymous_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with two_workers() as (first, second):
        first.addresses.add("192.0.2.1")
        assert second.addresses.total("192.0.2.1") == 1
