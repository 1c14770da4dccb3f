"""The files of the test suite: their names are unique, none is too long, and `conftest.py` names existing files."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 600


def files() -> list[Path]:
    return [path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("test_*.py")]


def test_every_file_has_a_name_of_its_own() -> None:
    names = Counter(path.name for path in files())
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_too_long() -> None:
    paths = (ROOT / "tests").rglob("*.py")
    assert [path.name for path in paths if path.read_text(encoding="utf-8").count("\n") > MAX_LINES] == []


@pytest.mark.parametrize("name", ["ONCE", "ALONE", "TOGETHER"])
def test_files_that_the_configuration_names_exist(name: str) -> None:
    tree = ast.parse((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    [named] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name
    ]
    assert set(ast.literal_eval(named)) - {path.name for path in files()} == set()
