"""A connection in a pipe: each line of the standard input is a message, and each message is a line of the output."""

from __future__ import annotations

import base64
import math
import os
import sys
import threading

from pywsapp.cli.close_texts import close_text
from pywsapp.cli.tables import safe
from pywsapp.client import SyncConnection
from pywsapp.exceptions import ConnectionClosed


def pipe(conn: SyncConnection, wait: float) -> int:
    """Send the standard input and write what comes; return the exit status. Blocks until the end.

    Args:
        conn: the connection, which is closed.
        wait: seconds to receive after the end of the input.
    """
    ended = threading.Event()
    receiver = threading.Thread(target=_write_messages, args=(conn, ended), daemon=True)
    sender = threading.Thread(target=_send_lines, args=(conn, ended, wait), daemon=True)
    receiver.start()
    sender.start()
    try:
        ended.wait()  # the sender is not awaited: it can wait for input when the server has closed
        was_open = conn.is_open
        conn.close()
        receiver.join()
    except KeyboardInterrupt:
        return 130
    sys.stdout.flush()
    if was_open or conn.close_code in (1000, 1001):
        return 0
    sys.stderr.write(f"pywsapp: {close_text(conn.close_code, conn.close_reason)}\n")
    return 1


def _send_lines(conn: SyncConnection, ended: threading.Event, wait: float) -> None:
    try:
        for line in sys.stdin:
            conn.send(line.rstrip("\r\n"))
        ended.wait(None if wait == math.inf else wait)
    except (ConnectionClosed, OSError, UnicodeDecodeError):
        pass
    ended.set()


def _write_messages(conn: SyncConnection, ended: threading.Event) -> None:
    output = sys.stdout.buffer
    is_terminal = sys.stdout.isatty()
    try:
        while True:
            message = conn.receive()
            text = message if isinstance(message, str) else base64.b64encode(message).decode()
            output.write((safe(text) if is_terminal else text).encode() + b"\n")
            output.flush()
    except ConnectionClosed:
        ended.set()
    except BrokenPipeError:  # `| head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ended.set()
