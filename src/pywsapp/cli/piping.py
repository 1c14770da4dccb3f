"""A connection in a pipe: each line of the standard input is a message, and each message is a line of the output."""

from __future__ import annotations

import base64
import math
import sys
import threading

from pywsapp.cli.close_texts import close_text
from pywsapp.cli.output import OutputFailed, discard_output
from pywsapp.cli.tables import safe
from pywsapp.client import SyncConnection
from pywsapp.exceptions import ConfigurationError, ConnectionClosed


def pipe(conn: SyncConnection, wait: float) -> int:
    """Send the standard input and write what comes; return the exit status. Blocks until the end.

    Args:
        conn: the connection, which is closed.
        wait: seconds to receive after the end of the input.
    """
    ended, problems = threading.Event(), list[str]()
    receiver = threading.Thread(target=_write_messages, args=(conn, ended, problems), daemon=True)
    sender = threading.Thread(target=_send_lines, args=(conn, ended, wait, problems), daemon=True)
    receiver.start()
    sender.start()
    try:
        ended.wait()  # the sender is not awaited: it can wait for input when the server has closed
        was_open = conn.is_open
        conn.close()
        receiver.join()
    except KeyboardInterrupt:
        return 130
    if problems:
        sys.stderr.write(f"pywsapp: {safe(problems[0])}\n")
        return 1
    sys.stdout.flush()
    if was_open or conn.close_code in (1000, 1001):
        return 0
    sys.stderr.write(f"pywsapp: {close_text(conn.close_code, conn.close_reason)}\n")
    return 1


def _send_lines(conn: SyncConnection, ended: threading.Event, wait: float, problems: list[str]) -> None:
    try:
        for line in sys.stdin or ():
            conn.send(line.rstrip("\r\n"))
        ended.wait(None if wait == math.inf else wait)
    except ConnectionClosed:
        pass
    except (UnicodeError, ConfigurationError):  # the second one is about what Python read as surrogates
        problems.append("the input is not text in UTF-8")
    except OSError as exc:
        problems.append(f"the input cannot be sent: {exc.strerror or exc}")
    ended.set()


def _write_messages(conn: SyncConnection, ended: threading.Event, problems: list[str]) -> None:
    output = sys.stdout.buffer
    is_terminal = sys.stdout.isatty()
    try:
        while True:
            message = conn.receive()
            text = message if isinstance(message, str) else base64.b64encode(message).decode()
            output.write((safe(text) if is_terminal else text).encode() + b"\n")
            output.flush()
    except ConnectionClosed:
        pass
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError):  # `| head`: the reader has enough
            problems.append(str(OutputFailed(exc)))
        discard_output()
    ended.set()
