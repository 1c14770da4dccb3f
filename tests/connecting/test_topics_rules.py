"""When a client of topics comes back: pure rules, with time and chance as arguments."""

from __future__ import annotations

import pytest

from pywsapp import Backoff, HandshakeError
from pywsapp._connecting.topics.arguments import DEFAULT_BACKOFF
from pywsapp._connecting.topics.rules import Order, TopicsRules
from pywsapp.close_codes import ComeBack

pytestmark = pytest.mark.once


def rules(*, renews: bool = False, backoff: Backoff = DEFAULT_BACKOFF) -> TopicsRules:
    """Return rules whose pauses are as long as they can be, and of which a connection was stable."""
    made = TopicsRules(backoff, renews=renews, uniform=lambda low, high: high)
    made.opened(0)
    return made


@pytest.mark.parametrize(
    ("code", "pause"),
    [
        *((code, None) for code in (1002, 1003, 1007, 1008, 1009, 1010, 3500, 3503, 3999, 4401)),
        *((code, 0.5) for code in (1000, 1001, 1006, 1011, 3000, 3499, 4000, None)),
        (1012, 5),
        (1013, 10),
    ],
)
def test_close_codes(code: int | None, pause: float | None) -> None:
    assert rules().lost(code, 100) == pause


def test_pauses_are_random() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    made = TopicsRules(DEFAULT_BACKOFF, renews=False, uniform=uniform)
    assert [made.lost(code, 0) for code in (1012, 1013, 1006)] == [0, 5, 0]
    assert asked == [(0, 5), (0, 5), (0, 4)]


def test_an_order_counts_once_and_its_pause_is_limited() -> None:
    made = rules()
    for order, pause in (
        (Order(ComeBack.LATER, 20, 5), 25),
        (Order(ComeBack.LATER, 1e300, 5), 305),
        (Order(ComeBack.NEVER), None),
        (None, 0.5),
    ):
        made.order = order
        made.opened(0)
        assert made.lost(1001, 100) == pause
        assert made.order is None


def test_new_credentials_are_tried_once_until_the_server_accepts_them() -> None:
    made = rules(renews=True)
    assert [made.lost(4401, 0), made.lost(4401, 0)] == [1, None]
    made.accepted()
    made.order = Order(ComeBack.LATER, 20, 5)  # the close code counts more
    assert made.lost(4401, 0) is not None
    made.accepted()
    made.order = Order(ComeBack.WITH_CREDENTIALS)
    assert [made.lost(1006, 0), made.lost(4401, 0)] == [8, None]


def test_the_reason_of_a_failed_attempt_is_kept() -> None:
    made, refusal = rules(), HandshakeError("refused", 403)
    assert made.failed(refusal, 0, 0) is None
    assert made.reason is refusal
