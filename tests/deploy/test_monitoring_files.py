"""The dashboard and alerts of docs/deploy name metrics and labels that exist, in expressions that Prometheus reads."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from support.services import find_program

from pywsapp._metric_table import METRICS

DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"
#: Labels that Prometheus adds, and the one of the buckets of a histogram.
USUAL_LABELS = {"instance", "job", "le"}
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "counter": ("",)}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return found


def expressions_of_dashboard() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bpywsapp_\w+", expression))


def labels_in(expression: str) -> set[str]:
    """Return the labels that an expression selects, or groups by."""
    selected = re.findall(r"(\w+)=[~\"]", expression)
    grouped = [label for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(", ")]
    return {*selected, *grouped}


LABELS = {info.name + suffix: {*info.labels} for info in METRICS for suffix in SUFFIXES[info.kind]}
EXPRESSIONS = [*(rule["expr"] for rule in rules()), *expressions_of_dashboard()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_and_labels_of_an_expression_exist(expression: str) -> None:
    names = names_in(expression)
    assert names
    assert names <= LABELS.keys()
    assert labels_in(expression) <= USUAL_LABELS.union(*(LABELS[name] for name in names))


def test_labels_in_texts_are_those_of_the_expression() -> None:
    texts = [(rule["expr"], json.dumps(rule["annotations"])) for rule in rules()]
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    texts += [(target["expr"], target["legendFormat"]) for target in targets]
    for expression, text in texts:
        named = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text)) - {"instance"}
        assert named <= labels_in(expression) or not labels_in(expression), (expression, text)


def test_the_dashboard_shows_each_metric() -> None:
    shown = set().union(*map(names_in, expressions_of_dashboard()))
    left_out = {info.name for info in METRICS if not {info.name + suffix for suffix in SUFFIXES[info.kind]} & shown}
    assert left_out == {
        "pywsapp_accepted_sockets_total",
        "pywsapp_admitted_connections",
        "pywsapp_broker_connects_total",
        "pywsapp_envelopes_dropped_total",
        "pywsapp_evicted_sockets_total",
        "pywsapp_history_losses_total",
        "pywsapp_info",  # in the variables
        "pywsapp_skipped_calls_total",
        "pywsapp_tasks",
    }
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_prometheus_reads_the_alerts() -> None:
    check_rules(DEPLOY / "alerts.yml", len(rules()))


def test_prometheus_reads_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [one.replace("$__rate_interval", "5m") for one in expressions_of_dashboard()]
    recorded = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    check_rules(path, len(expressions))


def check_rules(path: Path, number: int) -> None:
    command = [find_program("prometheus", "promtool"), "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert f"SUCCESS: {number} rules found" in done.stdout + done.stderr
