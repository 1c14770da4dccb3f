"""The sent and received messages of one connection of a test, as text for a failure."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterable

#: The last lines are kept.
MAX_LINES = 30
#: Characters of a message that a line shows.
MAX_CHARACTERS = 200
#: Lines of the traceback of a handler that a failure shows.
_MAX_TRACEBACK = 40


class Transcript:
    """The messages of one connection in order; the oldest ones are dropped.

    Args:
        path: the path of the connection.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._number = 0

    def sent(self, message: str | bytes) -> None:
        """Note a message that the test has sent."""
        self.note(f"-> {shown(message)}")

    def received(self, message: str | bytes) -> None:
        """Note a message that the App has sent."""
        self.note(f"<- {shown(message)}")

    def note(self, line: str) -> None:
        """Note another event."""
        self._lines.append(line)
        self._number += 1

    def __str__(self) -> str:
        lines = [f"the connection to {self._path} so far (-> sent by the test, <- received):"]
        if self._number > len(self._lines):
            lines.append(f"    ({self._number - len(self._lines)} earlier lines)")
        lines += [f"    {line}" for line in self._lines or ("nothing",)]
        return "\n".join(lines)


def shown(message: str | bytes) -> str:
    """Return a message as Python writes it, cut if it is long."""
    text = repr(message[:MAX_CHARACTERS])
    return text if len(message) <= MAX_CHARACTERS else f"{text}... ({len(message):,} in all)"


def failure_text(problem: str, transcript: object, errors: Iterable[BaseException]) -> str:
    """Return the message of a failed expectation: what is wrong, what happened, and what handlers raised."""
    parts = [problem, str(transcript)]
    for exc in errors:
        lines = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).splitlines()
        if len(lines) > _MAX_TRACEBACK:
            lines[:-_MAX_TRACEBACK] = ["..."]
        parts.append(
            "\n".join(["an exception of the App, which may be the reason:", *[f"    {line}" for line in lines]])
        )
    return "\n".join(parts)
