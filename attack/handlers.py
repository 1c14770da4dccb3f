"""Messages for handlers that never return, or that occupy a thread."""

from __future__ import annotations

from attack.floods import flood
from attack.link import Attack
from attack.wire import TEXT, frame

_TINY = frame(TEXT, b"x")

ATTACKS = [
    Attack(
        "hanging-handlers",
        50,
        flood("/hang", _TINY),
        "texts for an `async def` handler that never returns",
        frozenset({"101", "close 1011"}),
    ),
    Attack(
        "blocking-threads",
        50,
        flood("/thread", _TINY),
        "texts for a handler that occupies a thread for 50 ms",
        frozenset({"101"}),
    ),
]
