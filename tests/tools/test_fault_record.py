"""The record of a fault run counts missing, duplicated, disordered and reported messages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.fault_record import Attempt, Counts, Event, Interruption, Received, TopicRecord

LOST = Interruption("lost")
BROKER_LOST = Interruption("the server lost its broker", restarts=False)


def at(offset: int, number: int, attempt: int = 1, epoch: str = "e") -> Received:
    return Received(Attempt("p", number, attempt), epoch, offset)


def plain(number: int, attempt: int = 1) -> Received:
    return Received(Attempt("p", number, attempt))


def count(*received: list[Event]) -> Counts:
    """Count the events of listeners, for four messages of one publisher that were accepted at the first attempt."""
    attempts = [Attempt("p", number, 1) for number in range(1, 5)]
    record = TopicRecord(attempts=attempts, accepted=set(attempts))
    for number, events in enumerate(received):
        record.received[f"listener {number}"] = events
    counts = record.counts()
    assert bool(record.examples) != counts.no_promise_broken
    assert record.is_complete() == (counts.delivered == counts.expected)
    return counts


def test_complete_deliveries() -> None:
    counts = count([at(n, n) for n in range(1, 5)], [at(n, n) for n in range(1, 5)])
    assert counts == Counts(messages=4, attempts=4, accepted=4, expected=8, delivered=8)
    assert counts.no_promise_broken


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_missing_message_is_counted_at_any_place(missing: int) -> None:
    counts = count([plain(n) for n in range(1, 5) if n != missing])
    assert (counts.missing, counts.delivered, counts.no_promise_broken) == (1, 3, False)


@pytest.mark.parametrize("interruption", [LOST, BROKER_LOST], ids=["lost", "broker"])
@pytest.mark.parametrize("missing", [1, 2, 4])
def test_an_interruption_at_a_missing_message_reports_it(missing: int, interruption: Interruption) -> None:
    events = [interruption if n == missing else plain(n) for n in range(1, 5)]
    counts = count(events)
    assert (counts.missing, counts.reported_lost, counts.interruptions, counts.no_promise_broken) == (0, 1, 1, True)


def test_an_interruption_elsewhere_does_not_report_it() -> None:
    counts = count([plain(1), plain(3), LOST, plain(4)])
    assert (counts.missing, counts.reported_lost) == (1, 0)


def test_a_late_attempt_does_not_hide_an_interruption_before_it() -> None:
    attempts = [Attempt("p", 1, 1), Attempt("p", 1, 2), Attempt("p", 2, 1), Attempt("p", 3, 1)]
    record = TopicRecord(attempts=attempts, accepted=set(attempts[1:]))
    record.received["listener"] = [LOST, Received(attempts[0]), Received(attempts[3])]
    assert (record.counts().missing, record.counts().reported_lost) == (0, 1)


def test_a_listener_without_events_misses_all() -> None:
    assert count([]).missing == 4
    assert count([LOST]).reported_lost == 4


def test_a_repeated_attempt_is_a_duplicate_and_a_second_attempt_is_not() -> None:
    assert count([plain(1), plain(1), plain(2), plain(3), plain(4)]).duplicated == 1
    counts = count([plain(1), LOST, plain(1), plain(2), plain(3), plain(4)])
    assert (counts.duplicated, counts.duplicated_after_interruption, counts.no_promise_broken) == (0, 1, True)
    assert count([plain(1), BROKER_LOST, plain(1), plain(2), plain(3), plain(4)]).duplicated == 1
    counts = count([plain(1), plain(1, attempt=2), plain(2), plain(3), plain(4)])
    assert (counts.duplicated, counts.published_again, counts.no_promise_broken) == (0, 1, True)


def test_order_is_compared_between_interruptions_only() -> None:
    assert count([plain(1), plain(3), plain(2), plain(4)]).out_of_order == 1
    assert count([plain(1), plain(3), LOST, plain(2), plain(4)]).out_of_order == 0
    assert count([plain(1), plain(3), BROKER_LOST, plain(2), plain(4)]).out_of_order == 1


def test_order_is_not_compared_between_connections_of_a_publisher() -> None:
    attempts = [Attempt("p", number, 1) for number in (1, 2, 3)]
    record = TopicRecord(
        attempts=attempts, accepted=set(attempts), connections=dict(zip(attempts, (1, 1, 2), strict=True))
    )
    record.received["listener"] = [Received(attempts[2]), Received(attempts[0]), Received(attempts[1])]
    assert record.counts().out_of_order == 0
    record.received["listener"] = [Received(attempts[1]), Received(attempts[0]), Received(attempts[2])]
    assert record.counts().out_of_order == 1


def test_an_attempt_that_was_not_accepted_can_come_late() -> None:
    attempts = [Attempt("p", 1, 1), Attempt("p", 1, 2), Attempt("p", 2, 1)]
    record = TopicRecord(attempts=attempts, accepted=set(attempts[1:]))
    record.received["listener"] = [Received(attempts[1]), Received(attempts[2]), Received(attempts[0])]
    counts = record.counts()
    assert (counts.messages, counts.attempts, counts.published_again, counts.no_promise_broken) == (2, 3, 1, True)


def test_positions_count_up_by_one_except_at_an_interruption() -> None:
    assert count([at(1, 1), at(3, 2), at(4, 3), at(5, 4)]).skipped == 1
    assert count([at(1, 1), LOST, at(3, 2), at(4, 3), at(5, 4)]).skipped == 0
    assert count([at(1, 1), at(2, 2), at(3, 3, epoch="f"), at(4, 4, epoch="f")]).skipped == 1


def test_all_listeners_receive_the_same_message_at_a_position() -> None:
    swapped: list[Event] = [at(1, 1), at(2, 3), at(3, 2), at(4, 4)]
    counts = count([at(n, n) for n in range(1, 5)], swapped)
    assert (counts.conflicting, counts.out_of_order) == (2, 1)


def test_an_attempt_that_was_reported_as_failed_must_not_arrive() -> None:
    attempts = [Attempt("p", 1, 1), Attempt("p", 1, 2)]
    record = TopicRecord(attempts=attempts, accepted={attempts[1]}, refused={attempts[0]})
    record.received["listener"] = [at(1, 1, attempt=2)]
    assert (record.counts().refused, record.counts().no_promise_broken) == (1, True)
    record.received["listener"] = [at(1, 1), at(2, 1, attempt=2)]
    assert (record.counts().refused_but_delivered, record.counts().no_promise_broken) == (1, False)
