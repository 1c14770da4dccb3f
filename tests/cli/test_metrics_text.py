"""The numbers of `pywsapp top`: the text of metrics, rates, and what is no such text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp._process.stats_messages import NO_STATS
from pywsapp._prometheus import encode
from pywsapp.cli import metrics_text as module
from pywsapp.cli.metrics_text import Change, NoMetrics, Reading
from pywsapp.cli.top_view import view
from pywsapp.stats import RouteStats, Stats, WorkerStats


def route(received: int, seconds: float = 0.0) -> RouteStats:
    times = HistogramStats((received, *[0] * len(BOUNDS)), seconds)
    return RouteStats(
        open_connections=3,
        handshakes=received,
        closed={"1000": received},
        messages_received=received,
        bytes_received=1000 * received,
        messages_sent=0,
        bytes_sent=0,
        messages_dropped=0,
        handler_seconds=times,
        ping_seconds=None,
    )


def reading(stats: Stats, at: float) -> Reading:
    found = Reading(encode(WorkerStats(stats, 2, 1), "")[0].decode())
    found.at = at
    return found


def test_the_numbers_of_an_app_are_read_with_hostile_labels() -> None:
    name = 'a "b" \\ c\n{d}'
    found = reading(replace(NO_STATS, limits={name: 3}, routes={"/rooms/{name}": route(5, 0.5)}), 0)
    assert found.by("pywsapp_limits_exceeded_total", "limit") == {name: 3}
    assert found.by("pywsapp_messages_received_total", "route") == {"/rooms/{name}": 5}
    assert found.sum("pywsapp_handler_seconds_sum", route="/rooms/{name}") == 0.5
    assert found.sum("pywsapp_workers") == 2
    assert found.sum("nothing") == 0


def test_labels_with_line_breaks_of_other_systems() -> None:
    name = "a\u2028b\x85c\x0bd"
    assert reading(replace(NO_STATS, limits={name: 3}), 0).by("pywsapp_limits_exceeded_total", "limit") == {name: 3}
    assert Reading("pywsapp_info 1\r\npywsapp_tasks 2\r\n").sum("pywsapp_tasks") == 2


def test_rates_are_those_between_two_readings() -> None:
    before = reading(replace(NO_STATS, routes={"/a": route(10), "/b": route(1)}), 0)
    now = reading(replace(NO_STATS, routes={"/a": route(30), "/b": route(1), "/c": route(2)}), 2)
    change = Change(now, before)
    assert change.rate("pywsapp_messages_received_total") == 11
    assert change.rate("pywsapp_messages_received_total", route="/a") == 10
    assert Change(now, None).rate("pywsapp_messages_received_total") is None
    assert not now.is_behind(before)
    assert before.is_behind(now)


def test_the_longest_duration_is_that_since_the_last_reading() -> None:
    def lag(*buckets: int) -> Stats:
        return replace(NO_STATS, loop_lag=HistogramStats((*buckets, *[0] * (len(BOUNDS) + 1 - len(buckets))), 0.0))

    slow_before = reading(lag(5, 0, 0, 1), 0)
    assert Change(reading(lag(7, 1, 0, 1), 1), slow_before).longest("pywsapp_loop_lag_seconds") == BOUNDS[1]
    assert Change(slow_before, slow_before).longest("pywsapp_loop_lag_seconds") is None


def test_the_view_has_all_parts_and_nothing_that_controls_a_terminal() -> None:
    stats = replace(NO_STATS, limits={"max\x1b[2J": 4, "zero": 0}, routes={"/\x1b]0;x": route(5, 0.5)})
    text = "\n".join(view("http://\x1b[2J", Change(reading(stats, 1), reading(NO_STATS, 0)), note="a note"))
    assert "\x1b" not in text
    for part in (
        "a note",
        "workers      1 of 2",
        "messages in",
        "4.9 KiB",
        "ROUTE",
        "CLOSE CODE",
        "max\\x1b[2J",
        "100 ms",
    ):
        assert part in text
    assert "zero" not in text
    assert "broker" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "# only comments",
        "other_metric 1",
        "pywsapp_info x",
        'pywsapp_info{version="1"} 1\nnonsense',
        "\x00",
        'pywsapp_info 1\npywsapp_loop_lag_seconds_bucket{le="x"} 1',
        "pywsapp_info{" + "} " * 10_000,
    ],
    ids=["nothing", "html", "comments", "another program", "no number", "nonsense", "binary", "no bound", "long"],
)
def test_other_texts_are_no_metrics(text: str) -> None:
    with pytest.raises(NoMetrics):
        Reading(text)


def test_a_text_with_too_many_samples_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLES", 10)
    with pytest.raises(NoMetrics, match="more than 10 samples"):
        Reading("pywsapp_info 1\n" + "a 1\n" * 10)
