"""`make mutate` finds what can be changed, runs the mirrored tests on a copy, and reports what they miss."""

from __future__ import annotations

import ast
import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
MODULE = Path("src", "pywsapp", "_protocol", "checks.py")
SOURCE = '''"""A docstring is not changed, and neither is `and`."""

from __future__ import annotations

LIMIT: int = 10


def check(size: int, seen: list[int]) -> bool:
    """Return whether 1 more fits."""
    assert size >= 0
    if size > LIMIT and not seen:
        seen.append(size)
        raise ValueError(f"{size + 1}")
    return size == LIMIT
'''
TESTS = """
import pytest
from pywsapp._protocol.checks import check


def test_check():
    seen = []
    with pytest.raises(ValueError):
        check(20, seen)
    assert not check(20, [1])
    assert check(10, seen)
"""


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("mutate")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one module, and tests of it that miss the exact limit and what is appended."""
    for path, text in ((MODULE, SOURCE), (Path("tests", "protocol", "test_checks.py"), TESTS)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    (tmp_path / MODULE).with_name("__init__.py").touch()
    (tmp_path / MODULE.parent.parent / "__init__.py").touch()
    return tmp_path


def changes(mutants: list[Any]) -> set[tuple[str, str]]:
    source = SOURCE.encode()
    return {(source[mutant.start : mutant.stop].decode(), mutant.text) for mutant in mutants}


def test_what_is_changed(mutate: Any) -> None:
    mutants = mutate.mutants_of(MODULE, SOURCE.encode())
    assert changes(mutants) == {
        ("10", "11"),
        ("size > LIMIT and not seen", "(size > LIMIT or not seen)"),
        ("size > LIMIT and not seen", "(not (size > LIMIT and (not seen)))"),
        ("size > LIMIT", "(size >= LIMIT)"),
        ("not seen", "(seen)"),
        ("seen.append(size)", "pass"),
        ('raise ValueError(f"{size + 1}")', "pass"),
        ("size == LIMIT", "(size != LIMIT)"),
    }
    assert all(mutant.apply(SOURCE.encode()) != SOURCE.encode() for mutant in mutants)


def test_every_change_of_the_package_is_valid_python(mutate: Any) -> None:
    for path in sorted((ROOT / "src" / "pywsapp" / "_protocol").glob("*.py")):
        source = path.read_bytes()
        for mutant in mutate.mutants_of(path, source)[::20]:
            ast.parse(mutant.apply(source))


def test_survivors_are_reported_and_the_source_is_restored(
    mutate: Any, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = {"(size >= LIMIT)", "seen.append(size)", "(size != LIMIT)"}
    every = mutate.mutants_of(MODULE, SOURCE.encode())
    mutants = [mutant for mutant in every if tried & {*itertools.chain(*changes([mutant]))}]
    survivors = list(mutate.survivors_of(mutants, tree, mutate.Runner(tree), 20.0))
    assert changes(survivors) == {("size > LIMIT", "(size >= LIMIT)"), ("seen.append(size)", "pass")}
    assert len(mutants) == len(tried)
    output = capsys.readouterr().out
    assert f"survives  {MODULE}:11" in output
    assert "-        seen.append(size)\n+        pass" in output
    assert (tree / MODULE).read_text() == SOURCE


def test_a_change_on_which_the_tests_hang_does_not_survive(mutate: Any, tree: Path) -> None:
    source = b"while size > 1:\n    size -= 1\n"
    (tree / MODULE).write_bytes(b"size = 3\n" + source + b"def check(*_): ...\n")
    (tree / "tests" / "protocol" / "test_checks.py").write_text("import pywsapp._protocol.checks\ndef test(): ...\n")
    [endless] = [m for m in mutate.mutants_of(MODULE, (tree / MODULE).read_bytes()) if m.text == "pass"]
    assert list(mutate.survivors_of([endless], tree, mutate.Runner(tree), 3.0)) == []


def test_tests_that_fail_without_a_change_end_the_program(mutate: Any, tree: Path) -> None:
    (tree / "tests" / "protocol" / "test_checks.py").write_text("def test(): assert False\n")
    mutants = mutate.mutants_of(MODULE, SOURCE.encode())
    with pytest.raises(SystemExit, match=r"tests/protocol fail without a change"):
        list(mutate.survivors_of(mutants, tree, mutate.Runner(tree), None))


@pytest.mark.parametrize(
    ("module", "tests"),
    [
        ("_protocol/limits.py", ["tests/protocol/test_websocket_limits.py", "tests/protocol"]),
        ("http.py", ["tests/test_request.py", "tests/test_response.py"]),
        ("options.py", ["tests/test_options.py"]),
        ("_addresses.py", ["tests/test_addresses.py"]),
        ("topics/presence/view.py", ["tests/topics"]),
    ],
)
def test_the_tests_of_a_module(mutate: Any, module: str, tests: list[str]) -> None:
    [path] = mutate.modules_in([module], ROOT)
    assert mutate.tests_of(path, ROOT) == tests


def test_a_sample_depends_on_its_seed_only(mutate: Any) -> None:
    modules = mutate.modules_in(["_protocol"], ROOT)
    first, again, other = (mutate.sample(modules, ROOT, 20, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 20
