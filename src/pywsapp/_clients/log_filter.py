"""Keeps client libraries from logging of our connections, with tracebacks, what the relay tells in one line.

Ours are known by the context in which they were made, for all tasks that a library starts for them have that. So what a
program does itself with the same library goes on to be logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ours: ContextVar[bool] = ContextVar("ours", default=False)


class _Filter(logging.Filter):
    def __init__(self, but: str | None) -> None:
        super().__init__()
        self._but = but

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get() or (self._but is not None and self._but in str(record.msg))


def hush(*loggers: str, but: str | None = None) -> None:
    """Let loggers say nothing of what is done `quietly`.

    Args:
        loggers: their names.
        but: what has this in it is still logged, for nobody else tells.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_Filter(but))


@contextmanager
def quietly() -> Iterator[None]:
    """Do something of which nothing is logged, and start tasks that are as quiet."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
