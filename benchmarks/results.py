"""The results of a session: every single run, and the figures and ratios of all runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scenarios import METRICS, Run


@dataclass(frozen=True)
class Spread:
    """A figure in all rounds: the median, the lowest and the highest value."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some values; None if there are no values."""
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def percent(self) -> float:
        """Half the difference of the highest and the lowest value, in per cent of the median."""
        return 50 * (self.high - self.low) / self.median if self.median else 0.0


@dataclass
class Results:
    """All results of a session, as they are in the JSON file.

    Args:
        facts: the machine, the versions, the commit, the date.
        settings: rounds, seconds and other options.
        contestants: the names of the contestants, in the order of the tables.
        scenarios: the names of the scenarios, in the order of the tables.
        runs: for each contestant and scenario, the runs, each with the number of its round.
    """

    facts: dict[str, Any]
    settings: dict[str, Any]
    contestants: list[str]
    scenarios: list[str]
    runs: dict[str, dict[str, list[Run]]] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read a file that `save` wrote.

        Raises:
            ValueError: the file has other contents.
        """
        try:
            return cls(**json.loads(file.read_text()))
        except TypeError as exc:
            raise ValueError(f"{file} contains no results: {exc}") from None

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def add(self, contestant: str, scenario: str, run: Run) -> None:
        self.runs.setdefault(contestant, {}).setdefault(scenario, []).append(run)

    def runs_of(self, contestant: str, scenario: str) -> list[Run]:
        return self.runs.get(contestant, {}).get(scenario, [])

    def by_round(self, contestant: str, metric: str) -> dict[int, float]:
        """Return a figure for each round that has one."""
        scenario, reading = METRICS[metric]
        values = {run["round"]: reading.of(run) for run in self.runs_of(contestant, scenario.name)}
        return {number: value for number, value in values.items() if value is not None}

    def spread(self, contestant: str, metric: str) -> Spread | None:
        return Spread.of(list(self.by_round(contestant, metric).values()))

    def ratio(self, contestant: str, references: Sequence[str], metric: str) -> Spread | None:
        """Compare a figure with that of the best reference of each round; in a round, both are only minutes apart."""
        _, reading = METRICS[metric]
        best = min if reading.less_is_better else max
        others = [self.by_round(reference, metric) for reference in references]
        ratios = []
        for number, value in self.by_round(contestant, metric).items():
            beside = [values[number] for values in others if number in values]
            if beside and best(beside) > 0:
                ratios.append(value / best(beside))
        return Spread.of(ratios)

    def foreign(self) -> list[float]:
        """Return the processor time of other processes during each run, in per cent of one processor."""
        return [
            run["foreign_cpu_pct"]
            for of_contestant in self.runs.values()
            for runs in of_contestant.values()
            for run in runs
            if "foreign_cpu_pct" in run
        ]
