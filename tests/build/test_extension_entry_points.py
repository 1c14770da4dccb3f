"""No argument of an entry point of the extension modules, and no object, can crash the process.

The calls run in a process of their own; `support/entry_points.py` says what they are. `make sanitize` makes many more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hatch_build
import pytest

from pywsapp._compiled import compiled

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ROOT / "tests" / "support" / "entry_points.py"
CALLS = 6  # of each entry point; three seconds

pytestmark = pytest.mark.skipif(not compiled(), reason="this is the pure Python build")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """The result of the program; it has ended without a crash and without an endless loop."""
    variables = os.environ | {"PYTHONPATH": str(hatch_build.SOURCE)}
    command = [sys.executable, str(PROGRAM), "--calls", str(CALLS)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["the end"], f"{done.returncode}: {done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_calls_end_with_a_result_or_an_exception(result: dict[str, Any]) -> None:
    assert result["faults"] == []
    assert result["calls"] >= 5000


def test_every_function_and_class_is_found(result: dict[str, Any]) -> None:
    names = result["entry points"]
    assert result["declared, not found"] == []
    for module in hatch_build.modules():
        name = module.replace("/", ".")
        assert any(point.startswith(f"{name}.") for point in names), name
    assert "pywsapp._protocol.frames.PayloadBuffer.since" in names
    assert "pywsapp._outbox.threads.wrong_thread" in names


def test_every_extension_type_has_whole_objects(result: dict[str, Any]) -> None:
    """For a new class, add an object of it to `World.whole`, so that its methods get beyond their first check."""
    assert {"Connection", "Lifecycle", "Outbox", "PayloadBuffer"} <= set(result["extension types"])
    assert result["without whole objects"] == []
