"""The page about Prometheus lists all metrics as they are."""

from __future__ import annotations

import re
from pathlib import Path

from pywsapp._metric_table import METRICS

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "watch-with-prometheus.md"


def test_the_table_has_all_metrics() -> None:
    rows = re.findall(r"^\| `(pywsapp_\w+)` \| (\w+) \|(.*)\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    found = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows]
    assert found == [(info.name, info.kind, info.labels, info.meaning) for info in METRICS]


def test_names_follow_the_conventions() -> None:
    for info in METRICS:
        assert re.fullmatch(r"pywsapp(_[a-z]+)+", info.name)
        assert info.name.endswith("_total") == (info.kind == "counter")
        assert info.kind != "histogram" or info.name.endswith("_seconds")
