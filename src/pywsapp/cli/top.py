"""`pywsapp top`: a live view of a running server, by its metrics."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pywsapp.cli.connect import TOKEN_VARIABLE, headers_of, shown
from pywsapp.cli.numbers import positive
from pywsapp.cli.output import size_of_terminal
from pywsapp.cli.parser import add_command
from pywsapp.cli.tables import cut, safe

if TYPE_CHECKING:
    from typing_extensions import Self

    from pywsapp.cli.metrics_text import Change, Reading

#: Bytes of an answer.
_MAX_ANSWER = 16 << 20
_PART = 65536
#: Seconds between two looks at the size of the terminal.
_LOOK_SECONDS = 0.25
_ENTER = "\x1b[?1049h\x1b[?25l"  # another screen, without a cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"


class NotRead(Exception):
    """The metrics could not be read; the text says why, in one line."""


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    command = add_command(
        commands,
        "top",
        _act,
        help="show what a running server does, by its metrics",
        epilog="The server needs app.metrics(). The key q or Ctrl-C ends the view. In a pipe, one view is written, as "
        f"with --once. The environment variable {TOKEN_VARIABLE} is --token, which other users of the machine cannot "
        "read.",
    )
    command.add_argument("url", metavar="URL", help="http://..., https://..., or localhost:8080 for /metrics there")
    command.add_argument("--token", help=f"send Authorization: Bearer TOKEN [{TOKEN_VARIABLE}]")
    command.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="a header field")
    command.add_argument("--ca-file", metavar="FILE", help="trust these authorities, a PEM file")
    command.add_argument("--insecure", action="store_true", help="do not check the certificate of the server")
    command.add_argument("--interval", type=positive, default=2.0, metavar="SECONDS", help="between two readings (2)")
    command.add_argument("--once", action="store_true", help="write one view, after two readings")
    command.add_argument("--timeout", type=positive, default=5.0, metavar="SECONDS", help="of a reading (5)")


def _act(chosen: argparse.Namespace) -> int:
    url, read = url_of(chosen.url), _reader(chosen)
    try:
        if chosen.once or not sys.stdout.isatty():
            return _write_once(url, read, chosen.interval)
        return _show_live(url, read, chosen.interval)
    except NotRead as exc:
        sys.stderr.write(f"pywsapp: {exc}\n")
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130 if chosen.once else 0


def url_of(text: str) -> str:
    """Return the URL of the metrics: http for a name without a scheme, and /metrics without a path."""
    if "://" not in text:
        text = f"http://{text}"
    scheme, _, rest = text.partition("://")
    scheme = {"ws": "http", "wss": "https"}.get(scheme.lower(), scheme)
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    path, mark, query = rest[len(host) :].partition("?")
    return f"{scheme}://{host}{path.rstrip('/') or '/metrics'}{mark}{query}"


# -- reading -----------------------------------------------------------------------------------------------------------


def _reader(chosen: argparse.Namespace) -> Callable[[], Reading]:
    """Return a function that reads the metrics.

    It raises `NotRead`.
    """
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    from pywsapp.cli.metrics_text import NoMetrics, Reading

    url = url_of(chosen.url)
    _check_url(chosen, url)
    try:
        context = ssl.create_default_context(cafile=chosen.ca_file)
        request = urllib.request.Request(url, headers={"Accept": "text/plain", **dict(headers_of(chosen))})
    except OSError as exc:
        chosen.parser.error(f"argument --ca-file: cannot use {safe(str(chosen.ca_file))!r}: {exc.strerror or exc}")
    except ValueError as exc:
        chosen.parser.error(safe(str(exc)))
    if chosen.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    class NoRedirects(urllib.request.HTTPRedirectHandler):  # a token is for this server only
        def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
            return None

    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), NoRedirects)

    def read() -> Reading:
        try:
            due = time.monotonic() + chosen.timeout
            with opener.open(request, timeout=chosen.timeout) as answer:
                content = _content_of(answer, due)
        except urllib.error.HTTPError as exc:
            with exc:
                raise NotRead(_refused(url, exc.code, exc.headers.get("Location"))) from None
        except (OSError, ValueError, http.client.HTTPException) as exc:
            reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise NotRead(f"cannot read {shown(url)}: {safe(text)}") from None
        if len(content) > _MAX_ANSWER:
            raise NotRead(f"the answer of {shown(url)} is longer than {_MAX_ANSWER >> 20} MiB")
        try:
            return Reading(content.decode("utf-8", "replace"))
        except NoMetrics as exc:
            raise NotRead(f"{shown(url)} answers, but {exc}; app.metrics() serves them at /metrics") from None

    return read


def _check_url(chosen: argparse.Namespace, url: str) -> None:
    if not url.startswith(("http://", "https://")):
        chosen.parser.error(f"argument URL: must begin with http:// or https://, not {safe(chosen.url)!r}")
    if "@" in re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]:
        chosen.parser.error("argument URL: must have no user and no password; use --token or --header")


def _content_of(answer: Any, due: float) -> bytes:
    """Return the content of an answer, or so much of it that it is too long.

    Raises:
        OSError: it does not come until `due`, or not completely.
    """
    content = bytearray()
    while len(content) <= _MAX_ANSWER and (part := answer.read1(_PART)):
        content += part
        if time.monotonic() > due:  # each part comes in time, but not all of them
            raise TimeoutError("timed out")
    if answer.length and len(content) <= _MAX_ANSWER:
        raise ConnectionError(f"the answer ends {answer.length} bytes too early")
    return bytes(content)


def _refused(url: str, status: int, location: str | None) -> str:
    text = f"{shown(url)} answered with status {status}"
    if status == 401:
        return f"{text}: it needs a token, write --token TOKEN or set {TOKEN_VARIABLE}"
    if status == 403:
        return f"{text}: the metrics are not for this address or user; another --token can be needed"
    if status == 404:
        return f"{text}: app.metrics() serves the metrics at /metrics; another path or host name can be needed"
    return f"{text}: it redirects to {safe(location)}" if location else text


def _change(now: Reading, before: Reading | None) -> tuple[Change, str]:
    """Return what has happened between two readings, and a note if this is not known."""
    from pywsapp.cli.metrics_text import Change

    if before is not None and now.is_behind(before):
        return Change(now, None), "the counters have begun anew: the server has restarted"
    return Change(now, before), ""


# -- showing -----------------------------------------------------------------------------------------------------------


def _write_once(url: str, read: Callable[[], Reading], interval: float) -> int:
    from pywsapp.cli.top_view import view

    before = read()
    time.sleep(interval)
    change, note = _change(read(), before)
    sys.stdout.write("\n".join(view(shown(url), change, note=note)) + "\n")
    sys.stdout.flush()
    return 0


def _show_live(url: str, read: Callable[[], Reading], interval: float) -> int:
    from pywsapp.cli.top_view import view

    last = read()
    change, note = _change(last, None)
    with _Screen() as screen:
        while True:
            due = time.monotonic() + interval
            while (left := due - time.monotonic()) > 0:
                screen.draw(view(shown(url), change, note=note))
                if screen.wait(left):
                    return 0
            try:
                now = read()
            except NotRead as exc:
                note = f"these numbers are old: {exc}"
                continue
            change, note = _change(now, last)
            last = now


class _Screen:
    """Another screen of the terminal, and keys without the Enter key, while a block runs; Ctrl-Z and fg work.

    Without a terminal for the keys, and on Windows, only Ctrl-C ends the view.
    """

    def __init__(self) -> None:
        self._drawn: tuple[int, int] | None = None  # the size of the terminal when it was drawn
        self._mode: Any = None  # of the terminal before; None if it is not changed
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        handlers: dict[str, Callable[..., None]] = {"SIGTERM": self._terminate, "SIGTSTP": self._suspend}
        for name, handler in handlers.items():
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._previous[number] = signal.signal(number, handler)
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def draw(self, lines: list[str]) -> None:
        """Write lines; what does not fit is left out."""
        columns, rows = self._drawn = size_of_terminal()
        room = max(rows - 1, 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"... {len(lines) - room + 1} more lines"]
        # A line is erased first, because erasing behind its last column would take the last character.
        text = "".join(f"\x1b[K{cut(line, columns)}\r\n" for line in lines)
        sys.stdout.write(f"\x1b[H{text}\x1b[J")
        sys.stdout.flush()

    def wait(self, seconds: float) -> bool:
        """Wait for a time, or until the lines must be drawn again; return whether the user wants to end."""
        due = time.monotonic() + seconds
        while (left := due - time.monotonic()) > 0 and size_of_terminal() == self._drawn:
            if self._mode is None:
                time.sleep(min(left, _LOOK_SECONDS))
            elif select.select([sys.stdin], [], [], min(left, _LOOK_SECONDS))[0]:
                keys = os.read(sys.stdin.fileno(), 64)
                if not keys or b"q" in keys.lower():
                    return True
        return False

    def _begin(self) -> None:
        with contextlib.suppress(ImportError, OSError, TypeError, ValueError):  # stdin is no terminal, or closed
            import termios
            import tty

            with contextlib.suppress(termios.error):
                self._mode = termios.tcgetattr(sys.stdin)
                tty.setcbreak(sys.stdin)
        sys.stdout.write(_ENTER)
        self._drawn = None

    def _end(self) -> None:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if self._mode is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._mode)
            self._mode = None

    def _terminate(self, *_: object) -> None:
        sys.exit(143)

    def _suspend(self, number: int, frame: object) -> None:
        self._end()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # returns when the shell continues this process
        signal.signal(number, self._suspend)
        self._begin()
