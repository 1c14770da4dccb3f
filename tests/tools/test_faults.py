"""A short fault run: with a history nothing is missing and nothing doubled, whatever is killed, and losses are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.faults import arguments, kept, perform, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LOCAL = "--servers 1 --workers 4 --kill 1 --stall 3 --reload 4"
REDIS = "--servers 2 --workers 2 --broker redis --kill 1.5 --reload 4 --restart 2 --freeze 0"


@pytest.mark.parametrize(
    "words",
    [f"{LOCAL} --loop uvloop", f"{LOCAL} --loop trio", f"{REDIS} --loop asyncio"],
    ids=["local-uvloop", "local-trio", "redis-asyncio"],
)
def test_nothing_is_missing_and_nothing_comes_twice(words: str, tmp_path: Path) -> None:
    args = arguments(f"{words} --seconds 6 --topics 4 --leave 0.1 --logs {tmp_path}".split())
    found = perform(args)
    assert kept(args, found), "\n".join([table(args, found), *found["examples"]])
    assert found["faults"]["workers killed"] > 0
    assert found["connects"] > args.listeners + args.publishers


def test_what_a_history_does_not_reach_is_told(tmp_path: Path) -> None:
    words = f"{LOCAL} --loop asyncio --seconds 3 --leave 0.1 --history 2 --rate 200 --logs {tmp_path}"
    args = arguments(words.split())
    found = perform(args)
    assert kept(args, found), "\n".join([table(args, found), *found["examples"]])
    assert found["counts"]["told"] > 0
