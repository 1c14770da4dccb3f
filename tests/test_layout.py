"""The files of the test suite: their names are unique, none is too long, and `conftest.py` names existing files."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
MAX_LINES = 600


def files() -> list[Path]:
    return [path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("test_*.py")]


def test_every_file_has_a_name_of_its_own() -> None:
    names = Counter(path.name for path in files())
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_too_long() -> None:
    paths = (ROOT / "tests").rglob("*.py")
    assert [path.name for path in paths if path.read_text(encoding="utf-8").count("\n") > MAX_LINES] == []


@functools.cache
def configured(name: str) -> Any:
    """Return a list of names of `tests/conftest.py`; importing it could find a conftest.py of a directory."""
    tree = ast.parse((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            found[ast.unparse(node.target)] = node.value
    return eval(ast.unparse(found[name]), {})  # a call of set() is no literal


@pytest.mark.parametrize("name", ["ONCE", "ONE_BUILD_FILES", "ALONE", "TOGETHER"])
def test_files_that_the_configuration_names_exist(name: str) -> None:
    assert set(configured(name)) - {path.name for path in files()} == set()


def test_directories_that_the_configuration_names_have_their_files() -> None:
    found = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert [name for name in configured("ONE_BUILD") if not (TESTS / name).is_dir()] == []
    assert {Path(name, file) for name, both in configured("ONE_BUILD").items() for file in both} - found == set()


def compiled_modules(src: Path) -> set[str]:
    """Return the names of the modules that have a .pxd."""
    return {".".join(path.relative_to(src).with_suffix("").parts) for path in src.rglob("*.pxd")}


def imported(tree: ast.AST) -> set[str]:
    """Return the names of all modules that a file may import, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_tests_of_compiled_modules_run_on_both_builds() -> None:
    """A test that imports a compiled module is for that module; `Connection` is imported for type hints too."""
    compiled = compiled_modules(ROOT / "src") - {"pywsapp.connection"}
    assert {"pywsapp._protocol.frames", "pywsapp._lifecycle.lifecycle", "pywsapp._outbox.outbox"} <= compiled
    once, directories, names = (configured(name) for name in ("ONCE", "ONE_BUILD", "ONE_BUILD_FILES"))
    for_one_build = [
        path
        for path in files()
        if path.name not in once
        and (path.name in names or path.name not in directories.get(path.parent.name, [path.name]))
    ]
    assert len(for_one_build) > 50
    texts = {path: path.read_text(encoding="utf-8") for path in for_one_build}
    assert [path.name for path, text in texts.items() if imported(ast.parse(text)) & compiled] == []


@pytest.mark.parametrize("package", ["protocol", "outbox", "lifecycle", "connection", "component", "interop"])
def test_directories_of_compiled_packages_run_on_both_builds(package: str) -> None:
    assert package not in configured("ONE_BUILD")
