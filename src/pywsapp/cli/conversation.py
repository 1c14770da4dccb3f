"""A connection in a terminal: lines that are edited, and messages that appear above them."""

from __future__ import annotations

import base64
import binascii
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from pywsapp.cli.close_texts import close_text
from pywsapp.cli.colours import coloured_json, has_colours
from pywsapp.cli.output import folded, size_of_terminal, width_of_terminal
from pywsapp.cli.parser import did_you_mean
from pywsapp.cli.tables import safe
from pywsapp.client import SyncConnection
from pywsapp.exceptions import ConfigurationError, ConnectionClosed

try:
    import readline
except ImportError:  # Windows has no such module
    readline = None  # type: ignore[assignment]

_PROMPT = "> "
_MAX_SHOWN = 10_000  # characters of a message
_MAX_JSON = 1 << 20  # characters of a message that is parsed
_MAX_HISTORY = 1000  # lines
_SIGNAL_PAUSE = 0.05  # seconds
_HELP = """\
/ping                    send a ping and measure the time until the pong
/close [CODE] [REASON]   close the connection, by default with 1000, and end
/binary HEX or BASE64    send bytes: /binary 00ff, /binary base64:AP8=
/json                    show JSON with line breaks, or stop doing so
/help                    show this help
//text                   send /text
Ctrl-D                   close with 1000 and end
"""


def talk(conn: SyncConnection, url: str, *, pretty: bool, has_history: bool) -> int:
    """Send what the user types, and show what comes; return the exit status. Blocks until the end.

    Args:
        conn: the connection, which is closed.
        url: the URL, for the first line, without what can be secret.
        pretty: show JSON with line breaks.
        has_history: whether lines are remembered for the next time.
    """
    history = _history_file() if has_history else None
    _read_history(history)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # `_text_of` decodes what the encoding of the terminal lacks
    try:
        return Conversation(conn, pretty=pretty).run(url)
    finally:
        _write_history(history)


