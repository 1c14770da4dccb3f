"""Exceptions of an App that only a log would show in production, for the test that runs it."""

from __future__ import annotations

import logging
import sys
import traceback


class AppErrors(logging.Handler):
    """Collects the exceptions that pywsapp logs as errors while a test runs.

    These are the exceptions of handlers that `on_error` does not handle, and those of hooks, timers, background tasks
    and `on_broadcast` listeners. An exception that an `on_error` of the program handles is not logged.

    Attributes:
        found: the exceptions that no call has raised yet.
    """

    _active: list[AppErrors] = []  # noqa: RUF012 - shared on purpose: two clients of a test see the same exception

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def begin(self) -> None:
        """Collect from now on."""
        logging.getLogger("pywsapp").addHandler(self)
        self._active.append(self)

    def end(self) -> None:
        """Collect no more."""
        logging.getLogger("pywsapp").removeHandler(self)
        if self in self._active:
            self._active.remove(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception of a log record."""
        exc = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if exc is not None and all(exc is not other for other in self.found):
            self.found.append(exc)

    def take(self) -> BaseException | None:
        """Remove and return the first exception, for the caller to raise; None if there is none."""
        if not self.found:
            return None
        exc = self.found[0]
        for errors in (self, *self._active):
            errors.found = [other for other in errors.found if other is not exc]
        return exc


def attach(failure: BaseException, errors: list[BaseException]) -> None:
    """Show the exceptions of an App with the failure of its test, which may be their consequence."""
    shown = [exc for exc in errors if exc is not failure]
    if not shown:
        return
    if sys.version_info >= (3, 11):
        for exc in shown:
            text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
            failure.add_note(f"the App has logged this exception meanwhile:\n{text}")
    elif failure.__cause__ is None and failure.__context__ is None:
        failure.__cause__ = shown[0]
