"""A directory with a module that the commands can import."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the current directory, which is a new one, and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(source: str) -> str:
        names.append(f"program_of_test_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)
