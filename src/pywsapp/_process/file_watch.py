"""Watch the Python files of a program in development, by looking at their times again and again.

Other ways need a library, and miss changes in containers and network folders. A look at 5,000 files takes 25 ms, in a
thread, and the pause is long enough that looking takes at most 5 % of a core.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import anyio
import anyio.to_thread

from pywsapp._log_fields import log_fields

logger = logging.getLogger("pywsapp")

#: Seconds between two looks, and until a further look finds no other change: editors and git write several files.
_INTERVAL = 0.4
_QUIET = 0.1
#: The pause is at least so many times as long as the look before it.
_PAUSE_FACTOR = 20
#: Files that are watched at most.
_MAX_FILES = 10_000
_NOT_WATCHED = {"__pycache__", "node_modules", "site-packages"}

#: For each file when it was changed, in nanoseconds, and its size.
Versions = dict[str, tuple[int, int]]


class FileWatch:
    """Watches the `.py` files below some directories.

    Hidden directories, virtual environments, also those of conda, `node_modules` and `__pycache__` are left out.

    Args:
        directories: the directories.
    """

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = [os.path.abspath(directory) for directory in directories]
        self._pause = _INTERVAL
        self._seen = self._look()
        if len(self._seen) >= _MAX_FILES:
            logger.warning(
                "only the first %d files are watched; name the directories of your program with --reload-dir",
                _MAX_FILES,
                extra=log_fields("files.too_many", limit=_MAX_FILES),
            )

    async def follow(self, handle: Callable[[], None]) -> None:
        """Call a function after each change, until cancelled."""
        while True:
            await self.wait()
            handle()

    async def wait(self) -> None:
        """Wait until files have changed since the last call, and no further ones change."""
        while not await self._has_changed():  # noqa: ASYNC110 - files do not report that they have changed
            await anyio.sleep(self._pause)
        while await self._has_changed():  # noqa: ASYNC110
            await anyio.sleep(_QUIET)

    async def _has_changed(self) -> bool:
        return await anyio.to_thread.run_sync(self._look_again)

    def _look_again(self) -> bool:
        now = self._look()
        changed = sorted(path for path in now.keys() | self._seen.keys() if now.get(path) != self._seen.get(path))
        self._seen = now
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            file = os.path.relpath(changed[0])
            logger.info("%s%s changed", file, more, extra=log_fields("files.changed", file=file, count=len(changed)))
        return bool(changed)

    def _look(self) -> Versions:
        began = time.monotonic()
        found: Versions = {}
        for path in self._paths():
            with suppress(OSError):  # it was removed meanwhile
                state = os.stat(path)
                found[path] = state.st_mtime_ns, state.st_size
            if len(found) >= _MAX_FILES:
                break
        self._pause = max(_INTERVAL, _PAUSE_FACTOR * (time.monotonic() - began))
        return found

    def _paths(self) -> Iterator[str]:
        for directory in self._directories:
            for folder, folders, files in os.walk(directory):
                if "pyvenv.cfg" in files or "conda-meta" in folders:
                    folders.clear()
                    continue
                folders[:] = sorted(name for name in folders if name not in _NOT_WATCHED and not name.startswith("."))
                yield from (os.path.join(folder, name) for name in files if name.endswith(".py"))
