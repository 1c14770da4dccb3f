"""The table of advisories is complete, and every test that it names exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "explanation" / "advisories.md").read_text(encoding="utf-8")
ADVISORIES = 55
TEST = re.compile(r"`(tests/[^`]+\.py)::([^`]+)`")

pytestmark = pytest.mark.once


def rows() -> dict[int, list[str]]:
    """Return the cells of each advisory."""
    found: dict[int, list[str]] = {}
    for line in PAGE.splitlines():
        if re.match(r"\| [0-9]+ \|", line):
            number, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert int(number) not in found, f"{number} is there twice"
            found[int(number)] = cells
    return found


@functools.cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_advisory_has_a_row() -> None:
    assert sorted(rows()) == list(range(1, ADVISORIES + 1))
    for number, (advisory, fault, defence, _) in rows().items():
        assert re.search(r"CVE-|PYSEC-|GHSA-|v6\.9\.0", advisory), number
        assert fault.endswith("."), number
        assert defence.endswith("."), number


def test_every_row_has_a_test_or_cannot_occur() -> None:
    for number, (_, _, defence, tests) in rows().items():
        if tests == "-":
            assert defence.startswith("This cannot occur: "), number
        else:
            assert TEST.sub("", tests).strip() == "", f"{number} names something else than tests"


@pytest.mark.parametrize("path", sorted({path for path, _ in TEST.findall(PAGE)}))
def test_the_tests_exist(path: str) -> None:
    named = {name for found, name in TEST.findall(PAGE) if found == path}
    assert named - names_in(path) == set()


def test_cells_of_tests_contain_nothing_else() -> None:
    assert PAGE.count("`tests/") == len(TEST.findall(PAGE)) + 1  # the file that checks this page
