"""The quick Autobahn subset against our echo server; `make conformance` runs all cases, roles and event loops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFORMANCE = Path(__file__).parent.parent.parent / "conformance"
NO_PYTHON2 = 3

pytestmark = [pytest.mark.conformance, pytest.mark.slow, pytest.mark.timeout(600)]


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
    what = ["--quick", "--role", "server", "--backend", "asyncio", "--outdir", str(tmp_path)]
    done = subprocess.run([sys.executable, CONFORMANCE / "run.py", *what], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
