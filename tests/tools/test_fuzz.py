"""The script behind `make fuzz`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "fuzz.py"


def test_an_input_has_a_time_limit() -> None:
    """So that a parser that loops for ever is a failure, and not a run that finds nothing."""
    spec = importlib.util.spec_from_file_location("fuzz_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    command = script.command_of(script.FUZZ / "fuzz_frames.py", Path("corpus"))
    (limit,) = [int(word.partition("=")[2]) for word in command if word.startswith("-timeout=")]
    assert 0 < limit <= 20
