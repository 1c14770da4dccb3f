"""Short fault runs: with a history no message is missing or duplicated, whatever is killed, and losses are reported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.faults import are_promises_kept, arguments, perform, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LOCAL = "--servers 1 --workers 4 --kill 1 --stop 3 --reload 4 --disconnect 0.1"
REDIS = "--servers 2 --workers 2 --kill 1.5 --reload 4 --restart 2 --freeze 0 --disconnect 0.1 --broker redis"
RUNS = {
    "local-uvloop": f"{LOCAL} --seconds 6 --topics 4 --loop uvloop",
    "local-trio": f"{LOCAL} --seconds 6 --topics 4 --loop trio",
    "redis-asyncio": f"{REDIS} --seconds 6 --topics 4 --loop asyncio",
    "short-history": f"{LOCAL} --seconds 3 --history 2 --rate 200 --loop asyncio",
}
Results = dict[str, Future[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """The results of the selected runs, two of which run at a time, because a run uses one processor at most."""
    selected = {item.name.partition("[")[2].rstrip("]") for item in request.session.items if item.path == request.path}
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: pool.submit(perform, arguments([*options.split(), "--logs", str(tmp_path_factory.mktemp(name))]))
            for name, options in RUNS.items()
            if name in selected
        }


@pytest.mark.parametrize("name", RUNS)
def test_promises_are_kept(name: str, results: Results) -> None:
    args, found = arguments(RUNS[name].split()), results[name].result()
    assert are_promises_kept(args, found), "\n".join([table(args, found), *found["examples"]])
    assert found["faults"]["workers killed"] > 0
    assert found["connects"] > args.listeners + args.publishers
    if name == "short-history":
        assert found["counts"]["reported_lost"] > 0
