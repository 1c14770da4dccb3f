"""`PhpFileStore`: the sessions of a PHP site in files, for reading only. `php_redis` is for those in Redis."""

from __future__ import annotations

import os
import re
import stat
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from pywsapp.exceptions import ConfigurationError, SessionError
from pywsapp.sessions.base import Stored
from pywsapp.sessions.cookies import SessionCookie
from pywsapp.sessions.php_format import parse_php_session
from pywsapp.sessions.threads import in_store_thread
from pywsapp.sessions.website import WebsiteStore

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: The form of PHP's own ids (`session.sid_length`, `session.sid_bits_per_character`). None of these characters has a
#: meaning in a path.
_ID = re.compile(r"[0-9A-Za-z,-]{22,256}")
#: PHP's `session.gc_maxlifetime`, in seconds.
_LIFETIME = 1440
#: How often, and after how many seconds, a file is tried again that PHP is using.
_LOCK_TRIES, _LOCK_PAUSE = 5, 0.02


class PhpStore(WebsiteStore, ABC):
    """The base of the stores for PHP, which read and never write.

    Args:
        handler: PHP's `session.serialize_handler`, "php" or "php_serialize".
        options: those of `SessionStore`: `cookie` (`session.name`), `max_age` (`session.gc_maxlifetime`), `max_size`.

    Raises:
        ConfigurationError: an argument is not valid.
    """

    is_read_only = True

    def __init__(
        self,
        *,
        handler: str = "php",
        cookie: SessionCookie | str = "PHPSESSID",
        max_age: float = _LIFETIME,
        **options: Any,
    ) -> None:
        super().__init__(cookie=cookie, max_age=max_age, **options)
        if handler not in ("php", "php_serialize"):
            raise ConfigurationError(f"handler is 'php' or 'php_serialize', not {handler!r}")
        self._handler = handler

    @abstractmethod
    async def read(self, session_id: str) -> bytes | None:
        """Return the data of a session, at most one byte more than `max_size`; None if there is none."""

    async def load(self, token: str) -> Stored | None:
        """Return the session of an id."""
        if not _ID.fullmatch(token):
            return None
        data = await self.read(token)
        return None if data is None else Stored(parse_php_session(data, self._handler, max_size=self.max_size))

    async def save(self, token: str | None, stored: Stored) -> str:
        """Raise SessionError."""
        raise SessionError(f"{self.name} can only be read")

    async def delete(self, token: str) -> None:
        """Raise SessionError."""
        raise SessionError(f"{self.name} can only be read")


class PhpFileStore(PhpStore):
    """Reads the sessions that PHP keeps in files (`session.save_handler = files`).

    The process needs the right to read the files. PHP makes them readable for its own user only, so run both as one
    user.

    Args:
        path: PHP's `session.save_path`: a folder, or "2;/folder" for a folder with two levels of subfolders.
        options: those of `PhpStore`.

    Raises:
        ConfigurationError: an argument is not valid, or there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str] = "/var/lib/php/sessions", **options: Any) -> None:
        super().__init__(**options)
        levels, _, folder = f"0;{os.fspath(path)}".rpartition(";")
        depth = levels.removeprefix("0;").partition(";")[0]  # a mode can follow it
        if not depth.isdecimal() or not Path(folder).is_dir():
            raise ConfigurationError(f"{os.fspath(path)!r} is no folder of PHP's sessions: see session.save_path")
        self._folder, self._depth = Path(folder), int(depth)
        self.name = "the session store of PHP's files"

    async def read(self, session_id: str) -> bytes | None:
        """Return the content of a file."""
        return await in_store_thread(lambda: self._read(session_id))

    def _read(self, session_id: str) -> bytes | None:
        path = self._folder.joinpath(*session_id[: self._depth], f"sess_{session_id}")
        try:
            file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or self.now() - found.st_mtime > self.max_age:
                return None
            _lock(file)
            return os.read(file, self.max_size + 1)
        finally:
            os.close(file)


def _lock(file: int) -> None:
    """Wait a short time for a lock, so that PHP does not write while the file is read.

    PHP keeps its lock for a whole request, and writes at its end. After the time the file is read all the same.
    """
    if fcntl is None:
        return
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_PAUSE)
        else:
            return
