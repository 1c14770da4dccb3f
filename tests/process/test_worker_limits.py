"""When a worker is replaced, and the number of connections that workers share."""

from __future__ import annotations

import math
import sys

import pytest

from pywsapp._process.worker_limits import WorkerLimits, memory_used
from pywsapp.exceptions import ConfigurationError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no workers")


@pytest.mark.parametrize("name", ["timeout", "max_age", "max_connections", "max_memory"])
@pytest.mark.parametrize("value", [0, -1, True, "5", math.nan])
def test_invalid_limit(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"worker_{name} must be a number greater than 0"):
        WorkerLimits(**{name: value})  # type: ignore[arg-type]


def test_limits_of_workers_differ_and_are_never_higher() -> None:
    limits = WorkerLimits(30, 100, 1000, 10_000)
    drawn = [limits.drawn() for _ in range(100)]
    assert all(one.timeout == 30 for one in drawn)
    for name in ("max_age", "max_connections", "max_memory"):
        values = [getattr(one, name) / getattr(limits, name) for one in drawn]
        assert 0.8 <= min(values) < 0.85
        assert 0.95 < max(values) <= 1
    assert WorkerLimits().drawn() == WorkerLimits(30)


def test_first_limit_that_is_reached() -> None:
    limits = WorkerLimits(30, 100, 1000, 10 * 2**20)
    assert limits.exceeded(99.9, 999, 10 * 2**20 - 1) is None
    assert limits.exceeded(100, 0, 0) == "it has run for 100 s"
    assert limits.exceeded(0, 1000, 0) == "it has accepted 1000 connections"
    assert limits.exceeded(0, 0, 10 * 2**20) == "it uses 10 MiB of memory"
    assert WorkerLimits().exceeded(1e9, 10**9, 10**12) is None
    assert limits.recycles
    assert not WorkerLimits(5).recycles


def test_memory_that_is_used_counts() -> None:
    before = memory_used()
    assert before > 2**20
    data = bytearray(b"x" * 64 * 2**20)
    assert memory_used() - before > 32 * 2**20
    del data
