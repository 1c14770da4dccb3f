"""The tables, ratios and charts of the benchmarks, with invented results; the tests measure nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks import brokers, budgets, chart, cluster, contestants, growth_report, report, run, scenarios
from benchmarks.environment import Environment, SetupError
from benchmarks.growth import Point
from benchmarks.measure import Bench
from benchmarks.results import Results, Spread

ROOT = Path(__file__).parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"
OURS, WEBSOCKETS, PICOWS = "pywsapp+uvloop", "websockets+uvloop", "picows+uvloop"


def echo(number: int, rate: float) -> dict[str, Any]:
    return {"round": number, "rate": rate, "server_cpu_pct": 100, "cpu_pct": 50, "foreign_cpu_pct": 1.5}


@pytest.fixture
def results() -> Results:
    """Results of three rounds on a machine that slows down; picows failed in the second round and at the broadcast."""
    results = Results(
        facts={"date": "2024-02-29", "versions": {"websockets": "17.4"}, "notes": ["ws-node is left out"]},
        settings={"rounds": 3, "seconds": 2},
        contestants=[OURS, WEBSOCKETS, PICOWS],
        scenarios=["echo16", "bcast500", "bcast500-deflate", "idle2000"],
    )
    for number, speed in ((1, 100), (2, 50), (3, 10)):
        results.add(OURS, "echo16", echo(number, speed * 4000))
        results.add(WEBSOCKETS, "echo16", echo(number, speed * 1000))
        results.add(PICOWS, "echo16", echo(number, speed * 2000) if number != 2 else {"round": 2, "failure": "lost"})
    results.add(OURS, "bcast500", echo(1, 900_000))
    results.add(PICOWS, "bcast500", {"round": 1, "failure": "a frame too many", "log": "Traceback"})
    results.add(WEBSOCKETS, "bcast500-deflate", {**echo(1, 100), "deflate": "negotiated", "server_takeover": True})
    results.add(PICOWS, "bcast500-deflate", {**echo(1, 100), "deflate": "declined"})
    results.add(OURS, "idle2000", {"round": 1, "rss_bytes_per_conn": 2048})
    results.add(WEBSOCKETS, "idle2000", {"round": 1, "rss_bytes_per_conn": 16384})
    return results


def test_a_ratio_is_taken_within_each_round(results: Results) -> None:
    assert results.spread(OURS, "echo16") == Spread(200_000, 40_000, 400_000, 3)
    assert results.ratio(OURS, [WEBSOCKETS], "echo16") == Spread(4, 4, 4, 3)
    assert results.ratio(OURS, [PICOWS], "echo16") == Spread(2, 2, 2, 2)


def test_the_best_of_several_references_counts_in_each_round(results: Results) -> None:
    assert results.ratio(OURS, [WEBSOCKETS, PICOWS], "echo16") == Spread(2, 2, 4, 3)
    results.add(PICOWS, "idle2000", {"round": 1, "rss_bytes_per_conn": 4096})
    assert results.ratio(OURS, [WEBSOCKETS, PICOWS], "idle2000") == Spread(0.5, 0.5, 0.5, 1)


def test_a_missing_figure_has_no_ratio(results: Results) -> None:
    assert results.ratio(OURS, [PICOWS], "bcast500") is None
    assert results.ratio(PICOWS, [OURS], "bcast500") is None
    assert results.ratio("trio-websocket", [OURS], "echo16") is None


def test_cells(results: Results) -> None:
    assert report.cell(results, OURS, "echo16") == "200,000 ±90 % (4.00 / 2.00)"
    assert report.cell(results, OURS, "idle2000") == "2.00 ±0 % (0.12 / —)"
    assert report.cell(results, WEBSOCKETS, "bcast500-deflate") == "100† ±0 % (1.00 / —)"
    assert report.cell(results, PICOWS, "bcast500") == "failed"
    assert report.cell(results, PICOWS, "bcast500-deflate") == "no"
    assert report.cell(results, WEBSOCKETS, "bcast500") == "—"


def test_figures_of_one_run() -> None:
    run = {"rate": 5000.0, "server_cpu_pct": 20.0, "latency_us": {"p50": 80.0, "p99": 120.0}}
    assert scenarios.METRICS["rate5k"][1].of(run) == 40
    assert scenarios.METRICS["rate5k.p99"][1].of(run) == 120
    assert scenarios.METRICS["rate5k.p999"][1].of(run) is None
    assert scenarios.METRICS["rate5k"][1].of({"failure": "lost"}) is None


def test_budgets_are_met_or_not_or_not_measured(results: Results) -> None:
    rows = {(budget.metric, budget.references): budget for budget in budgets.ALL if budget.contestant == OURS}

    def verdict(metric: str, *references: str) -> bool | None:
        budget = rows[metric, references]
        spread = budget.measured(results)
        return None if spread is None else budget.is_met(spread)

    assert verdict("echo16", WEBSOCKETS) is True
    assert verdict("echo16x16", PICOWS) is None
    assert verdict("idle2000") is True
    results.runs[WEBSOCKETS]["echo16"] = [echo(number, 350_000) for number in (1, 2, 3)]
    assert verdict("echo16", WEBSOCKETS) is False
    results.runs[OURS]["idle2000"] = [{"round": 1, "rss_bytes_per_conn": 5000}]
    assert verdict("idle2000") is False


def test_the_report_has_packages_failures_and_notes(results: Results) -> None:
    text = report.markdown(results)
    lines = text.splitlines()
    assert "- packages: websockets 17.4" in lines
    assert "- picows+uvloop, bcast500: a frame too many (log: Traceback)" in lines
    assert "- ws-node is left out" in lines
    assert any(line.startswith("† The server kept") for line in lines)
    budget = next(line for line in lines if line.startswith("| handshakes"))
    assert [cell.strip() for cell in budget.split("|")[5:8]] == ["not measured", "—", "—"]
    widths = [len(line) for line in lines if line.startswith("| echo 16 B ")]
    assert len(set(widths)) == 1


def test_the_report_of_nothing() -> None:
    empty = Results({}, {"rounds": 1, "seconds": 1}, [OURS], ["echo16"])
    assert "Every run failed." in report.markdown(empty)
    assert "nothing was measured" in chart.draw(empty)


def test_foreign_load_is_counted(results: Results) -> None:
    assert "more than 5 % in 0 of 11 runs" in report.foreign_line(results)
    results.runs[OURS]["bcast500"][0]["foreign_cpu_pct"] = 40
    assert "40 % in the worst; more than 5 % in 1 of 11 runs" in report.foreign_line(results)


def test_results_survive_a_file(results: Results, tmp_path: Path) -> None:
    file = tmp_path / "deeper" / "results.json"
    results.save(file)
    assert Results.load(file) == results
    file.write_text("{}")
    with pytest.raises(ValueError, match="contains no results"):
        Results.load(file)


def bars(svg: str, title: str) -> list[float]:
    """Return the widths of the bars after a title, in pixels."""
    elements = list(ElementTree.fromstring(svg))
    texts = [element.text for element in elements]
    widths = []
    for element in elements[texts.index(title) + 1 :]:
        if element.get("font-weight"):
            break
        if element.tag == f"{SVG}rect":
            widths.append(float(element.get("width", "0")))
    return widths


def test_the_chart_is_to_scale(results: Results) -> None:
    drawing = chart.draw(results)
    ours, picows = bars(drawing, "echo 16 B")
    assert ours == pytest.approx(2 * picows, abs=0.2)
    assert bars(drawing, "connections per memory") == [pytest.approx(2 * ours, abs=0.2)]
    assert "handshakes" not in drawing


def test_the_chart_cuts_bars_that_are_too_long(results: Results) -> None:
    results.runs[OURS]["idle2000"] = [{"round": 1, "rss_bytes_per_conn": 64}]
    drawing = chart.draw(results)
    assert bars(drawing, "connections per memory") == [chart.RIGHT - chart.LEFT]
    assert "256× »" in drawing


def test_the_report_of_growing_costs() -> None:
    points = [Point(OURS, "idle", x, {"rss": 4.0, "cpu": cpu}) for x, cpu in ((100, 0.0), (1000, 0.5), (1000, 1.5))]
    points.append(Point(OURS, "fanout", 10, failure="connection lost"))
    text = growth_report.markdown(points, {"date": "2024-02-29"})
    row = next(line for line in text.splitlines() if "1,000" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [OURS, "1,000", "4.00", "1.00"]
    assert "- pywsapp+uvloop, fanout, 10: connection lost" in text
    lines = ElementTree.fromstring(growth_report.draw(points)).findall(f"{SVG}polyline")
    assert [len(line.get("points", "").split()) for line in lines] == [2, 1]  # 0 has no logarithm


def test_names_exist() -> None:
    for budget in budgets.ALL:
        assert budget.metric in scenarios.METRICS
        assert {budget.contestant, *budget.references} <= set(contestants.BY_NAME)
        for name in (budget.contestant, *budget.references):
            scenario = scenarios.METRICS[budget.metric][0]
            assert contestants.BY_NAME[name].supports(scenario.name, scenario.instance)
    assert set(chart.SHOWN) | set(report.REFERENCES) <= set(contestants.BY_NAME)
    assert {metric for metric, _ in chart.GROUPS} <= set(scenarios.METRICS)
    for preset in run.PRESETS.values():
        assert set(preset.contestants) <= set(contestants.BY_NAME)
        assert set(preset.scenarios) <= set(scenarios.BY_NAME)
    for contestant in contestants.ALL:
        assert (ROOT / "benchmarks" / "peers" / contestant.script).is_file()
        assert set(contestant.only) <= set(scenarios.BY_NAME)


def test_figures_of_a_cluster() -> None:
    """Two workers use 40 and 60 %, their supervisor with the bus uses 20 %, for 5,000 messages to 200 clients."""
    run = {
        "rate": 1e6,
        "watched_cpu_pct": [40, 60, 20],
        "cpu_pct": 50,
        "foreign_cpu_pct": 10,
        "fanout_us": {"p50": 2000, "p99": 9000},
    }
    found = cluster.figures(run, receivers=200, carriers=1)
    assert found == cluster.Figures(1e6, 1.0, 40.0, 2000, 9000, (1.0, 0.2, 0.5, 0.1))
    assert cluster.figures(run, receivers=200, carriers=0).servers == pytest.approx(1.2)


def test_the_table_of_clusters() -> None:
    ours, theirs = cluster.Cluster(*cluster.REFERENCE), cluster.Cluster(cluster.SOCKETIO, "redis", 2)
    bench = Bench(Environment(Path(), Path(), Path()), Path())
    session = cluster.Session(bench, {})
    for measured, rates in ((ours, [100e3, 200e3, 400e3]), (theirs, [10e3, 10e3])):
        for number, rate in enumerate(rates):
            figures = cluster.Figures(rate, 2.5, 7, 1500, 4000, (0.5, 0.1, 0.2, 1.2))
            for load in cluster.LOADS:
                session.figures.setdefault((measured, load), {})[number] = figures
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in cluster.table(session, [ours, theirs, cluster.Cluster("pywsapp", "bus", 2)]).splitlines()
    ]
    assert rows[0] == list(cluster.HEAD)
    assert rows[2][3:6] == ["200k (100 … 400)", "1", "2.50"]
    assert rows[3][3:5] == ["10k (10 … 10)", "0.075"]  # the ratios are 0.1 and 0.05, in the rounds that have both
    assert rows[3][-4:] == ["7", "1.5", "4.0", "0.5 + 0.1 + 0.2 + 1.2"]
    assert set(rows[4][3:-1]) == {"—"}


def test_clusters() -> None:
    found = cluster.clusters(cluster.CARRIERS, [1, 2, 4])
    assert len(found) == len(set(found)) == 16
    urls = dict.fromkeys(cluster.BROKERS, "an address")
    for each in found:
        contestant = each.contestant(urls)
        assert (ROOT / "benchmarks" / "peers" / contestant.script).is_file()
        assert ("BROKER" in contestant.variables) == (each.carrier in cluster.BROKERS)
    assert cluster.clusters(["bus"], [1, 2]) == [cluster.Cluster("pywsapp", "bus", 2)]


def test_a_broker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "_PATH", "/nowhere")
    with pytest.raises(SetupError, match="apt-get install nats-server"), brokers.running_broker("nats"):
        pass


def test_names_on_the_command_line() -> None:
    known = ("a", "b", "c")
    assert run.select(None, known, ("c", "a"), "letter") == ["a", "c"]
    assert run.select("c, b", known, (), "letter") == ["b", "c"]
    assert run.select("all", known, (), "letter") == ["a", "b", "c"]
    with pytest.raises(SetupError, match="no letter 'd'"):
        run.select("a,d", known, (), "letter")


def test_the_programs_start(results: Results, tmp_path: Path) -> None:
    def call(name: str, *arguments: str | Path) -> str:
        command = [sys.executable, ROOT / "benchmarks" / name, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert "echo16x16" in call("run.py", "--list")
    assert "--idle-seconds" in call("scale.py", "--help")
    assert "--carriers" in call("cluster.py", "--help")
    assert "session-cookie" in call("handshakes.py", "--rounds", "1", "--handshakes", "2")
    results.save(tmp_path / "results.json")
    call("report.py", "results.json", "--out", "results.md", "--chart", "results.svg")
    assert (tmp_path / "results.md").read_text() == report.markdown(results)
    assert (tmp_path / "results.svg").read_text() == chart.draw(results)
    written = {"facts": {}, "points": [{"contestant": OURS, "part": "idle", "x": 1, "values": {"rss": 1}}]}
    (tmp_path / "scale.json").write_text(json.dumps(written))
    assert OURS in call("scale.py", "--from", "scale.json", "--out", "again.json")
    assert (tmp_path / "again.svg").exists()
