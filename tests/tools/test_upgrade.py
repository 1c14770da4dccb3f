"""A short upgrade: servers of the version before are replaced by servers of this one, and nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.upgrade import NoVersion, arguments, extract, is_kept, perform

pytestmark = pytest.mark.slow
SHORT = "--nodes 2 --workers 1 --pause 0.3 --rate 200 --listeners 8 --publishers 4 --seed 1"


def test_nothing_is_lost_while_an_old_and_a_new_version_share_a_broker() -> None:
    args = arguments(SHORT.split())
    try:
        found = perform(args)
    except NoVersion as exc:
        pytest.skip(f"needs the history of the repository: {exc}")
    assert is_kept(found), found
    assert len(found["steps"]) == 3
    assert found["connects"] > args.listeners + args.publishers


def test_a_version_that_git_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(NoVersion, match="no-such-version"):
        extract("no-such-version", tmp_path / "old")
