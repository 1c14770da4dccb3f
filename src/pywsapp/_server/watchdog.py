"""Detect handlers that block the event loop, and log their names.

A task in the event loop stores the time every 50 ms. A thread checks the stored time; if the task has been late for
100 ms, the thread reads the stack of the event loop's thread. It starts at the innermost frame and searches for code of
the application that pywsapp has called. Nothing is measured for each message, so a message costs nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import CodeType, FrameType

import anyio

from pywsapp._hooks import HOOKS
from pywsapp._log_fields import log_fields
from pywsapp.component import MessageComponent

logger = logging.getLogger("pywsapp")

#: Packages that contain no handlers: the standard library, the event loops and the dependencies of pywsapp.
_LIBRARIES = sys.stdlib_module_names | {"anyio", "outcome", "sniffio", "trio", "uvloop", "wsproto"}

#: Modules that do not exist: Python makes the code of named tuples in them.
_NAMED_TUPLE = "namedtuple_"


class Watchdog:
    """Log a warning when one step of a handler takes too long.

    Args:
        limit: seconds that a step can take.
        repeat_after: seconds until the log can name the same handler again.
    """

    def __init__(self, limit: float = 0.1, repeat_after: float = 60.0) -> None:
        self._limit = limit
        self._repeat_after = repeat_after
        self._stored_at = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._stop = threading.Event()
        self._warned: dict[CodeType, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        thread = threading.Thread(target=self._watch, name="pywsapp watchdog", daemon=True)
        self._stored_at = time.monotonic()
        thread.start()
        try:
            while True:
                await anyio.sleep(self._limit / 2)
                self._stored_at = time.monotonic()
        finally:
            self._stop.set()

    def _watch(self) -> None:
        reported = 0.0
        while not self._stop.wait(self._limit / 2):
            stored_at = self._stored_at
            if stored_at == reported or time.monotonic() - stored_at < self._limit * 1.5:
                continue
            frame = _handler(sys._current_frames().get(self._loop_thread))
            if frame is not None:
                reported = stored_at
                self._warn(frame)

    def _warn(self, frame: FrameType) -> None:
        now = time.monotonic()
        code = frame.f_code
        if now - self._warned.get(code, -self._repeat_after) < self._repeat_after:
            return
        self._warned[code] = now
        logger.warning(
            "%s (%s:%d) has been blocking the event loop for more than %d ms, and with it every other connection; "
            "mark it with @in_thread, or make it an async def that awaits",
            getattr(code, "co_qualname", code.co_name),
            code.co_filename,
            frame.f_lineno,
            self._limit * 1000,
            extra=log_fields(
                "loop.blocked",
                handler=getattr(code, "co_qualname", code.co_name),
                file=code.co_filename,
                line=frame.f_lineno,
                limit_seconds=self._limit,
            ),
        )


def _handler(frame: FrameType | None) -> FrameType | None:
    """Return the frame of a component's handler, or of the application's code that pywsapp called, or None.

    Extension modules have no frames, so a search for pywsapp's frames alone would not find every handler.

    Args:
        frame: the innermost frame of the event loop's thread.
    """
    application = None
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("pywsapp.") and not module.startswith("pywsapp._demo"):
            if application is not None:
                return application
        elif module.partition(".")[0] not in _LIBRARIES and not module.startswith(_NAMED_TUPLE):
            application = frame
            if frame.f_code.co_name in HOOKS and isinstance(_first_argument(frame), MessageComponent):
                return frame
        frame = frame.f_back
    return None


def _first_argument(frame: FrameType) -> object:
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return frame.f_locals.get(names[0]) if names else None
