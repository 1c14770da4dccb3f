"""The events about reports: those that no process would send are refused, and none makes a process grow."""

from __future__ import annotations

from typing import Any

import pytest

from pywsapp.brokers.envelope import EnvelopeError
from pywsapp.topics.occupancy import view as view_module
from pywsapp.topics.occupancy.changes import Change, Kind, Subject, events_of, parse_event
from pywsapp.topics.occupancy.view import OccupancyView
from pywsapp.topics.presence.events import PART

pytestmark = pytest.mark.once


def test_events_have_parts_and_can_be_parsed() -> None:
    changes = [Change(Subject(kind, f"name{number}"), number % 2 == 0) for number in range(150) for kind in Kind]
    events = list(events_of(changes))
    assert [len(event["reported"]) for event in events] == [PART] * 3
    assert [change for event in events for change in parse_event(event)] == changes


@pytest.mark.parametrize(
    "reported",
    [
        None,
        "topic",
        {"topic": "room:1"},
        [["topic", "room:1", True]] * (PART + 1),
        ["topic"],
        [["topic", "room:1"]],
        [["topic", "room:1", 1]],
        [["topic", "", True]],
        [["topic", "x" * 201, True]],
        [["topic", 5, True]],
        [["room", "room:1", True]],
        [[["topic"], "room:1", True]],
        [[None, "room:1", True]],
    ],
)
def test_other_events_are_refused(reported: Any) -> None:
    with pytest.raises(EnvelopeError):
        parse_event({"reported": reported})


def test_reports_of_others_do_not_make_a_process_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "_MAX_UNKNOWN", 5)
    view = OccupancyView("one", 1, lambda number: None, lambda: (), 0, is_alone=False)
    for number in range(100):
        view.note_reported(Change(Subject(Kind.TOPIC, f"room:{number}"), is_present=True), 0)
    assert len(view._reported) == len(view._gone) == 5


def test_changes_are_taken_in_batches_and_in_order() -> None:
    view = OccupancyView("one", 1, lambda number: None, lambda: (), 0, is_alone=True)
    subjects = [Subject(Kind.TOPIC, f"room:{number}") for number in range(5)]
    for subject in subjects:
        view.note(subject, is_present=True, now=0)
    assert view.tick(0, 0, is_connected=True)
    assert [change.subject for change in [*view.take(0, 3), *view.take(0, 3)]] == subjects
    view.note(subjects[0], is_present=False, now=1)
    assert view.take(1.9, 3) == []
    assert view.take(2, 3) == [Change(subjects[0], is_present=False)]
