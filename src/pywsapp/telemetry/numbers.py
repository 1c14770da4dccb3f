"""The numbers of an App for the threads of OpenTelemetry, which read them when they export.

Only the thread of the event loop can read the numbers, so another thread asks it, and waits. All instruments of one
export read the same numbers.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio

from pywsapp._event_loop import CallSoon, thread_safe_call_soon
from pywsapp.exceptions import ConfigurationError
from pywsapp.stats import Stats

if TYPE_CHECKING:
    from pywsapp.app import App

#: Seconds for which a thread waits for the event loop. It exports the numbers from before if the loop is blocked.
WAIT_SECONDS = 1.0

_numbers: WeakKeyDictionary[App, Numbers] = WeakKeyDictionary()


class Numbers:
    """The numbers of one App in this process.

    Args:
        app: the App, which does not run yet.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._call_soon: CallSoon | None = None  # in the event loop, while the App runs
        self._thread: int | None = None  # of the event loop
        self._stats: Stats | None = None
        self._readers: set[str] = set()  # that have read these numbers
        self._has_ended = False  # the App: the last numbers are the newest ones
        self._is_claimed = False
        app.topics.measures = True
        app.on_startup(self._start)
        app.on_shutdown(self.read_last)

    def claim(self) -> None:
        """Note that the App is instrumented.

        Raises:
            ConfigurationError: it is already.
        """
        if self._is_claimed:
            raise ConfigurationError("this App is instrumented already")
        self._is_claimed = True

    def _start(self) -> None:
        self._app._mounting.check_not_mounted()
        self._stats, self._has_ended = None, False
        self._app.start_soon(self._answer)

    async def _answer(self) -> None:
        """Answer the other threads until the App has drained."""
        self._call_soon, self._thread = thread_safe_call_soon(), threading.get_ident()
        try:
            await anyio.sleep_forever()
        finally:
            self._call_soon = self._thread = None

    def read_last(self) -> None:
        """Read the numbers for the last export. The event loop calls this; it does not wait for other threads."""
        with self._lock:
            self._stats, self._has_ended = self._app.stats(), True

    def read(self, reader: str) -> Stats | None:
        """Return the numbers; None if there are none yet. Any thread can call this.

        Blocks until the event loop has answered, for a second at most.

        Args:
            reader: names the caller. Callers with different names get the same numbers; a caller that comes again gets
                new ones.
        """
        with self._lock:
            if self._has_ended or (self._stats is not None and reader not in self._readers):
                self._readers.add(reader)
                return self._stats
        found = self._ask()  # without the lock, which the event loop may need before it can answer
        with self._lock:
            if found is not None and not self._has_ended:
                self._stats = found
            self._readers = {reader}
            return self._stats

    def _ask(self) -> Stats | None:
        """Return new numbers; None if the event loop does not answer in time, or has ended."""
        call_soon = self._call_soon
        if call_soon is None:
            return None
        if self._thread == threading.get_ident():
            return self._app.stats()
        found: list[Stats] = []
        has_answered = threading.Event()

        def answer() -> None:
            found.append(self._app.stats())
            has_answered.set()

        with suppress(RuntimeError):  # the event loop has ended
            call_soon(answer)
            has_answered.wait(WAIT_SECONDS)
        return found[0] if found else None


def numbers_of(app: App) -> Numbers:
    """Return the numbers of an App.

    Raises:
        ConfigurationError: the App runs already.
    """
    found = _numbers.get(app)
    if found is None:
        app._runner.check_not_running()
        found = _numbers[app] = Numbers(app)
    return found
