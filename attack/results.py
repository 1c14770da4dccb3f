"""The result of an attack, and what counts as a fault."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attack.clients import ANSWER_SECONDS, PHASES, Outcome
from attack.link import Attack

#: The server is back at its level with as many files and tasks more than before the attack.
TOLERANCE = 10
#: Seconds in which it must be back: on the slowest route, peers that are gone are noticed after two pings (server.py).
SETTLE_SECONDS = 30


@dataclass
class Usage:
    """What a server uses at one moment.

    Attributes:
        memory: resident bytes.
        files: open file descriptors.
        tasks: tasks of its event loop; None if it did not answer.
        stats: what it counts.
    """

    memory: int = 0
    files: int = 0
    tasks: int | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)

    def is_at_level_of(self, other: Usage) -> bool:
        """Return whether it has not many more files and tasks than another."""
        if self.tasks is None or other.tasks is None:
            return False
        return self.files <= other.files + TOLERANCE and self.tasks <= other.tasks + TOLERANCE


@dataclass
class Result:
    """What an attack did to a server, and what the server did.

    Attributes:
        attacks: the attacks, more than one if they ran together.
        tally: by the name of the attack, what the attackers saw.
        outcome: what the clients saw.
        before: the server before the attack.
        after: the server when it was back at its level, or `SETTLE_SECONDS` after the attack.
        peak: the most resident bytes of the server.
        settled: seconds after the attack in which it was back at its level; None if it was not.
        ended: how the server ended during the run; None if it did not.
        log: what it logged.
    """

    attacks: Sequence[Attack]
    outcome: Outcome = field(default_factory=Outcome)
    tally: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    before: Usage = field(default_factory=Usage)
    after: Usage = field(default_factory=Usage)
    peak: int = 0
    settled: float | None = None
    ended: str | None = None
    log: str = ""

    @property
    def name(self) -> str:
        """The names of the attacks."""
        return " ".join(attack.name for attack in self.attacks)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of the values do not exceed; infinity without values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else math.inf


def faults(result: Result, *, latencies: bool, outcomes: bool = True) -> list[str]:
    """Return what was not as promised.

    Args:
        result: of an attack.
        latencies: whether to check them.
        outcomes: whether to check what the server did to the attackers.
    """
    outcome = result.outcome
    found = sorted(set(outcome.failures))
    if result.ended is not None:
        found.append(result.ended)
    if not all(outcome.latencies[phase] for phase in PHASES) or not outcome.handshakes:
        found.append("no client was served")
    if outcome.refused and not any(attack.refuses for attack in result.attacks):
        found.append(f"{outcome.refused} new clients were refused")
    latency = max(attack.latency for attack in result.attacks)
    if latencies and percentile(outcome.latencies["during"], 0.99) > latency:
        found.append(f"1 % of the echoes took longer than {1000 * latency:g} ms")
    grown, bound = result.peak - result.before.memory, sum(attack.memory for attack in result.attacks)
    if grown > bound:
        found.append(f"the server took {grown >> 20} MiB, more than {bound >> 20} MiB")
    if result.settled is None:
        found.append(
            f"{SETTLE_SECONDS} s after the attack the server had {result.after.files} files and {result.after.tasks} "
            f"tasks, before it {result.before.files} and {result.before.tasks}"
        )
    return found + (_wrong_outcomes(result) if outcomes else [])


def _wrong_outcomes(result: Result) -> list[str]:
    found = []
    for attack in result.attacks:
        seen = result.tally.get(attack.name, {})
        wrong = sorted(seen.keys() - attack.outcomes - {"reset"})
        found += [f"{attack.name}: {outcome} {seen[outcome]} times" for outcome in wrong]
        if "101" in attack.outcomes and not seen.get("101"):
            found.append(f"{attack.name}: no connection was accepted")
    if "Traceback" in result.log:
        found.append("the server logged " + result.log[result.log.index("Traceback") :][:2000])
    return found


def milliseconds(seconds: float) -> str:
    """Return a time for a table."""
    if seconds >= ANSWER_SECONDS:
        return "none" if math.isinf(seconds) else f"> {ANSWER_SECONDS} s"
    return f"{1000 * seconds:.1f}" if seconds < 0.01 else f"{1000 * seconds:.0f}"