class Conversation:
    """One connection in a terminal.

    Args:
        conn: the connection.
        pretty: show JSON with line breaks.
    """

    def __init__(self, conn: SyncConnection, *, pretty: bool) -> None:
        self._conn = conn
        self._pretty = pretty
        self._has_colours = has_colours()
        self._is_editing = False  # the user sees a prompt
        self._writes_prompt = False  # this thread holds `_writing`
        self._ends = False  # this side closes
        self._ended = threading.Event()  # all messages are shown
        self._has_left = threading.Event()  # no line is read any more
        self._writing = threading.RLock()
        self._commands: dict[str, Callable[[str], None]] = {
            "/ping": self._ping,
            "/close": self._close,
            "/binary": self._binary,
            "/json": self._toggle_json,
            "/help": lambda _: self.show(_HELP),
        }

    def run(self, url: str) -> int:
        """Read lines until the user or the server ends; return the exit status."""
        chosen = f", subprotocol {safe(self._conn.subprotocol)}" if self._conn.subprotocol else ""
        first = f"connected to {safe(url)}{chosen}; /help lists commands, Ctrl-D ends"
        self.show(folded(first, width_of_terminal()))
        receiver = threading.Thread(target=self._receive, daemon=True)
        receiver.start()
        status = 0
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            while not self._ends and not self._ended.is_set():
                self._handle(self._read_line())
        except EOFError:
            self.show("")
        except KeyboardInterrupt:  # from the user, or from `_receive`
            self.show("")
            status = 0 if self._ended.is_set() else 130
        except ConnectionClosed:
            pass
        self._has_left.set()
        was_ours = self._ends or self._conn.is_open
        self._ends = True
        self._conn.close()
        receiver.join()
        signal.signal(signal.SIGINT, previous)
        self.show(folded(close_text(self._conn.close_code, self._conn.close_reason), width_of_terminal()))
        return status if was_ours or self._conn.close_code in (1000, 1001) else status or 1

    def show(self, text: str) -> None:
        """Write lines above the line that the user edits, which stays as it is."""
        with self._writing:
            if not self._is_editing:
                sys.stdout.write(f"{text.rstrip()}\n")
                sys.stdout.flush()
                return
            line = "" if readline is None else readline.get_line_buffer()
            rows = (len(_PROMPT) + len(line)) // size_of_terminal().columns
            up = f"\x1b[{rows}A" if rows else ""
            sys.stdout.write(f"\r{up}\x1b[J{text.rstrip()}\n{_PROMPT}{safe(line)}")
            sys.stdout.flush()
            if readline is not None and hasattr(signal, "SIGWINCH"):
                # As after a change of the window, readline draws its line again, with the cursor where it belongs.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGWINCH)

    def _read_line(self) -> str:
        if not hasattr(readline, "set_pre_input_hook"):  # without readline, and with libedit
            self._is_editing = True
        else:  # a message comes before the prompt or after it: one in between would show a second prompt
            readline.set_startup_hook(self._begin_prompt)
            readline.set_pre_input_hook(self._begin_editing)
        try:
            return input(_PROMPT)
        finally:
            self._is_editing = False
            self._end_prompt()  # Ctrl-C can come before the second hook

    def _begin_prompt(self) -> None:
        self._writing.acquire()
        self._writes_prompt = True

    def _begin_editing(self) -> None:
        self._is_editing = True
        self._end_prompt()

    def _end_prompt(self) -> None:
        if self._writes_prompt:
            self._writes_prompt = False
            self._writing.release()

    def _receive(self) -> None:
        try:
            while True:
                self.show(self._shown(self._conn.receive()))
        except (ConnectionClosed, OSError):  # the second one: the terminal is gone
            pass
        finally:
            self._ended.set()
        # A signal ends `input`; one that comes just before `input` waits has no effect, so there are several.
        while hasattr(signal, "pthread_kill") and not self._has_left.wait(_SIGNAL_PAUSE):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _interrupt(self, number: int, frame: object) -> None:
        """Handle SIGINT, of the user or of `_receive`: end `input` once."""
        if self._is_editing or not self._ended.is_set():
            self._is_editing = False
            raise KeyboardInterrupt

    def _shown(self, message: str | bytes) -> str:
        if isinstance(message, bytes):
            more = f"... ({len(message):,} bytes)" if len(message) > _MAX_SHOWN // 2 else ""
            return f"< binary {message[: _MAX_SHOWN // 2].hex()}{more}"
        json_text = _as_json(message) if self._pretty else None
        text = message if json_text is None else json_text
        more = f"... ({len(message):,} characters)" if len(text) > _MAX_SHOWN else ""
        shown = safe(text[:_MAX_SHOWN], keep="\n").replace("\n", "\n  ")
        return f"< {coloured_json(shown) if json_text is not None and self._has_colours else shown}{more}"

    def _handle(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        command = self._commands.get(name)
        try:
            if command is not None:
                command(argument.strip())
            elif line.startswith("/") and not line.startswith("//"):
                self.show(f"there is no command {safe(name)}{did_you_mean(name, self._commands)}; /help lists them")
            elif line:
                self._conn.send(_text_of(line.removeprefix("/")))
        except (ConfigurationError, TimeoutError, ValueError) as exc:
            self.show(safe(str(exc)) or type(exc).__name__)

    def _ping(self, argument: str) -> None:
        self.show(f"pong after {self._conn.ping() * 1000:.1f} ms")

    def _close(self, argument: str) -> None:
        code, _, reason = argument.partition(" ")
        if code and not code.isdecimal():
            raise ValueError(f"the close code is a number such as 1000, not {code!r}")
        self._ends = True
        try:
            self._conn.close(int(code or 1000), _text_of(reason.strip()))
        except (ConfigurationError, ValueError):
            self._ends = False
            raise

    def _binary(self, argument: str) -> None:
        self._conn.send(_binary_of(argument))

    def _toggle_json(self, argument: str) -> None:
        self._pretty = not self._pretty
        self.show(f"JSON is shown {'with line breaks' if self._pretty else 'as it came'}")


def _binary_of(text: str) -> bytes:
    try:
        if text.startswith("base64:"):
            return base64.b64decode(text.removeprefix("base64:"), validate=True)
        return bytes.fromhex(text)
    except (ValueError, binascii.Error):
        raise ValueError("write /binary 00ff, or /binary base64:AP8=") from None


def _text_of(line: str) -> str:
    """Return a line with the characters that the encoding of the terminal lacks, as in the locale C."""
    if line.isascii():
        return line
    try:
        return line.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise ValueError("the line is not text in UTF-8") from None


def _as_json(text: str) -> str | None:
    """Return JSON with line breaks; None for other text."""
    if len(text) > _MAX_JSON or not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _history_file() -> Path:
    folder = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(folder, "pywsapp", "connect_history")


def _read_history(file: Path | None) -> None:
    if readline is not None:
        readline.clear_history()
        readline.set_history_length(_MAX_HISTORY)
        if file is not None:
            with suppress(OSError):
                readline.read_history_file(file)


def _write_history(file: Path | None) -> None:
    """Write the history, which can have secrets, so that only the user can read it."""
    if readline is None or file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        readline.write_history_file(file)
