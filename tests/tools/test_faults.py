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
from benchmarks.fault_kinds import KINDS
from benchmarks.faults import are_promises_kept, arguments, details, perform, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LOCAL = (
    "kill stop reload disconnect freeze --workers 4 --worker-timeout 30 --kill 1 --stop 3 --reload 4 --disconnect 0.1"
)
REDIS = "--broker redis --servers 2 --worker-timeout 30"
RESTARTS = f"kill reload restart disconnect {REDIS} --workers 2 --kill 1.5 --reload 4 --restart 2 --disconnect 0.1"
RUNS = {
    "local-uvloop": f"{LOCAL} --seconds 6 --topics 4 --loop uvloop",
    "local-trio": f"{LOCAL} --seconds 6 --topics 4 --loop trio",
    "redis-asyncio": f"{RESTARTS} --seconds 6 --topics 4 --loop asyncio",
    "network-uvloop": f"fill late cut mute {REDIS} --workers 1 --fill 3 --late 3 --cut 4 --mute 4 --seconds 4",
    "hung-trio": "hang disconnect --workers 2 --hang 2 --worker-timeout 8 --seconds 2 --loop trio",
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
    assert are_promises_kept(args, found), "\n".join([table(args, found), *details(found)])
    selected = {kind.counted_as for kind in KINDS.values() if 0 < getattr(args, kind.name) <= args.seconds}
    assert selected - set(found["faults"]) <= ({"network cut", "answers cut"} if found["notes"] else set())
    if "disconnect" in args.kinds:
        assert found["connects"] > args.listeners + args.publishers
    if name == "short-history":
        assert found["counts"]["reported_lost"] > 0
    if name == "network-uvloop":
        assert found["counts"]["refused"] > 0
