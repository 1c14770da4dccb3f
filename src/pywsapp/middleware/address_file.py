"""A file of IP addresses and networks that is read again when it changes."""

from __future__ import annotations

import logging
import os
import time

import anyio.to_thread

from pywsapp._addresses import Networks
from pywsapp._log_fields import log_fields
from pywsapp.exceptions import ConfigurationError

logger = logging.getLogger("pywsapp")

#: Bytes of a file; a list of a million addresses is smaller.
MAX_SIZE = 64 * 1024 * 1024
#: Seconds between two looks at the file's time and size.
CHECK_SECONDS = 1.0

FilePath = str | os.PathLike[str]


class AddressFile:
    """The networks in a file: one address or network on each line; `#` begins a comment.

    Args:
        path: the file, in UTF-8.

    Attributes:
        networks: the content of the file when it was valid last.

    Raises:
        ConfigurationError: the file cannot be read, is larger than 64 MiB, or has a line that is no address or network.
    """

    def __init__(self, path: FilePath) -> None:
        self._path = path
        self._read_at = time.monotonic()
        self._is_reading = False
        self._version = self._stat()
        self.networks = self._read()

    def is_due(self) -> bool:
        """Return whether the file has changed and should be read again; looks at it once a second at most."""
        now = time.monotonic()
        if self._is_reading or now - self._read_at < CHECK_SECONDS:
            return False
        self._read_at = now
        return self._stat() != self._version

    async def reload(self) -> None:
        """Read the file in a thread; if it has a mistake, log that and keep the networks from before."""
        self._is_reading = True
        try:
            self._version = self._stat()
            self.networks = await anyio.to_thread.run_sync(self._read)
            logger.info(
                "read %d addresses and networks from %s",
                len(self.networks),
                os.fspath(self._path),
                extra=log_fields("addresses.loaded", file=os.fspath(self._path), count=len(self.networks)),
            )
        except ConfigurationError as exc:
            logger.error(
                "%s; the addresses and networks from before stay in use",
                exc,
                extra=log_fields("addresses.not_loaded", file=os.fspath(self._path), error=str(exc)),
            )
        finally:
            self._is_reading = False

    def _stat(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; None if it does not exist."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Networks:
        name = os.fspath(self._path)
        try:
            with open(self._path, "rb") as file:
                content = file.read(MAX_SIZE + 1)
        except OSError as exc:
            raise ConfigurationError(f"the file of addresses {name} cannot be read: {exc.strerror}") from exc
        if len(content) > MAX_SIZE:
            raise ConfigurationError(f"the file of addresses {name} has more than {MAX_SIZE} bytes")
        networks = Networks()
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if entry := line.partition("#")[0].strip():
                try:
                    networks.add(entry)
                except ConfigurationError as exc:
                    raise ConfigurationError(f"line {number} of {name}: {exc}") from None
        return networks
