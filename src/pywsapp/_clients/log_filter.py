"""Filters the log records of client libraries for connections that pywsapp makes.

pywsapp reports the loss of a connection in one line of its own; the libraries would add tracebacks. The filter
recognises our connections by the context in which they were made, because every task that a library starts for them
inherits it. The program's own use of the same library is logged as before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_in_filtered_block: ContextVar[bool] = ContextVar("in_filtered_block", default=False)


class _Filter(logging.Filter):
    def __init__(self, allowed_text: str | None) -> None:
        super().__init__()
        self._allowed_text = allowed_text

    def filter(self, record: logging.LogRecord) -> bool:
        if not _in_filtered_block.get():
            return True
        return self._allowed_text is not None and self._allowed_text in str(record.msg)


def filter_logs(*loggers: str, allowed_text: str | None = None) -> None:
    """Drop the records that loggers get from within `logs_filtered`.

    Args:
        loggers: the names of the loggers.
        allowed_text: records whose message has this text are logged anyway.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_Filter(allowed_text))


@contextmanager
def logs_filtered() -> Iterator[None]:
    """Apply the filter to the block, and to every task that is started in it."""
    token = _in_filtered_block.set(True)
    try:
        yield
    finally:
        _in_filtered_block.reset(token)
