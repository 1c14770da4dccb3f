"""Names the handler that blocks the event loop.

A task in the loop notes the time every 50 ms; a thread beside it looks whether the note is fresh. If it is not for
100 ms, the thread reads the loop thread's stack and finds the person's function that pywsapp called last. Nothing is
measured per message, so it costs nothing per message.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from types import FrameType

import anyio

logger = logging.getLogger("pywsapp")

_LOOPS = frozenset(
    {"anyio", "asyncio", "trio", "uvloop", "selectors", "concurrent", "threading", "outcome", "contextlib"}
)
_REPEAT_AFTER = 60.0


class Watchdog:
    """Warns when one step of a handler takes longer than `limit` seconds."""

    def __init__(self, limit: float = 0.1) -> None:
        self._limit = limit
        self._beat = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._stop = threading.Event()
        self._warned: dict[str, float] = {}

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
            place = self._place()
            if place is not None:
                reported = beat
                self._warn(place)

    def _warn(self, place: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(place, -_REPEAT_AFTER) < _REPEAT_AFTER:
            return
        self._warned[place] = now
        logger.warning(
            "%s has been blocking the event loop for more than %d ms, and with it every other connection; "
            "mark it with @in_thread, or make it an async def that awaits",
            place,
            self._limit * 1000,
        )

    def _place(self) -> str | None:
        frame = sys._current_frames().get(self._loop_thread)
        while frame is not None:
            caller = frame.f_back
            if caller is not None and not _ours(frame) and _ours(caller) and _room(frame) not in _LOOPS:
                code = frame.f_code
                name = getattr(code, "co_qualname", code.co_name)
                return f"{name} ({code.co_filename}:{frame.f_lineno})"
            frame = caller
        return None


def _room(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _ours(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.startswith("pywsapp.") and not name.startswith("pywsapp.demo")
