"""When a client comes back: pure rules, with time and chance as arguments."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp import Backoff, ConfigurationError, HandshakeError, Headers
from pywsapp._connecting.backoff import ReconnectRules, retry_after

pytestmark = pytest.mark.once
WALL = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


def rules(*, renews: bool = False, **backoff: Any) -> ReconnectRules:
    """Return rules whose pauses are as long as they can be."""
    return ReconnectRules(Backoff(**backoff), renews=renews, uniform=lambda low, high: high)


def refused(status: int | None, retry: str | None = None) -> HandshakeError:
    return HandshakeError("refused", status, headers=Headers([] if retry is None else [("retry-after", retry)]))


def fail(one: ReconnectRules, exc: Exception, now: float = 0) -> float | None:
    return one.failed(exc, now, WALL)


def test_the_bound_doubles_up_to_the_cap() -> None:
    one = rules(base=1, cap=10)
    one.opened(0)
    assert one.lost(1006, 100) == 1
    assert [fail(one, OSError()) for _ in range(5)] == [2, 4, 8, 10, 10]


def test_thousands_of_failures_overflow_nothing() -> None:
    one = rules(base=1, cap=1e300)
    assert max(fail(one, OSError()) or 0 for _ in range(3000)) == 2.0**30


def test_the_pause_is_random_between_zero_and_the_bound() -> None:
    asked = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.25

    one = ReconnectRules(Backoff(base=2, cap=9), renews=False, uniform=uniform)
    assert [fail(one, OSError()) for _ in range(3)] == [0.25] * 3
    assert asked == [(0, 4), (0, 8), (0, 9)]


def test_a_stable_connection_begins_anew_and_a_short_one_does_not() -> None:
    one = rules(base=1, cap=60, stable_after=10)
    assert [fail(one, OSError()) for _ in range(3)] == [2, 4, 8]
    one.opened(100)
    assert one.lost(1006, 109.9) == 16
    one.opened(200)
    assert one.lost(1006, 210) == 1


def test_only_the_first_failure_of_an_outage_is_first() -> None:
    one = rules(stable_after=10)
    seen = []
    for opened, lost in ((0, 20), (21, 22), (23, 40)):
        one.opened(opened)
        one.lost(1006, lost)
        seen.append(one.is_first)
        fail(one, OSError(), lost + 0.5)
        seen.append(one.is_first)
    assert seen == [True, False, False, False, True, False]


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 3499, 4000, 4999, None])
def test_codes_after_which_a_client_comes_back(code: int | None) -> None:
    one = rules()
    one.opened(0)
    assert one.lost(code, 100) == 1


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3500, 3503, 3999, 4401])
def test_codes_after_which_it_does_not(code: int) -> None:
    one = rules()
    one.opened(0)
    assert one.lost(code, 100) is None


@pytest.mark.parametrize("status", [None, 408, 425, 429, 500, 502, 503, 504, 599])
def test_answers_that_are_asked_for_again(status: int | None) -> None:
    assert fail(rules(), refused(status)) == 2


@pytest.mark.parametrize("status", [101, 200, 204, 301, 302, 308, 400, 401, 403, 404, 407, 410, 421, 426, 431, 499])
def test_answers_that_are_final(status: int) -> None:
    assert fail(rules(), refused(status)) is None


def test_errors_of_the_network_are_repeated_but_an_invalid_certificate_is_not() -> None:
    for exc in (OSError(), ConnectionRefusedError(), TimeoutError(), ssl.SSLError(), ssl.SSLEOFError()):
        assert fail(rules(), exc) == 2
    assert fail(rules(), ssl.SSLCertVerificationError()) is None


# -- credentials -------------------------------------------------------------------------------------------------------


def test_new_credentials_are_tried_once_in_a_row() -> None:
    one = rules(renews=True)
    assert fail(one, refused(401)) is not None
    assert fail(one, refused(401)) is None


def test_new_credentials_after_4401() -> None:
    one = rules(renews=True, stable_after=10)
    for start in (0, 100, 200):  # a token that expires is renewed again and again
        one.opened(start)
        assert one.lost(4401, start + 50) is not None
    one.opened(300)
    assert one.lost(4401, 301) is None


def test_a_refusal_after_4401_is_final() -> None:
    one = rules(renews=True)
    one.opened(0)
    assert one.lost(4401, 100) is not None
    assert fail(one, refused(503)) is not None
    assert fail(one, refused(401)) is None


# -- limits ------------------------------------------------------------------------------------------------------------


def test_attempts_have_a_limit() -> None:
    one = rules(max_attempts=3)
    assert [fail(one, OSError()) is None for _ in range(3)] == [False, False, True]
    one = rules(max_attempts=1)
    one.opened(0)
    assert one.lost(1006, 100) is not None
    assert fail(one, OSError()) is None


def test_time_has_a_limit() -> None:
    one = rules(base=1, max_time=10)
    assert fail(one, OSError(), 0) == 2
    assert fail(one, OSError(), 6) == 4
    assert fail(one, OSError(), 6) is None  # 6 and 8 seconds are more than 10


@pytest.mark.parametrize(
    "values",
    [
        {"base": 0},
        {"base": -1},
        {"base": "1"},
        {"base": None},
        {"base": 61},
        {"cap": float("nan")},
        {"cap": float("inf")},
        {"stable_after": True},
        {"max_attempts": 1.5},
        {"max_time": 0},
    ],
    ids=str,
)
def test_invalid_values(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"Backoff\."):
        Backoff(**values)


# -- Retry-After -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60),
        ("Fri, 15 Jan 2027 08:01:00 -0000", 60),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("-5", 0),
        ("1e9", 0),
        ("1.5", 0),
        ("9" * 10, 0),
        ("٣", 0),
        ("soon", 0),
        ("", 0),
        ("Fri, 15 Jan 99999 08:01:00 GMT", 0),
        ("Fri, 15 Jan 2027 08:01:00 +9999", 0),
    ],
)
def test_values_of_retry_after(value: str, seconds: float) -> None:
    assert retry_after(refused(503, value), WALL) == seconds


def test_retry_after_is_obeyed_up_to_a_bound() -> None:
    assert fail(rules(max_retry_after=30), refused(503, "20")) == 22
    assert fail(rules(max_retry_after=30), refused(429, "999999999")) == 32
    assert fail(rules(max_retry_after=30), refused(503, "Fri, 15 Jan 2999 08:00:00 GMT")) == 32


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60))
def test_any_retry_after_is_a_bounded_number(value: str) -> None:
    assert 0 <= retry_after(refused(503, value), WALL) < 1e12
