"""Exceptions that a handler must not swallow: those that end the program, and the cancellation of the task."""

from __future__ import annotations

import math

import anyio


def raise_if_exiting(exc: BaseException) -> None:
    """Raise `exc` again if it ends the whole program."""
    if isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise exc


def raise_if_cancelled(exc: BaseException) -> None:
    """Raise `exc` again if it ends the whole program, or cancels the task that calls this."""
    raise_if_exiting(exc)
    if not isinstance(exc, Exception) and anyio.current_effective_deadline() == -math.inf:
        raise exc
