"""The workflows of CI: actions are pinned by commit, and every supported Python is tested."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
PINNED = re.compile(r"uses: [\w-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")

if not WORKFLOWS.exists():
    pytest.skip("an sdist has no workflows", allow_module_level=True)


@pytest.mark.parametrize("name", ["release.yml", "test.yml"])
def test_actions_are_pinned_by_commit(name: str) -> None:
    lines = [line.strip(" -") for line in (WORKFLOWS / name).read_text().splitlines() if "uses:" in line]
    assert lines
    assert [line for line in lines if PINNED.fullmatch(line) is None] == []


def test_an_action_has_one_commit() -> None:
    text = "".join(path.read_text() for path in sorted(WORKFLOWS.iterdir()))
    pins = set(re.findall(r"uses: (\S+)@(\w+)", text))
    assert len(pins) == len(dict(pins))


def test_every_supported_python_is_tested() -> None:
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    [matrix] = re.findall(r"python: \[(.*)\]", (WORKFLOWS / "test.yml").read_text())
    assert re.findall(r'"(.*?)"', matrix) == classifiers


def test_both_builds_are_tested_by_the_script_of_ci() -> None:
    assert re.search(r"^ +- run: \.ci/run$", (WORKFLOWS / "test.yml").read_text(), re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
