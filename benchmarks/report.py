#!/usr/bin/env python3
"""Write the results of a session as Markdown tables, and draw its chart.

report.py results.json
report.py results.json --out results.md --chart performance.svg
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

# Started as a program, only this file's folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import budgets, chart
from benchmarks.results import Results
from benchmarks.scenarios import BY_NAME, METRICS, Run, metric_key

REFERENCES = (budgets.WEBSOCKETS, budgets.PICOWS)
NONE = "—"
NOISY_PERCENT = 5  # load of other processes, in per cent of one processor, above which a run is unreliable
DAGGER = "†"


def number(value: float) -> str:
    """Format a figure with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *map(line, rows), ""]


def cell(results: Results, contestant: str, metric: str) -> str:
    """Format the median of a figure, its spread and its ratios to the references; or the reason why there is none."""
    scenario, _ = METRICS[metric]
    runs = results.runs_of(contestant, scenario.name)
    spread = results.spread(contestant, metric)
    if spread is None:
        failed = any("failure" in run for run in runs)
        return "failed" if failed else "no" if runs else NONE
    ratios = [results.ratio(contestant, [reference], metric) for reference in REFERENCES]
    beside = " / ".join(f"{ratio.median:.2f}" if ratio else NONE for ratio in ratios)
    mark = DAGGER if "takeover" not in scenario.name and any(run.get("server_takeover") for run in runs) else ""
    return f"{number(spread.median)}{mark} ±{spread.percent:.0f} % ({beside})"


def section_tables(results: Results) -> list[str]:
    """Return a table for each section, with a column for each figure."""
    sections: dict[str, list[str]] = {}
    for name in results.scenarios:
        scenario = BY_NAME[name]
        sections.setdefault(scenario.section, []).extend(metric_key(scenario, metric) for metric in scenario.metrics)
    lines = []
    for section, metrics in sections.items():
        less = METRICS[metrics[0]][1].less_is_better
        lines += [f"### {section} ({'less' if less else 'more'} is better)", ""]
        rows = [[name, *(cell(results, name, metric) for metric in metrics)] for name in results.contestants]
        shown = [row for row in rows if any(text != NONE for text in row[1:])]
        lines += table(["server", *(METRICS[metric][1].title for metric in metrics)], shown)
    return lines


def budget_table(results: Results) -> list[str]:
    """Return the table of all budgets, including those that were not measured."""
    rows = []
    for budget in budgets.ALL:
        spread = budget.measured(results)
        sign = "≥" if budget.references else "≤"
        row = [budget.what, budget.contestant, budget.reference, f"{sign} {budget.bound:g}"]
        if spread is None:
            rows.append([*row, "not measured", NONE, NONE])
        else:
            between = f"{number(spread.low)} … {number(spread.high)}"
            rows.append([*row, number(spread.median), between, "yes" if budget.is_met(spread) else "NO"])
    return table(["what", "contestant", "beside", "budget", "median", "min … max", "met"], rows)


def _share(runs: Sequence[Run], key: str) -> str:
    values = [run[key] for run in runs if key in run]
    return f"{statistics.median(values):.0f}" if values else NONE


def processor_table(results: Results) -> list[str]:
    """Return the processor use of server and load; a rate is limited by the server only if the server was busier."""
    names = [name for name in results.scenarios if "--mode idle" not in BY_NAME[name].options]

    def share(contestant: str, scenario: str) -> str:
        runs = results.runs_of(contestant, scenario)
        return f"{_share(runs, 'server_cpu_pct')} / {_share(runs, 'cpu_pct')}" if runs else NONE

    rows = [[contestant, *(share(contestant, name) for name in names)] for contestant in results.contestants]
    return table(["server / load, %", *names], rows) if names else []


def foreign_line(results: Results) -> str:
    foreign = results.foreign()
    if not foreign:
        return "Every run failed."
    noisy = sum(percent > NOISY_PERCENT for percent in foreign)
    return (
        f"Other processes used {statistics.median(foreign):.1f} % of a processor in the median run and "
        f"{max(foreign):.0f} % in the worst; more than {NOISY_PERCENT} % in {noisy} of {len(foreign)} runs."
    )


def failures(results: Results) -> list[str]:
    """Return each failure once, with the end of the server's log."""
    lines = {}
    for contestant, of_contestant in results.runs.items():
        for scenario, runs in of_contestant.items():
            for run in runs:
                if "failure" in run:
                    log = f" (log: {run['log']})" if run.get("log") else ""
                    lines[contestant, scenario] = f"- {contestant}, {scenario}: {run['failure']}{log}"
    return ["### Failures", "", *lines.values(), ""] if lines else []


def facts_lines(results: Results) -> list[str]:
    facts, settings = results.facts, results.settings
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    shown = {name: value for name, value in facts.items() if name != "versions" and isinstance(value, str) and value}
    return [
        *(f"- {name}: {value}" for name, value in shown.items()),
        f"- packages: {versions}",
        f"- rounds: {settings.get('rounds')}, each in another order; {settings.get('seconds'):g} s for a scenario",
        "",
    ]


def markdown(results: Results) -> str:
    """Return the whole report."""
    daggers = any(
        run.get("server_takeover") and "takeover" not in scenario
        for of_contestant in results.runs.values()
        for scenario, runs in of_contestant.items()
        for run in runs
    )
    lines = [
        *facts_lines(results),
        f"Each cell: the median of the rounds, half its spread, and in brackets the median ratio to "
        f"{' / '.join(REFERENCES)} in the same round.",
        "",
        *section_tables(results),
        *([f"{DAGGER} The server kept its compression window although it was asked not to.", ""] if daggers else []),
        "### Budgets",
        "",
        *budget_table(results),
        "### Processor use",
        "",
        *processor_table(results),
        foreign_line(results),
        "",
        *failures(results),
        *(f"- {note}" for note in results.facts.get("notes", [])),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the JSON file of run.py")
    parser.add_argument("--out", type=Path, help="write the tables to this file (default: to the terminal)")
    parser.add_argument("--chart", type=Path, help="draw the chart into this SVG file")
    args = parser.parse_args()
    try:
        results = Results.load(args.results)
    except (OSError, ValueError) as exc:
        print(f"report.py: {exc}", file=sys.stderr)
        return 2
    if args.out is None:
        print(markdown(results), end="")
    else:
        args.out.write_text(markdown(results))
    if args.chart is not None:
        args.chart.write_text(chart.draw(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
