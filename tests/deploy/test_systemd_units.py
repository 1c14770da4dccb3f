"""The units of docs/deploy: systemd accepts them, and the page shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.services import find_program

pytestmark = pytest.mark.once
DEPLOY = Path(__file__).parent.parent.parent / "docs" / "deploy"
UNITS = ("chat.service", "chat.socket")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = find_program("systemd", "systemd-analyze")
    program = "/srv/chat/.venv/bin/pywsapp"
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        assert (program in text) == (name == "chat.service")
        (tmp_path / name).write_text(text.replace(program, sys.executable))
    checked = subprocess.run(
        [analyze, "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_service_has_few_rights() -> None:
    analyze = find_program("systemd", "systemd-analyze")
    rated = subprocess.run(
        # Tenths: it has 1.7 of 10 as a file, and 1.5 while it runs, which adds defaults.
        [analyze, "security", "--offline=true", "--no-pager", "--threshold=20", str(DEPLOY / "chat.service")],
        capture_output=True,
        text=True,
    )
    assert rated.returncode == 0, rated.stdout + rated.stderr


def test_the_service_is_started_again_however_often_it_fails() -> None:
    (seconds,) = re.findall(r"^RestartSec=(\d+)$", (DEPLOY / "chat.service").read_text(), re.MULTILINE)
    assert 5 * int(seconds) > 10  # systemd gives up after 5 starts in 10 seconds


def test_the_page_shows_the_units() -> None:
    page = (DEPLOY.parent / "howto" / "deploy-with-systemd.md").read_text()
    for name in UNITS:
        assert f"```ini\n{(DEPLOY / name).read_text()}```\n" in page
