"""The errors in the logs of a fault run that no fault explains; what makes a run fail; the selection of faults."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the benchmarks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_log import unexplained
from benchmarks.fault_record import Counts
from benchmarks.faults import are_promises_kept, arguments

KILLED = "2026-11-30 06:39:08,095 ERROR worker 3 (process 17248) was killed by SIGKILL; starting another one in 0.2 s"
LOST = "2026-11-30 06:39:08,100 worker 1 ERROR redis://[::1] is unavailable (OSError: [Errno 1] no); trying again"
LOG = f"""\
2026-11-30 06:39:02,336 INFO pywsapp 0.1.0: 4 workers on trio: http://127.0.0.1:20896
{KILLED}
{LOST}
2026-11-30 06:39:12,051 worker 3 WARNING a handler has been blocking the event loop
"""


def test_only_faults_of_the_run_explain_errors() -> None:
    assert list(unexplained(LOG, [])) == [KILLED, LOST]
    assert list(unexplained(LOG, [KINDS["kill"].explains])) == [LOST]
    assert list(unexplained(LOG, [KINDS["kill"].explains, KINDS["cut"].explains])) == []
    assert list(unexplained(LOG, [KINDS["disconnect"].explains])) == [KILLED, LOST]


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", "Exception ignored in: <function f>"])
def test_a_traceback_is_never_explained(line: str) -> None:
    assert list(unexplained(f"{KILLED}\n{line}\n", [KINDS["kill"].explains])) == [line]


def test_a_run_fails_with_an_unexplained_error_or_a_worker_that_hangs_on() -> None:
    args = arguments([])
    found = {"counts": asdict(Counts(delivered=1)), "seconds": [], "unexplained": [], "problems": []}
    assert are_promises_kept(args, found)
    assert not are_promises_kept(args, found | {"unexplained": [KILLED]})
    assert not are_promises_kept(args, found | {"problems": ["a worker hangs"]})


def test_the_options_select_kinds_of_faults() -> None:
    args = arguments(["hang", "late", "--late", "3"])
    assert {name: getattr(args, name) for name in KINDS if getattr(args, name)} == {
        "hang": KINDS["hang"].every,
        "late": 3.0,
    }
    with pytest.raises(SystemExit):
        arguments(["hung"])
