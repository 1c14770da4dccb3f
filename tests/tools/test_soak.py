"""A short soak run: all kinds of visits and some faults at the same time; nothing is lost, and nothing leaks."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the soak test runs on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from soak.report import table
from soak.rounds import KINDS
from soak.run import arguments, perform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Selects another event loop: SOAK_LOOP=trio make test ARGS='-k soak'
LOOP = os.environ.get("SOAK_LOOP", "uvloop")
SHORT = f"--minutes 0 --rounds 1 --round 5 --interval 1 --scale 0.3 --loop {LOOP} --faults reload restart disconnect"


def test_nothing_is_lost_and_nothing_leaks(tmp_path: Path) -> None:
    soak = perform(arguments([*SHORT.split(), "--logs", str(tmp_path)]))
    assert soak.problems.lines() == [], table(soak)
    assert [kind.name for kind in KINDS if not soak.counts[kind.name]] == []
    assert soak.counts["rooms: delivered"] == soak.counts["rooms: expected"] > 0
    assert {"replacements of all workers", "broker restarted", "connections broken"} <= soak.faults.keys()
    assert len(soak.levels.points) == 2
    roles = [row["role"] for row in csv.DictReader((tmp_path / "numbers.csv").read_text().splitlines())]
    assert {"worker", "supervisor", "clients"} == set(roles)
    assert "nothing leaked, nothing was lost" in table(soak)
