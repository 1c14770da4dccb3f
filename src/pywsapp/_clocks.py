"""The clocks of what expires, as functions: default arguments that a virtual clock of a test can reach."""

from __future__ import annotations

import time


def wall_clock() -> float:
    """Return the seconds since 1970."""
    return time.time()


def monotonic_clock() -> float:
    """Return the seconds of a clock that never goes back."""
    return time.monotonic()
