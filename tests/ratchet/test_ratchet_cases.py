"""Check that every case of Ratchet's test suite has a test, here or in another directory.

The docstring of a test here begins with its cases: "Router 4: ...", "IoServer 7, IoServer 8: ...". A table in the
docstring of a file names tests in other directories: case, file, test. "[src]" stands for a behaviour of Ratchet that
Ratchet does not test.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent.parent

#: The classes of Ratchet and of its protocol library, and the numbers of the cases in their tests.
CASES = {
    "AbstractConnectionDecorator": range(1, 16),
    "App": range(1, 2),
    "EchoServer": range(1, 3),
    "Frame": range(28, 35),
    "HttpRequestParser": range(1, 9),
    "HttpServer": range(1, 8),
    "IoConnection": range(1, 4),
    "IoServer": range(1, 9),
    "IpBlackList": range(1, 11),
    "Message": range(24, 28),
    "MessageBuffer": range(16, 24),
    "OriginCheck": range(1, 7),
    "RequestVerifier": range(1, 9),
    "ResponseVerifier": range(35, 36),
    "Router": range(1, 11),
    "ServerNegotiator": range(9, 16),
    "WsServer": range(0),
}
WITHOUT_CASES = {"test_ratchet_cases.py", "test_ratchet_docs.py"}
_NAME = r"([A-Z]\w+) (\d+|\[src\])(?:-(\d+))?"
_ROW = re.compile(rf"^    {_NAME}  (tests/\S+\.py)  (test_\w+)$", re.MULTILINE)


class Row(NamedTuple):
    """A line of a table: a case, and the test in another directory that proves it."""

    case: str
    path: str
    test: str


def read(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find_tests(tree: ast.Module) -> dict[str, str]:
    """Return the tests of a file and their docstrings."""
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def cases(text: str) -> Iterator[str]:
    """Yield the cases that a text names, one by one: "Router 1", "App [src]"."""
    for name, first, last in re.findall(_NAME, text):
        if name in CASES:
            numbers = [first] if not last else [str(number) for number in range(int(first), int(last) + 1)]
            yield from (f"{name} {number}" for number in numbers)


def files() -> dict[str, ast.Module]:
    return {path.name: read(path) for path in sorted(Path(__file__).parent.glob("test_ratchet_*.py"))}


def rows() -> list[Row]:
    found = []
    for tree in files().values():
        for name, number, _, path, test in _ROW.findall(ast.get_docstring(tree, clean=False) or ""):
            found.append(Row(f"{name} {number}", path, test))
    return found


def test_every_named_test_exists() -> None:
    found = {path: find_tests(read(TESTS.parent / path)) for path in {row.path for row in rows()}}
    missing = [row for row in rows() if row.test not in found[row.path]]
    assert missing == []
    assert len(rows()) > 30


def test_every_case_is_proven_somewhere() -> None:
    wanted = {f"{name} {number}" for name, numbers in CASES.items() for number in numbers}
    proven = {row.case for row in rows()}
    for tree in files().values():
        for docstring in find_tests(tree).values():
            proven.update(cases(docstring))
    assert wanted - proven == set()
    assert {case for case in proven - wanted if "[src]" not in case} == set()


def test_every_docstring_begins_with_a_case() -> None:
    without_case = [
        f"{name}::{test}"
        for name, tree in files().items()
        if name not in WITHOUT_CASES
        for test, docstring in find_tests(tree).items()
        if not list(cases(docstring.partition(":")[0]))
    ]
    assert without_case == []
