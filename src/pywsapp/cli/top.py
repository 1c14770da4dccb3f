"""`pywsapp top`: a live view of a running server, by its metrics."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pywsapp.cli.connect import TOKEN_VARIABLE, headers_of
from pywsapp.cli.numbers import positive
from pywsapp.cli.parser import add_command
from pywsapp.cli.tables import safe

if TYPE_CHECKING:
    from pywsapp.cli.metrics_text import Change, Reading

#: Bytes of an answer.
_MAX_ANSWER = 16 << 20
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
    return f"{scheme}://{rest if rest.partition('/')[2] else rest.rstrip('/') + '/metrics'}"


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
    if not url.startswith(("http://", "https://")):
        chosen.parser.error(f"argument URL: must begin with http:// or https://, not {safe(chosen.url)!r}")
    try:
        context = ssl.create_default_context(cafile=chosen.ca_file)
        request = urllib.request.Request(url, headers={"Accept": "text/plain", **dict(headers_of(chosen))})
    except (OSError, ValueError) as exc:
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
            with opener.open(request, timeout=chosen.timeout) as answer:
                content = answer.read(_MAX_ANSWER + 1)
        except urllib.error.HTTPError as exc:
            with exc:
                raise NotRead(_refused(url, exc.code, exc.headers.get("Location"))) from None
        except (OSError, ValueError, http.client.HTTPException) as exc:
            reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise NotRead(f"cannot read {safe(url)}: {safe(text)}") from None
        if len(content) > _MAX_ANSWER:
            raise NotRead(f"the answer of {safe(url)} is longer than {_MAX_ANSWER >> 20} MiB")
        try:
            return Reading(content.decode("utf-8", "replace"))
        except NoMetrics as exc:
            raise NotRead(f"{safe(url)} answers, but {exc}; app.metrics() serves them at /metrics") from None

    return read


def _refused(url: str, status: int, location: str | None) -> str:
    text = f"{safe(url)} answered with status {status}"
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
    sys.stdout.write("\n".join(view(url, change, note=note)) + "\n")
    sys.stdout.flush()
    return 0


def _show_live(url: str, read: Callable[[], Reading], interval: float) -> int:
    from pywsapp.cli.top_view import view

    last = read()
    change, note = _change(last, None)
    with _screen() as wait_for_end:
        while True:
            _draw(view(url, change, note=note))
            if wait_for_end(interval):
                return 0
            try:
                now = read()
            except NotRead as exc:
                note = f"these numbers are old: {exc}"
                continue
            change, note = _change(now, last)
            last = now


def _draw(lines: list[str]) -> None:
    columns, rows = shutil.get_terminal_size()
    shown = [line[:columns] for line in lines[: max(rows - 1, 1)]]
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\r\n" for line in shown) + "\x1b[J")
    sys.stdout.flush()


@contextlib.contextmanager
def _screen() -> Iterator[Callable[[float], bool]]:
    """Use another screen of the terminal for a block.

    Returns:
        a function that waits some seconds, and returns whether the user wants to end.
    """

    def end(*_: object) -> None:
        sys.exit(143)

    previous = signal.signal(signal.SIGTERM, end)
    sys.stdout.write(_ENTER)
    try:
        with _single_keys() as wait_for_end:
            yield wait_for_end
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _single_keys() -> Iterator[Callable[[float], bool]]:
    """Read keys without the Enter key for a block; without a terminal, and on Windows, only Ctrl-C ends the view."""
    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError):
        yield _wait
        return
    except termios.error:
        yield _wait
        return
    try:
        tty.setcbreak(sys.stdin)
        yield _wait_for_key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _wait_for_key(seconds: float) -> bool:
    due = time.monotonic() + seconds
    while (left := due - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            keys = os.read(sys.stdin.fileno(), 64)
            if not keys or b"q" in keys.lower():
                return True
    return False
