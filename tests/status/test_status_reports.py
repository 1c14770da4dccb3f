"""Reports of processes: their bounds, what a hostile program sends in their place, rates and sums."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.user_rooms import by_query

from pywsapp import App
from pywsapp._histogram import BOUNDS, HistogramStats
from pywsapp._process.stats_messages import NO_STATS
from pywsapp._status import reports
from pywsapp._status.reports import (
    MAX_REPORT_ROUTES,
    OTHER_ROUTES,
    ErrorLog,
    ErrorRow,
    Report,
    TopicRow,
    decode_report,
    encode_report,
    with_fewer_routes,
)
from pywsapp._status.snapshot import RateMeter, snapshot_of
from pywsapp.brokers.envelope import Envelope, EnvelopeError
from pywsapp.stats import ProcessStats, RouteStats
from pywsapp.testing import TestClient

pytestmark = pytest.mark.once


#: Counts that are not all 0, with the sum 0.
CANCELLED = (1, -1, *[0] * (len(BOUNDS) - 1))


class NoText:
    def __str__(self) -> str:
        raise ValueError("no text")


def route(received: int = 0, **values: Any) -> RouteStats:
    numbers: dict[str, Any] = dict.fromkeys(
        ("open_connections", "handshakes", "bytes_received", "messages_sent", "bytes_sent", "messages_dropped"), 0
    )
    times: dict[str, Any] = {"closed": {}, "handler_seconds": None, "ping_seconds": None}
    return RouteStats(**{**numbers, **times, "messages_received": received, **values})


def report(at: float = 1.0, **values: Any) -> Report:
    stats = replace(NO_STATS, **values)
    return Report(7, "host", 1, at, stats, (), (TopicRow("room:1", 2),), (ErrorRow(5.0, "ERROR", "a.b", "text"),))


def encoded(**values: Any) -> Any:
    return json.loads(json.dumps(encode_report(report(**values))))


def test_a_report_is_the_same_in_another_process() -> None:
    assert decode_report(encoded(routes={"/a": route(3, closed={"1000": 2})})) == report(
        routes={"/a": route(3, closed={"1000": 2})}
    )


def with_part(index: int, value: Any) -> Callable[[], Any]:
    def make() -> Any:
        found = encoded()
        found[index] = value
        return found

    return make


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        list,
        lambda: {"pid": 1},
        lambda: encoded()[:-1],
        with_part(0, "x"),
        with_part(3, float("nan")),
        with_part(4, []),
        with_part(0, 10**30),
        with_part(4, encoded(loop_lag=HistogramStats((1, 2), 0.0))[4]),
        with_part(5, 7),
        with_part(6, [["a", 1]] * (reports.MAX_TOPICS + 1)),
        with_part(6, [["a" * 600_000, 1]]),
        with_part(7, [["x", "ERROR", "a", "b"]]),
        with_part(3, "nan"),
        with_part(3, "inf"),
        with_part(0, "9" * 400),
        with_part(3, -1),
        with_part(4, encoded(handshakes=-1)[4]),
        with_part(4, encoded(routes={"/a": route(handler_seconds=HistogramStats(CANCELLED, 0.0))})[4]),
    ],
    ids=[
        "none",
        "empty",
        "dict",
        "short",
        "pid",
        "nan",
        "stats",
        "number",
        "buckets",
        "no list",
        "many topics",
        "long",
        "no time",
        "text nan",
        "text inf",
        "long text",
        "negative time",
        "negative count",
        "negative bucket",
    ],
)
def test_what_no_process_sends_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(EnvelopeError):
        decode_report(make())


@pytest.mark.anyio
async def test_events_of_a_hostile_program_change_nothing() -> None:
    app = App(authenticate=by_query)
    app.status(guard=by_query)  # without can_disconnect
    topic, origin = "$pywsapp:status", "0123456789abcdef"
    async with TestClient(app) as client, client.connect("/status?root") as page:
        own = app.topics.codec.origin
        row = (await page.receive_json())["connections"][0]
        for event in (
            {"status": "disconnect", "number": row["id"], "process": own, "by": "eve"},
            {"status": "report", "number": 1, "report": "x"},
            {"status": "gone", "number": 1},
        ):
            app.topics.process_events.receive(Envelope(topic, None, origin, event))
        for event, name in (({"status": "shutdown", "number": 1}, origin), ({"status": "ask"}, origin), ({}, "x")):
            with pytest.raises(EnvelopeError):
                app.topics.process_events.receive(Envelope(topic, None, name, event))
        assert len((await page.receive_json())["workers"]) == 1


def test_the_log_keeps_the_last_lines_whatever_they_are() -> None:
    log = ErrorLog()
    logger = logging.Logger("test")
    logger.addHandler(log)
    for number in range(reports.MAX_ERRORS + 5):
        logger.warning("line %d\n\x1b[2J%s", number, "x" * 1000, extra={"event": "a.b"})
    logger.info("not this one")
    assert len(log.rows) == reports.MAX_ERRORS
    assert log.rows[0].text.startswith("line 5  [2Jxxx")
    assert max(len(row.text) for row in log.rows) == 400
    logger.error("%s", NoText())
    logger.error("too %s few %s", 1)
    logger.error(NoText())
    assert [(row.level, row.text) for row in log.rows[-3:]] == [
        ("ERROR", "%s"),
        ("ERROR", "too %s few %s"),
        ("ERROR", "a NoText without a text"),
    ]


def test_a_program_without_logging_still_writes_warnings_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))  # type: ignore[attr-defined]
    logger, site = logging.getLogger("library"), logging.getLogger("library.site")
    monkeypatch.setattr(logger, "propagate", False)  # to the handlers of pytest
    monkeypatch.setattr(logger, "handlers", [])
    for log in (ErrorLog(), ErrorLog()):  # of two Apps
        logger.addHandler(log)
    logger.warning("first")
    site.error("second")
    assert capsys.readouterr().err == "first\nsecond\n"
    logger.addHandler(logging.NullHandler())
    logger.warning("third")
    assert capsys.readouterr().err == ""


def test_rates_are_those_of_each_process_and_survive_its_end() -> None:
    meter = RateMeter()
    meter.update({"a": report(1, routes={"/x": route(10)}), "b": report(100, routes={"/x": route(5)})})
    assert meter.total() == {}
    meter.update({"a": report(3, routes={"/x": route(30)}), "b": report(101, routes={"/x": route(6), "/y": route(4)})})
    assert meter.total()["messages_received"] == 15
    assert meter.of_route("/x")["messages_received"] == 11
    assert meter.of_process("b")["messages_received"] == 5
    meter.update({"a": report(4, routes={"/x": route(31)})})
    assert meter.total()["messages_received"] == 1


def test_the_lag_is_the_longest_since_the_last_report() -> None:
    def lag(*buckets: int) -> HistogramStats:
        return HistogramStats((*buckets, *[0] * (len(BOUNDS) + 1 - len(buckets))), 0.0)

    meter = RateMeter()
    meter.update({"a": report(1, loop_lag=lag(1, 0, 0, 9))})
    meter.update({"a": report(2, loop_lag=lag(2, 1, 0, 9))})
    assert meter.lag_of("a") == BOUNDS[1]


def test_a_snapshot_is_the_sum_of_all_processes() -> None:
    slow, fast = HistogramStats((0, *[1] * len(BOUNDS)), 20.0), HistogramStats((99, *[0] * len(BOUNDS)), 0.001)
    found = {
        "a": report(routes={"/slow": route(open_connections=2, handler_seconds=slow)}, limits={"x": 1, "y": 0}),
        "b": report(routes={"/fast": route(open_connections=1, handler_seconds=fast)}, process=ProcessStats(9, 1.0, 1)),
    }
    meter = RateMeter()
    meter.update(found)
    snapshot = snapshot_of(found, meter, {"b": 1.5})
    assert snapshot["total"]["connections"] == 3
    assert snapshot["topics"] == [["room:1", 4]]
    assert snapshot["limits"] == {"x": 1}
    assert [(one["route"], one["p99"]) for one in snapshot["handlers"]] == [("/slow", BOUNDS[-1]), ("/fast", BOUNDS[0])]
    assert [one["late"] for one in snapshot["workers"]] == [None, 1.5]
    assert len(snapshot["errors"]) == 2
    json.dumps(snapshot, allow_nan=False)


def many_routes(received: int = 5) -> dict[str, RouteStats]:
    """Return 2,000 routes with long names and large numbers, of which the last ones have the most connections."""
    slow = HistogramStats((10**9,) * (len(BOUNDS) + 1), 10.0**12)
    fast = HistogramStats((10**9,) * (len(BOUNDS) + 1), 10.0)
    return {
        f"/{number}/{'x' * 100}": route(
            received, open_connections=number, closed={"1000": 10**9}, handler_seconds=fast if number else slow
        )
        for number in range(2000)
    }


def test_a_process_with_many_routes_reports_some_of_them_and_the_sum_of_the_others() -> None:
    stats = with_fewer_routes(replace(NO_STATS, routes=many_routes()))
    found = decode_report(encoded(routes=stats.routes)).stats.routes
    names = [pattern.split("/")[1] for pattern in found if pattern != OTHER_ROUTES]
    assert len(names) == MAX_REPORT_ROUTES
    assert {"0", "1999", "1900"} <= set(names), "the slowest one, and those with the most connections"
    assert sum(one.open_connections for one in found.values()) == sum(range(2000))
    assert sum(one.messages_received for one in found.values()) == 5 * 2000


def test_the_page_shows_the_largest_routes_and_the_sum_of_the_others() -> None:
    rates = RateMeter()
    for at in (1.0, 2.0):
        stats = with_fewer_routes(replace(NO_STATS, routes=many_routes(int(at) * 5)))
        reports_of = {"a": report(at, routes=stats.routes)}
        rates.update(reports_of)
    snapshot = snapshot_of(reports_of, rates, {})
    assert [one["route"].split("/")[1] for one in snapshot["routes"][:2]] == ["1999", "1998"]
    assert [one["route"] for one in snapshot["routes"][50:]] == [OTHER_ROUTES]
    assert snapshot["total"]["routes"] == MAX_REPORT_ROUTES + 1
    assert snapshot["total"]["connections"] == sum(range(2000))
    assert snapshot["rates"]["messages_received"] == 5 * 2000


def test_a_route_that_was_among_the_others_has_no_rate_at_first() -> None:
    rates = RateMeter()
    rates.update({"a": report(1.0, routes={"/a": route(3), OTHER_ROUTES: route(1000)})})
    rates.update({"a": report(2.0, routes={"/a": route(4), "/b": route(900), OTHER_ROUTES: route(100)})})
    assert rates.of_route("/b")["messages_received"] == 0
    assert rates.total()["messages_received"] == 1


def test_the_sum_of_the_others_has_no_rate_at_first() -> None:
    rates = RateMeter()
    rates.update({"a": report(1.0, routes={"/a": route(3), "/b": route(1000)})})
    rates.update({"a": report(2.0, routes={"/a": route(4), OTHER_ROUTES: route(1000)})})
    assert rates.total()["messages_received"] == 1
