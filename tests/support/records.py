"""All that a log handler could write of a record, to look for secrets in it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pywsapp.logs import JsonFormatter


def texts_of(exc: BaseException | None) -> Iterator[str]:
    """Return the texts of an exception and of those behind it, as error trackers show them."""
    seen = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield f"{exc!r} {exc} {exc.args!r}"
        yield "".join(traceback.format_exception(exc))
        exc = exc.__cause__ or exc.__context__


class Records(logging.Handler):
    """Keeps the text of all records, and of all that they carry.

    Attributes:
        texts: the texts, one for each record.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self._formatter = JsonFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the texts of a record as they are at this time."""
        exc = record.exc_info[1] if record.exc_info else None
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        exceptions = [argument for argument in arguments if isinstance(argument, BaseException)]
        shown = [record.getMessage(), self._formatter.format(record), repr(vars(record))]
        self.texts.append("\n".join([*shown, *texts_of(exc), *(t for e in exceptions for t in texts_of(e))]))

    @property
    def text(self) -> str:
        """All texts together."""
        return "\n".join(self.texts)


@contextmanager
def recording() -> Iterator[Records]:
    """Keep the records of all loggers at all levels."""
    handler, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
