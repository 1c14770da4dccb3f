"""The outcomes of a run of the suite, compared with the expected ones.

expected.json lists the cases with an expected outcome other than OK: those of all peers, and under the role of a peer
those that it can have in place of OK. In all other cases the behaviour and the closing behaviour must be OK. NON-STRICT
and UNIMPLEMENTED (an extension that was not negotiated) count as failures, with one exception: an ASGI application gets
a message in a task of its own, and cannot answer it when a malformed frame follows at once.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import CannotRun

EXPECTED = Path(__file__).parent / "expected.json"
MISSING = "MISSING"  # a selected case without a result of the suite


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case: the suite's words for the messages and for the closing."""

    behaviour: str
    close: str
    seconds: float
    reason: str

    @property
    def verdict(self) -> tuple[str, str]:
        return self.behaviour, self.close


@dataclass(frozen=True)
class Report:
    """A finished run: the outcome of each selected case."""

    agent: str
    suite: str
    wall: float
    outcomes: dict[str, Outcome]

    @classmethod
    def load(cls, outdir: Path) -> Report:
        """Read the report directory that the suite and the runner wrote.

        Raises:
            CannotRun: the suite wrote no report.
        """
        try:
            run = json.loads((outdir / "run.json").read_text())
            results = json.loads((outdir / "index.json").read_text())[run["agent"]]
        except (OSError, KeyError) as exc:
            raise CannotRun(f"no report was written, see {outdir / 'wstest.log'}") from exc
        outcomes = {case: _outcome(outdir, results.get(case)) for case in sorted(run["cases"], key=_case_key)}
        return cls(run["agent"], run["suite"], run["wall"], outcomes)

    def unexpected(self) -> dict[str, Outcome]:
        """Return the cases with an unexpected outcome."""
        listed = json.loads(EXPECTED.read_text())
        own: dict[str, Any] = next((cases for role, cases in listed.items() if self.agent.startswith(role)), {})
        return {
            case: outcome
            for case, outcome in self.outcomes.items()
            if list(outcome.verdict) not in (listed.get(case, ["OK", "OK"]), own.get(case))
        }

    def write(self) -> None:
        """Print the outcomes, the slowest cases, and each unexpected outcome with the suite's reason."""
        print(f"agent       {self.agent} ({self.suite})")
        print(f"cases       {len(self.outcomes)} in {self.wall:.1f} s")
        print(f"behaviour   {_tally(outcome.behaviour for outcome in self.outcomes.values())}")
        print(f"closing     {_tally(outcome.close for outcome in self.outcomes.values())}")
        slowest = sorted(self.outcomes, key=lambda case: -self.outcomes[case].seconds)[:8]
        print("slowest     " + "  ".join(f"{case} {self.outcomes[case].seconds:.2f}s" for case in slowest))
        unexpected = self.unexpected()
        print(f"unexpected  {len(unexpected)}")
        for case, outcome in unexpected.items():
            print(f"  {case:<8} {' / '.join(outcome.verdict)}: {outcome.reason}")


def _outcome(outdir: Path, result: dict[str, Any] | None) -> Outcome:
    if result is None:
        return Outcome(MISSING, MISSING, 0, "the suite wrote no result")
    try:
        detail = json.loads((outdir / result["reportfile"]).read_text(errors="replace"))
    except (OSError, ValueError):
        detail = {}
    reason = "; ".join(filter(None, (detail.get("result"), detail.get("resultClose"))))
    return Outcome(result["behavior"], result["behaviorClose"], result["duration"] / 1000, reason)


def _case_key(case: str) -> tuple[int, ...]:
    return tuple(map(int, case.split(".")))


def _tally(words: Any) -> str:
    return "  ".join(f"{word} {count}" for word, count in Counter(words).most_common())
