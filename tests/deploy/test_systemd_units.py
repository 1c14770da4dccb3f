"""The units of docs/deploy: systemd accepts them, and the page shows them."""

from __future__ import annotations

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


def test_the_page_shows_the_units() -> None:
    page = (DEPLOY.parent / "howto" / "deploy-with-systemd.md").read_text()
    for name in UNITS:
        assert f"```ini\n{(DEPLOY / name).read_text()}```\n" in page
