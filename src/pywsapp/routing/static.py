"""Static files over plain HTTP: the page that opens the WebSocket, its scripts and pictures.

Two checks decide whether a file may be sent. The path must consist of plain names: nothing that begins with a dot (so
neither `..` nor hidden files), no empty part, no backslash, no NUL. Then every symbolic link is resolved, and the file
must still be inside the folder. All calls of the file system run in threads. Their number has a limit of its own,
because methods marked with `in_thread` share that of anyio: slow files must not delay them, nor they the files.

Validators. The ETag is made of size and modification time, so two versions written within one tick of the file
system's clock can share it; such a validator must be marked weak (RFC 9110, section 8.8.1). Only byte ranges need a
strong one, and they are not supported.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import AsyncIterator
from datetime import timezone
from email.utils import formatdate, parsedate_to_datetime
from mimetypes import MimeTypes
from typing import BinaryIO, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread

from pywsapp.component import Accept, MessageComponent
from pywsapp.exceptions import ConfigurationError, Refuse
from pywsapp.http import Request, Response
from pywsapp.routing.responses import with_slash

_PIECE = 64 * 1024  # bytes; a smaller file is read at once
_MAX_THREADS = 16
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("pywsapp.routing.static")
_ENTITY_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_MAX_DATE = 64  # characters; the longest of the three forms of RFC 9110, section 5.6.7, has 33
_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
)

# Only Python's built-in table, because the operating system's table differs between machines; and the types that it
# lacks, or has in an old form.
_TYPES = MimeTypes()
for _type, _suffix in (
    ("text/javascript", ".js"),
    ("text/javascript", ".mjs"),
    ("application/json", ".map"),
    ("application/manifest+json", ".webmanifest"),
    ("application/wasm", ".wasm"),
    ("font/woff", ".woff"),
    ("font/woff2", ".woff2"),
    ("image/avif", ".avif"),
    ("image/webp", ".webp"),
    ("image/x-icon", ".ico"),
    ("text/markdown", ".md"),
):
    _TYPES.add_type(_type, _suffix)
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


class StaticFolder(MessageComponent):
    """Serves the files of a folder; mount it on an App or a router. It accepts no WebSockets.

    Args:
        directory: the folder; it may be a symbolic link that is replaced while the server runs.
        index: the file that is sent for a folder.
        cache_seconds: for how many seconds browsers and proxies may use a file without asking; None makes them ask
            each time, which costs a response with status 304 and no body while the file is unchanged.

    Raises:
        ConfigurationError: there is no such folder, or `cache_seconds` is negative.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, index: str = "index.html", cache_seconds: int | None = None
    ) -> None:
        self.directory = os.path.abspath(directory)
        if not os.path.isdir(self.directory):
            raise ConfigurationError(f"there is no folder {self.directory!r} to serve files from")
        if cache_seconds is not None and cache_seconds < 0:
            raise ConfigurationError(f"cache_seconds must not be negative, but is {cache_seconds!r}")
        self.index = index
        self._cache_control = "no-cache" if cache_seconds is None else f"public, max-age={cache_seconds}"

    def on_handshake(self, request: Request) -> Accept:
        """Refuse every WebSocket with status 404."""
        raise Refuse(404, body="there is no WebSocket here, only files")

    async def on_request(self, request: Request) -> Response:
        """Return a file, 304 if the client has it already, or a redirect to the folder's path with a slash (308).

        Raises:
            Refuse: there is no such file, status 404; or the method is neither GET nor HEAD, status 405.
        """
        if request.method not in ("GET", "HEAD"):
            raise Refuse(405, {"Allow": "GET, HEAD"}, "the methods here are GET, HEAD")
        return await anyio.to_thread.run_sync(self._answer, request, limiter=_thread_limiter())

    def _answer(self, request: Request) -> Response:
        names = _plain_names(request.path)
        try:
            file = self._inside(*names)
            if os.path.isdir(file):
                names.append(self.index)
                file = self._inside(*names)
                if request.path and not request.path.endswith("/"):
                    return with_slash(request)
            elif request.path.endswith("/"):
                _absent()
            return self._file(request, file, names[-1])
        except ValueError:  # a name that the file system cannot encode
            _absent()
        except OSError as exc:
            if exc.errno in _ABSENT:
                _absent()
            raise

    def _inside(self, *names: str) -> str:
        """Return the real path for the names.

        Raises:
            Refuse: the path is outside of the folder; status 404.
            OSError, ValueError: there is no such file.
        """
        root = os.path.realpath(self.directory, strict=True)
        real = os.path.realpath(os.path.join(root, *names), strict=True)
        if os.path.commonpath([root, real]) != root:
            _absent()
        return real

    def _file(self, request: Request, file: str, name: str) -> Response:
        if not stat.S_ISREG(os.stat(file).st_mode):
            _absent()  # opening a pipe, for instance, would block until another program writes to it
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            data = opened.read(status.st_size) if status.st_size < _PIECE else None
        modified = int(min(status.st_mtime, time.time()))  # never later than Date (RFC 9110 section 8.8.2.1)
        tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        headers = {
            "ETag": f'W/"{tag}"',
            "Last-Modified": formatdate(modified, usegmt=True),
            "Cache-Control": self._cache_control,
            "X-Content-Type-Options": "nosniff",
        }
        if _is_unchanged(request, tag, modified):
            return Response(status=304, headers=headers)
        if data is not None:
            return Response(data, headers=headers, content_type=_content_type(name))
        pieces = _Pieces(file, status.st_size)
        return Response(pieces, headers=headers, content_type=_content_type(name), content_length=status.st_size)


