"""The token bucket for handshakes, and the time after which refused clients should come again."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pywsapp._limits.handshake_rate import LONGEST_WAIT, HandshakeRate


def admitted(rate: HandshakeRate, count: int, now: float) -> int:
    return [rate.take(now) for _ in range(count)].count(0.0)


def test_a_second_is_admitted_at_once_and_the_rate_afterwards() -> None:
    rate = HandshakeRate(100)
    assert admitted(rate, 500, 1000.0) == 100
    assert admitted(rate, 500, 1000.5) == 50
    assert admitted(rate, 500, 1001.5) == 100
    assert admitted(rate, 500, 2000.0) == 100


def test_less_than_one_in_a_second() -> None:
    rate = HandshakeRate(0.5)
    assert [admitted(rate, 3, float(now)) for now in range(5)] == [1, 0, 1, 0, 1]


def test_the_wait_grows_with_the_excess_and_shrinks_with_time() -> None:
    rate = HandshakeRate(100)
    waits = [rate.take(0.0) for _ in range(1100)]
    assert waits[99:102] == [0.0, 1.01, 1.02]
    assert waits[-1] == 11.0, "a thousand wait, and a hundred are admitted in a second"
    rate = HandshakeRate(100)
    admitted(rate, 1100, 0.0)
    admitted(rate, 100, 1.0)
    assert rate.take(1.0) < 11
    admitted(rate, 100, 100.0)
    assert rate.take(100.0) == 1.01
    assert max(rate.take(100.0) for _ in range(100_000)) == LONGEST_WAIT


@given(
    st.floats(0.1, 1000, allow_nan=False),
    st.lists(st.tuples(st.floats(0, 5, allow_nan=False), st.integers(0, 50)), max_size=30),
)
def test_never_more_than_the_rate(per_second: float, steps: list[tuple[float, int]]) -> None:
    rate, now, times = HandshakeRate(per_second), 0.0, []
    for pause, count in steps:
        now += pause
        for _ in range(count):
            wait = rate.take(now)
            assert wait == 0 or 1 <= wait <= LONGEST_WAIT
            if not wait:
                times.append(now)
    for first in range(len(times)):
        allowed = max(1.0, per_second) + per_second * (times[-1] - times[first])
        assert len(times) - first <= allowed + 0.01


def test_a_clock_that_goes_back_earns_nothing() -> None:
    rate = HandshakeRate(1)
    waits = [rate.take(now) for now in (10.0, 5.0, 5.5)]
    assert waits[0] == 0
    assert all(later >= earlier for earlier, later in pairwise(waits[:2]))
