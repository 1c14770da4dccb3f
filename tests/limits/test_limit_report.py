from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywsapp._limits.report import LOG_SECONDS, LimitReport


class Detail:
    """A detail that counts how often it is made to text."""

    def __init__(self) -> None:
        self.shown = 0

    def __str__(self) -> str:
        self.shown += 1
        return "192.0.2.1"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_first_excess_is_logged_at_once_and_the_others_together(caplog: pytest.LogCaptureFixture) -> None:
    report = LimitReport("refused a connection")
    for second in range(25):
        report.exceeded(f"192.0.2.{second}", 100.0 + second)
    assert report.count == 25
    assert lines(caplog) == [
        "refused a connection: 192.0.2.0",
        "refused a connection: 192.0.2.10, 10 times since the last such line",
        "refused a connection: 192.0.2.20, 10 times since the last such line",
    ]
    assert {(record.name, record.levelno) for record in caplog.records} == {("pywsapp", logging.WARNING)}


def test_a_tick_logs_the_rest_of_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    report = LimitReport("refused a connection", level=logging.ERROR)
    report.tick(0)
    for address in range(4):
        report.exceeded(f"192.0.2.{address}", 1.0)
    report.tick(1.0 + LOG_SECONDS - 0.1)
    assert len(lines(caplog)) == 1
    for now in (1.0 + LOG_SECONDS, 5 * LOG_SECONDS):
        report.tick(now)
    assert lines(caplog)[1:] == ["refused a connection: 192.0.2.1, 3 times since the last such line"]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_detail_is_made_to_text_only_for_a_line() -> None:
    report, detail = LimitReport("refused a connection"), Detail()
    for _ in range(1000):
        report.exceeded(detail, 1.0)
    assert detail.shown == 2  # for the line, and for that of `tick`


def test_a_detail_cannot_add_lines(caplog: pytest.LogCaptureFixture) -> None:
    LimitReport("refused").exceeded("a\nERROR forged", 1.0)
    assert "\n" not in lines(caplog)[0]


@given(st.lists(st.integers(0, 30), max_size=50))
def test_there_is_one_line_in_a_period_at_most_and_none_is_lost(steps: list[int]) -> None:
    logged: list[float] = []
    numbers: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(now)
            numbers.append(int(str(record.args[2]).split()[1]) if record.args[2] else 1)  # type: ignore[index]

    handler, now = Handler(), 0.0
    logging.getLogger("pywsapp").addHandler(handler)
    try:
        report = LimitReport("refused")
        for step in steps:
            now += step
            report.exceeded("", now)
        now += LOG_SECONDS
        report.tick(now)
    finally:
        logging.getLogger("pywsapp").removeHandler(handler)
    assert all(later - earlier >= LOG_SECONDS for earlier, later in itertools.pairwise(logged))
    assert sum(numbers) == report.count == len(steps)