def _absent() -> NoReturn:
    raise Refuse(404, body="there is no such file")


def _plain_names(path: str) -> list[str]:
    """Split a path into the names of folders and of the file.

    Raises:
        Refuse: a part is no plain name; status 404.
    """
    names = path.removeprefix("/").removesuffix("/").split("/") if path.strip("/") else []
    for name in names:
        if not name or name.startswith(".") or "\\" in name or "\0" in name:
            _absent()
    return names


def is_one_of(tag: str, request: Request) -> bool:
    """Return whether a client has the version of a file with this tag (If-None-Match; RFC 9110, section 13.1.2)."""
    field = ",".join(request.headers.getlist("if-none-match"))
    return field.strip() == "*" or tag in _ENTITY_TAG.findall(field)


def _is_unchanged(request: Request, tag: str, modified: int) -> bool:
    """Return the result of If-None-Match, or else of If-Modified-Since (RFC 9110, section 13.2.2)."""
    if "if-none-match" in request.headers:
        return is_one_of(tag, request)
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", "")[:_MAX_DATE])
        return modified <= since.replace(tzinfo=since.tzinfo or timezone.utc).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):  # no date, or none that Python can hold
        return False


def _content_type(name: str) -> str:
    kind, encoding = _TYPES.guess_type(f"/{name}")  # the slash keeps a name with a colon from being read as a URL
    if encoding is not None:  # the file itself is compressed; with Content-Encoding the browser would store it inflated
        return _COMPRESSED.get(encoding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    is_text = kind.startswith("text/") or kind.endswith(("json", "javascript", "+xml", "/xml"))
    return f"{kind}; charset=utf-8" if is_text else kind


def _thread_limiter() -> anyio.CapacityLimiter:
    """Return the limiter of this event loop for threads that read files."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(_MAX_THREADS)
        _limiter.set(limiter)
    return limiter


class _Pieces(AsyncIterator[bytes]):
    """The content of a file in pieces, exactly as long as announced; the file is opened for the first piece.

    If the peer disconnects before the end, the server awaits `aclose`.
    """

    def __init__(self, file: str, size: int) -> None:
        self._path = file
        self._remaining = size
        self._opened: BinaryIO | None = None

    async def __anext__(self) -> bytes:
        if not self._remaining:
            self.close()
            raise StopAsyncIteration
        return await anyio.to_thread.run_sync(self._read, limiter=_thread_limiter())

    def _read(self) -> bytes:
        """Read a piece, in a thread.

        Raises:
            OSError: the file became shorter, so the response cannot be finished.
        """
        if self._opened is None:
            self._opened = open(self._path, "rb")  # noqa: SIM115 - closed at the end of the iteration
        piece = self._opened.read(min(self._remaining, _PIECE))
        if not piece:
            self.close()
            raise OSError(errno.EIO, "the file became shorter while it was sent", self._path)
        self._remaining -= len(piece)
        return piece

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
