"""Each log line has a stable event name and documented fields, and docs/reference/log-events.md lists all of them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from support.log_events import ABOUT, LogCall, log_calls

from pywsapp._log_fields import log_fields

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "log-events.md"
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def calls() -> list[LogCall]:
    return list(log_calls())


@pytest.fixture(scope="module")
def tables() -> list[list[list[str]]]:
    """The cells of the rows of each table of the page."""
    found: list[list[list[str]]] = [[]]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            found[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def rows_of(calls: list[LogCall]) -> dict[str, tuple[set[str], set[str]]]:
    """Return the known levels and the fields of each event."""
    rows: dict[str, tuple[set[str], set[str]]] = {}
    for call in calls:
        for event in call.events:
            levels, fields = rows.setdefault(event, (set(), set()))
            levels |= {call.level} if call.level else set()
            fields |= {*call.fields, *([f"*{call.about}*"] if call.about else [])}
    return rows


def test_each_log_line_has_an_event(calls: list[LogCall]) -> None:
    assert len(calls) > 100
    assert [call.place for call in calls if not call.events] == [], "write extra=log_fields(event, ...)"
    names = {event for call in calls for event in call.events}
    assert [name for name in sorted(names) if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []


def test_the_fields_do_not_collide_with_attributes_of_records(calls: list[LogCall]) -> None:
    record = logging.LogRecord("", 0, "", 0, "", (), None)
    # `worker` is set for all records of a worker process.
    taken = {*vars(record), "message", "asctime", "taskName", "worker", "event"}
    assert [(call.place, name) for call in calls for name in call.fields if name in taken] == []
    assert taken & {name for names in ABOUT.values() for name in names} == set()


def test_all_fields_are_on_the_page_and_no_others(calls: list[LogCall], tables: list[list[list[str]]]) -> None:
    used = {name for call in calls for name in (*call.fields, *ABOUT.get(call.about, ()))}
    assert {name.strip("`") for name, *_ in tables[0]} - {"event", "worker"} == used


def test_the_table_has_all_events_with_their_levels_and_fields(
    calls: list[LogCall], tables: list[list[list[str]]]
) -> None:
    listed = {
        event.strip("`"): (set(level.split(", ")), {name.strip("`") for name in fields.split(", ") if name})
        for table in tables[1:]
        for event, level, fields, _ in table
    }
    rows = rows_of(calls)
    assert set(listed) == set(rows)
    for event, (levels, fields) in rows.items():
        assert listed[event][1] == fields, event
        assert listed[event][0] >= levels, event


def test_text_in_fields_is_one_short_line() -> None:
    assert log_fields("a.b", reason="no\r\nFAKE \x1b[31m" + "x" * 300, count=None, size_bytes=3) == {
        "event": "a.b",
        "reason": "no\\r\\nFAKE \\x1b[31m" + "x" * 186,
        "size_bytes": 3,
    }


def test_an_object_of_a_test_in_place_of_a_connection_has_no_fields() -> None:
    assert log_fields("a.b", object()) == {"event": "a.b"}
