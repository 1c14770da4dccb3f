"""Results as lines for a terminal, and as tables for the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from attack.clients import PHASES
from attack.results import Result, milliseconds, percentile

HEADING = (
    f"{'attack':24} {'99 % / longest echo (ms)':^41} {'new':>6} {'lost':>4} {'memory (MiB)':^17} {'files':>11} "
    f"{'tasks':>11} {'back':>6}  what the server did\n"
    f"{'':24} {'before':^13} {'during':^13} {'after':^13} {'':6} {'':4} {'from':>5} {'peak':>5} {'to':>5}"
)
_BEGIN, _END = "<!-- attacks: begin -->", "<!-- attacks: end -->"


def echoes(result: Result, phase: str) -> str:
    """Return the times of the echoes of a phase: 99 %, and the longest."""
    values = result.outcome.latencies[phase]
    return f"{milliseconds(percentile(values, 0.99))} / {milliseconds(percentile(values, 1))}"


def reactions(result: Result) -> str:
    """Return what the server did, as the attackers saw it, what it counted, and how much it logged."""
    seen: Counter[str] = Counter()
    for tally in result.tally.values():
        seen.update(tally)
    parts = [f"{name}: {count:,}" for name, count in sorted(seen.items())]
    before, after = result.before.stats, result.after.stats
    counted = Counter({"evicted": after.get("evicted_connections", 0), **after.get("limits", {})})
    counted.subtract({"evicted": before.get("evicted_connections", 0), **before.get("limits", {})})
    counted["log lines"] = result.log.count("\n")
    parts += [f"{name}: {count:,}" for name, count in counted.items() if count > 0]
    return ", ".join(parts) or "-"


def back(result: Result) -> str:
    """Return when the server was back at its level."""
    return "no" if result.settled is None else f"{result.settled:.1f} s"


def row(result: Result) -> str:
    """Return the line of a result."""
    before, after = result.before, result.after
    memory = " ".join(f"{size >> 20:5}" for size in (before.memory, result.peak, after.memory))
    return (
        f"{result.name:24} {' '.join(f'{echoes(result, phase):^13}' for phase in PHASES)} "
        f"{milliseconds(percentile(result.outcome.handshakes, 0.99)):>6} {result.outcome.lost:4} {memory} "
        f"{before.files:5} {after.files:5} {before.tasks or 0:5} {after.tasks or 0:5} {back(result):>6}  "
        f"{reactions(result)}"
    )


def markdown(path: Path, results: Mapping[str, Sequence[Result]], seconds: float) -> None:
    """Write the tables: all numbers of the first server, and the most important ones of all servers beside each other.

    If the file has the marks of the tables, only what is between them changes.
    """
    first, *others = results
    parts = [_full_table(first, results[first], seconds)]
    if others:
        parts.append(_comparison(results))
    text = f"{_BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{_END}"
    old = path.read_text() if path.exists() else ""
    if _BEGIN in old and _END in old:
        text = old[: old.index(_BEGIN)] + text + old[old.index(_END) + len(_END) :]
    path.write_text(text if text.endswith("\n") else text + "\n")


def _full_table(name: str, results: Sequence[Result], seconds: float) -> str:
    lines = [
        f"{name}, {seconds:g} seconds for each attack:",
        "",
        "| attack | attackers | what they do | what the server did | before (ms) | during (ms) | after (ms) | lost | "
        "memory (MiB) | files and tasks |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        before, after = result.before, result.after
        attack = result.attacks[0]
        cells = [
            attack.name,
            f"{attack.attackers:,}",
            attack.text,
            reactions(result),
            *[echoes(result, phase) for phase in PHASES],
            str(result.outcome.lost),
            f"{before.memory >> 20}, {result.peak >> 20}, {after.memory >> 20}",
            f"back in {back(result)}" if result.settled is not None else "not back",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _comparison(results: Mapping[str, Sequence[Result]]) -> str:
    by_name = {server: {result.name: result for result in values} for server, values in results.items()}
    lines = [
        "| attack | " + " | ".join(results) + " |",
        "|---" * (len(results) + 1) + "|",
    ]
    common = [name for name in next(iter(by_name.values())) if all(name in found for found in by_name.values())]
    lines += ["| " + " | ".join([name, *[_cell(found[name]) for found in by_name.values()]]) + " |" for name in common]
    return "\n".join(lines)


def _cell(result: Result) -> str:
    lost = f", {result.outcome.lost} lost" if result.outcome.lost else ""
    rest = "" if result.settled is not None or result.ended else ", not back"
    ended = f", {result.ended.removeprefix('the server ')}" if result.ended else ""
    return f"{echoes(result, 'during')}, {result.peak >> 20} MiB{lost}{rest}{ended}"
