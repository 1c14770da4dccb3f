"""`make sanitize` finds faults, and does not pass if nothing is watched."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def sanitize(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module: Any = importlib.import_module("sanitize")
    try:
        module.libraries()
    except module.MissingTools as exc:
        pytest.skip(str(exc))
    return module


def test_faults_are_found(sanitize: Any, tmp_path: Path) -> None:
    sanitize.check_itself(tmp_path)


def test_a_run_ends_if_faults_are_not_found(sanitize: Any, tmp_path: Path) -> None:
    with pytest.raises(sanitize.SanitizeError, match="do not find"):
        sanitize.check_itself(tmp_path, flags=["-O1"])


def test_a_module_that_is_not_watched_is_seen(sanitize: Any, tmp_path: Path) -> None:
    watched = sanitize.compile_probe(tmp_path / "watched", sanitize.CFLAGS)
    others = [
        sanitize.compile_probe(tmp_path / f"{number}", flags)
        for number, flags in enumerate([["-fsanitize=address"], ["-fsanitize=undefined"]])
    ]
    assert sanitize.unwatched([watched, *others]) == others


def test_a_finding_is_a_failure(sanitize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test can pass although a process that it has started has ended with a finding."""

    def run(tree: Path, reports: Path, *args: Any) -> list[str]:
        (reports / "ASAN_OPTIONS.123").write_text("heap-buffer-overflow")
        return []

    for name in ("check_itself", "copy_tree", "compile_tree"):
        monkeypatch.setattr(sanitize, name, lambda *args: None)
    monkeypatch.setattr(sanitize, "BUILD", tmp_path)
    monkeypatch.setattr("sys.argv", ["sanitize.py", "tests/protocol"])
    monkeypatch.setattr(sanitize, "run", lambda *args: [])
    assert sanitize.main() == 0
    (tmp_path / "reports").mkdir()
    monkeypatch.setattr(sanitize, "run", lambda tree, reports, *args: reports.mkdir() or run(tree, reports, *args))
    assert sanitize.main() == 1
    monkeypatch.setattr(sanitize, "run", lambda *args: ["the tests"])
    assert sanitize.main() == 1


def test_the_copy_has_what_is_selected(sanitize: Any, tmp_path: Path) -> None:
    sanitize.copy_tree(tmp_path / "tree")
    for path in [*sanitize.TESTS, "tests/support/entry_points.py", "hatch_build.py", "fuzz/corpus"]:
        assert (tmp_path / "tree" / path).exists(), path
    assert not list((tmp_path / "tree" / "src").rglob("*.so"))
