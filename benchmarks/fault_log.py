"""The lines in the logs of the servers that no fault of the run explains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

#: The time, the worker if it is one, the level, and the text.
_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ (?:worker \d+ )?(?P<level>[A-Z]+) (?P<text>.*)")
_FAILURE = re.compile(
    r"Traceback|Exception ignored|Fatal Python error|never awaited|never retrieved|was destroyed|Warning: "
)


def unexplained(log: str, patterns: Iterable[str], *, levels: Sequence[str] = ("ERROR", "CRITICAL")) -> Iterator[str]:
    """Yield the lines of some levels that no pattern matches, and all tracebacks and warnings of Python.

    Args:
        log: the text of the log.
        patterns: regular expressions for the texts that the faults of the run explain.
        levels: the levels that need an explanation.
    """
    explained = re.compile("|".join(patterns) or "(?!)")
    for line in log.splitlines():
        found = _LINE.match(line)
        is_error = found is not None and found["level"] in levels and not explained.search(found["text"])
        if is_error or _FAILURE.search(line):
            yield line
