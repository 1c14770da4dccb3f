"""The lines in the logs of the servers that no fault of the run explains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

#: The time, the worker if it is one, the level, and the text.
_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ (?:worker \d+ )?(?P<level>[A-Z]+) (?P<text>.*)")
_FAILURE = re.compile(r"Traceback|Exception ignored|Fatal Python error|never awaited|never retrieved|was destroyed")


def unexplained(log: str, patterns: Iterable[str]) -> Iterator[str]:
    """Yield the lines of level ERROR and the tracebacks that no pattern matches.

    Args:
        log: the text of the log.
        patterns: regular expressions for the texts that the faults of the run explain.
    """
    explained = re.compile("|".join(patterns) or "(?!)")
    for line in log.splitlines():
        found = _LINE.match(line)
        is_error = found is not None and found["level"] in ("ERROR", "CRITICAL") and not explained.search(found["text"])
        if is_error or _FAILURE.search(line):
            yield line
