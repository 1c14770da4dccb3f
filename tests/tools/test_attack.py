"""Short attacks: the other clients are served, and the memory of the server stays within its bound."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="the attacks run on Linux only")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from attack.attacks import ATTACKS
from attack.clients import Outcome
from attack.run import MAX_MEMORY, faults, percentile, perform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHORT = {"tiny-messages": "uvloop", "tiny-messages-slow": "asyncio", "compressed-fragments": "trio", "bombs": "asyncio"}


@pytest.mark.parametrize("name", SHORT)
def test_clients_are_served_during_an_attack(name: str) -> None:
    outcome, grown = perform(ATTACKS[name], SHORT[name], 1.5)
    assert faults(outcome, grown, latencies=False) == []


def test_what_counts_as_a_fault() -> None:
    good = Outcome([0.01] * 199 + [0.2], [0.01])
    assert faults(good, MAX_MEMORY, latencies=True) == []
    assert faults(Outcome([0.01] * 90 + [0.2] * 10, [0.01]), 0, latencies=True) == [
        "1 % of the echoes took longer than 100 ms"
    ]
    assert faults(Outcome([0.3], [0.01]), 0, latencies=False) == []
    assert faults(Outcome([0.01], []), 0, latencies=True) == ["no client was served"]
    assert faults(Outcome([0.01], [0.01], ["an echo failed"]), 0, latencies=True) == ["an echo failed"]
    assert "more than 200 MiB" in faults(good, MAX_MEMORY + 1, latencies=True)[0]


def test_percentiles() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 1) == 2.0
    assert percentile([], 0.99) == float("inf")
