"""The page about OpenTelemetry lists all metrics as they are exported."""

from __future__ import annotations

import re
from pathlib import Path

from pywsapp.telemetry.metrics import EXPORTED, attribute_of, kind_of, name_of, unit_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "howto" / "trace-with-opentelemetry.md"


def test_the_table_has_all_metrics() -> None:
    rows = re.findall(r"^\| `((?:pywsapp|process)[\w.]+)` \| ([\w -]+) \|(.*)\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    found = [(name, kind, unit.strip(" `"), re.findall(r"`([\w.]+)`", labels)) for name, kind, unit, labels in rows]
    expected = [
        (name_of(info), kind_of(info), unit_of(info), [attribute_of(label) for label in info.labels])
        for info in EXPORTED
    ]
    assert found == expected
