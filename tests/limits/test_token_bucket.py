from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._limits.token_bucket import TokenBucket

#: Tokens by which floating-point numbers may be wrong.
SLACK = 0.01

rates = st.floats(0.1, 1000)
bursts = st.floats(1, 1000)
steps = st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 2000)), max_size=40)


class Passed(NamedTuple):
    """An amount that passed, and when."""

    at: float
    amount: float


def assert_within(passed: list[Passed], rate: float, burst: float) -> None:
    """Check that no more than `burst + rate * t` passed in any time of t seconds."""
    passed = sorted(passed)
    for first in range(len(passed)):
        total = 0.0
        for last in range(first, len(passed)):
            total += passed[last].amount
            allowed = burst + rate * (passed[last].at - passed[first].at)
            assert total <= allowed + SLACK


@given(rates, bursts, steps)
def test_never_more_than_the_burst_and_the_rate_is_taken(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    now, bucket, passed = 1000.0, TokenBucket(rate, burst, 1000.0), []
    for seconds, amount in steps:
        now += seconds
        if bucket.take(amount, now):
            passed.append(Passed(now, amount))
    assert_within(passed, rate, burst)


@given(rates, bursts, steps, st.sets(st.integers(0, 40)))
def test_never_more_passes_after_its_wait(
    rate: float, burst: float, steps: list[tuple[float, float]], given_back: set[int]
) -> None:
    now, bucket, passed = 1000.0, TokenBucket(rate, burst, 1000.0), []
    for number, (seconds, amount) in enumerate(steps):
        now += seconds
        amount = min(amount, burst)  # a larger one passes at once when the rate has earned it
        wait = bucket.reserve(amount, now)
        assert wait >= 0
        if number in given_back:
            bucket.give_back(amount)
        else:
            passed.append(Passed(now + wait, amount))
    assert_within(passed, rate, burst)


@given(rates, bursts, st.lists(st.floats(1, 3), max_size=60))
def test_a_client_below_its_rate_is_never_delayed(rate: float, burst: float, pauses: list[float]) -> None:
    now, bucket = 5000.0, TokenBucket(rate, burst, 5000.0)
    for pause in pauses:
        assert bucket.reserve(1, now) == 0
        now += pause / rate


@given(rates, bursts, steps)
def test_waits_are_in_the_order_of_arrival(rate: float, burst: float, steps: list[tuple[float, float]]) -> None:
    now, bucket, last = 1000.0, TokenBucket(rate, burst, 1000.0), 0.0
    for seconds, amount in steps:
        now += seconds
        at = now + bucket.reserve(amount, now)
        assert at >= last - SLACK / rate
        last = at


def test_a_burst_passes_at_once_and_the_rate_afterwards() -> None:
    bucket = TokenBucket(2, 3, 0)
    assert [bucket.take(1, 0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(1, 0.5), bucket.take(1, 0.6)] == [True, False]
    assert [bucket.reserve(1, 1.0), bucket.reserve(1, 1.0), bucket.reserve(1, 1.0)] == [0.0, 0.5, 1.0]


def test_an_amount_above_the_burst_waits_until_it_is_earned() -> None:
    bucket = TokenBucket(10, 20, 0)
    assert not bucket.take(50, 0)
    assert bucket.reserve(50, 0) == pytest.approx(3)
    assert not bucket.take(1, 3)
    assert bucket.take(1, 3.1)


def test_what_is_given_back_can_be_taken_again_but_no_more() -> None:
    bucket = TokenBucket(1, 5, 0)
    assert bucket.take(5, 0)
    assert not bucket.is_full(0)
    bucket.give_back(3)
    assert bucket.take(3, 0)
    bucket.give_back(100)
    assert bucket.is_full(0)
    assert not bucket.take(6, 0)


def test_a_clock_that_goes_back_earns_nothing() -> None:
    bucket = TokenBucket(1, 1, 100)
    assert bucket.take(1, 100)
    assert [bucket.take(1, 50), bucket.take(1, 100.5), bucket.take(1, 101)] == [False, False, True]
