"""The judge of a fault run: it sees what is missing, doubled and out of order, and what was announced."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.ledger import Attempt, Break, Counts, Got, Ledger

LOST = Break("lost")
AWAY = Break("the broker is away", anew=False)


def at(offset: int, number: int, attempt: int = 1, epoch: str = "e") -> Got:
    return Got(Attempt("p", number, attempt), epoch, offset)


def plain(number: int, attempt: int = 1) -> Got:
    return Got(Attempt("p", number, attempt))


def judge(*heard: list[Got | Break], said: int = 4) -> Counts:
    """Count what listeners heard of messages 1, 2, ... of one publisher, each accepted at its first attempt."""
    attempts = [Attempt("p", number, 1) for number in range(1, said + 1)]
    ledger = Ledger(tried=attempts, accepted=set(attempts))
    for number, events in enumerate(heard):
        ledger.heard[f"listener {number}"] = events
    counts = ledger.counts()
    assert bool(ledger.examples) != counts.kept
    return counts


def test_all_is_well() -> None:
    counts = judge([at(n, n) for n in range(1, 5)], [at(n, n) for n in range(1, 5)])
    assert counts == Counts(said=4, attempts=4, accepted=4, due=8, delivered=8)
    assert counts.kept


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_what_is_missing_is_seen_wherever_it_is(missing: int) -> None:
    counts = judge([plain(n) for n in range(1, 5) if n != missing])
    assert (counts.missing, counts.delivered, counts.kept) == (1, 3, False)


@pytest.mark.parametrize("word", [LOST, AWAY])
@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_break_where_it_is_missing_excuses_it(missing: int, word: Break) -> None:
    events = [word if n == missing else plain(n) for n in range(1, 5)]
    counts = judge(events)
    assert (counts.missing, counts.told, counts.breaks, counts.kept) == (0, 1, 1, True)


def test_a_break_elsewhere_does_not_excuse_it() -> None:
    counts = judge([plain(1), plain(3), LOST, plain(4)])
    assert (counts.missing, counts.told) == (1, 0)


def test_an_attempt_that_comes_late_does_not_hide_a_break_before_it() -> None:
    attempts = [Attempt("p", 1, 1), Attempt("p", 1, 2), Attempt("p", 2, 1), Attempt("p", 3, 1)]
    ledger = Ledger(tried=attempts, accepted=set(attempts[1:]))
    ledger.heard["listener"] = [LOST, Got(attempts[0]), Got(attempts[3])]
    assert (ledger.counts().missing, ledger.counts().told) == (0, 1)


def test_a_listener_that_heard_nothing_misses_all() -> None:
    assert judge([]).missing == 4
    assert judge([LOST]).told == 4


def test_twice_is_doubled_and_a_second_attempt_is_not() -> None:
    assert judge([plain(1), plain(1), plain(2), plain(3), plain(4)]).doubled == 1
    counts = judge([plain(1), LOST, plain(1), plain(2), plain(3), plain(4)])
    assert (counts.doubled, counts.doubled_over_break, counts.kept) == (0, 1, True)
    assert judge([plain(1), AWAY, plain(1), plain(2), plain(3), plain(4)]).doubled == 1
    counts = judge([plain(1), plain(1, attempt=2), plain(2), plain(3), plain(4)])
    assert (counts.doubled, counts.published_again, counts.kept) == (0, 1, True)


def test_order_counts_from_break_to_break() -> None:
    assert judge([plain(1), plain(3), plain(2), plain(4)]).disordered == 1
    assert judge([plain(1), plain(3), LOST, plain(2), plain(4)]).disordered == 0
    assert judge([plain(1), plain(3), AWAY, plain(2), plain(4)]).disordered == 1


def test_between_ways_there_is_no_order() -> None:
    attempts = [Attempt("p", number, 1) for number in (1, 2, 3)]
    ledger = Ledger(tried=attempts, accepted=set(attempts), ways=dict(zip(attempts, (1, 1, 2), strict=True)))
    ledger.heard["listener"] = [Got(attempts[2]), Got(attempts[0]), Got(attempts[1])]
    assert ledger.counts().disordered == 0
    ledger.heard["listener"] = [Got(attempts[1]), Got(attempts[0]), Got(attempts[2])]
    assert ledger.counts().disordered == 1


def test_an_attempt_that_nobody_accepted_may_come_late() -> None:
    attempts = [Attempt("p", 1, 1), Attempt("p", 1, 2), Attempt("p", 2, 1)]
    ledger = Ledger(tried=attempts, accepted=set(attempts[1:]))
    ledger.heard["listener"] = [Got(attempts[1]), Got(attempts[2]), Got(attempts[0])]
    counts = ledger.counts()
    assert (counts.said, counts.attempts, counts.published_again, counts.kept) == (2, 3, 1, True)


def test_positions_count_up_by_one_or_there_is_a_word() -> None:
    assert judge([at(1, 1), at(3, 2), at(4, 3), at(5, 4)]).skipped == 1
    assert judge([at(1, 1), LOST, at(3, 2), at(4, 3), at(5, 4)]).skipped == 0
    assert judge([at(1, 1), at(2, 2), at(3, 3, epoch="f"), at(4, 4, epoch="f")]).skipped == 1


def test_all_see_the_same_in_the_same_position() -> None:
    swapped: list[Got | Break] = [at(1, 1), at(2, 3), at(3, 2), at(4, 4)]
    counts = judge([at(n, n) for n in range(1, 5)], swapped)
    assert (counts.forked, counts.disordered) == (2, 1)
