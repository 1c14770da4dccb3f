"""The quick Autobahn subset against our echo server; `make conformance` runs all cases, roles and event loops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "conformance"))
from autobahn import QUICK

CONFORMANCE = Path(__file__).parent.parent.parent / "conformance"
NO_PYTHON2 = 3

pytestmark = [pytest.mark.conformance, pytest.mark.slow, pytest.mark.timeout(600)]

#: The suite and its server work in turn, so two of each need half of the time on two processors.
HALVES = [
    [case for case in QUICK if not case.startswith("13.")],
    [case for case in QUICK if case.startswith("13.")],
]


@pytest.fixture(scope="module")
def suite() -> None:
    """The environment of the suite, created if it is missing."""
    done = subprocess.run([sys.executable, CONFORMANCE / "environment.py"], capture_output=True, text=True)
    if done.returncode == NO_PYTHON2:
        # Debian has no Python 2.7, so this is skipped in CI too; `make test` prints a warning.
        pytest.skip(f"CONFORMANCE NOT TESTED: {done.stderr.strip()}; with pyenv: pyenv install 2.7.18")
    if done.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(f"the Autobahn environment could not be created: {done.stderr}")
        pytest.skip(f"{done.stderr.strip()}; try: python conformance/environment.py")


@pytest.mark.usefixtures("suite")
def test_quick_subset(tmp_path: Path) -> None:
    program = [sys.executable, str(CONFORMANCE / "run.py"), "--role", "server", "--backend", "asyncio"]
    running = [
        subprocess.Popen(
            [*program, "--cases", ",".join(cases), "--outdir", str(tmp_path / str(number))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, cases in enumerate(HALVES)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "".join(outputs)
