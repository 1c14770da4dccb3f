"""Names the handler that blocks the event loop.

A task in the loop notes the time every 50 ms; a thread beside it looks whether the note is fresh. If it is not for
100 ms, the thread reads the loop thread's stack, and looks from its inner end for code of the person's that was called
by ours. Nothing is measured per message, so it costs nothing per message.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import CodeType, FrameType

import anyio

from pywsapp._hooks import HOOKS
from pywsapp.component import MessageComponent

logger = logging.getLogger("pywsapp")

#: Where no handler is: the standard library, and what event loops and this package are built on.
_NO_HANDLERS = sys.stdlib_module_names | {"anyio", "outcome", "sniffio", "trio", "uvloop", "wsproto"}


class Watchdog:
    """Warns when one step of a handler takes longer than it should.

    Args:
        limit: seconds.
        repeat_after: seconds for which the same handler is not named again.
    """

    def __init__(self, limit: float = 0.1, repeat_after: float = 60.0) -> None:
        self._limit = limit
        self._repeat_after = repeat_after
        self._beat = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._stop = threading.Event()
        self._warned: dict[CodeType, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        thread = threading.Thread(target=self._watch, name="pywsapp watchdog", daemon=True)
        self._beat = time.monotonic()
        thread.start()
        try:
            while True:
                await anyio.sleep(self._limit / 2)
                self._beat = time.monotonic()
        finally:
            self._stop.set()

    def _watch(self) -> None:
        reported = 0.0
        while not self._stop.wait(self._limit / 2):
            beat = self._beat
            if beat == reported or time.monotonic() - beat < self._limit * 1.5:
                continue
            frame = _handler(sys._current_frames().get(self._loop_thread))
            if frame is not None:
                reported = beat
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
        )


def _handler(frame: FrameType | None) -> FrameType | None:
    """Find, from the inner end of a stack, a component's handler, or what code of ours has called of the person's.

    The compiled twin leaves no frames, so a handler cannot only be known by who called it.
    """
    theirs = None
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("pywsapp.") and not module.startswith("pywsapp._demo"):
            if theirs is not None:
                return theirs
        elif module.partition(".")[0] not in _NO_HANDLERS:
            theirs = frame
            if frame.f_code.co_name in HOOKS and isinstance(_first_argument(frame), MessageComponent):
                return frame
        frame = frame.f_back
    return None


def _first_argument(frame: FrameType) -> object:
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return frame.f_locals.get(names[0]) if names else None
