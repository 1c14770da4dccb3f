"""The App that `tests/asgi/test_asgi_hosts.py` runs under each ASGI server; it prints what its component sees."""

from __future__ import annotations

import sys
from typing import Any

from pywsapp import App, Connection, MessageComponent, Request


class Told(MessageComponent):
    """Does what a message says, and prints how each connection ended."""

    def on_message(self, conn: Connection, message: Any) -> None:
        if message == "close":
            conn.close(4000, "enough")
        elif message == "fault":
            conn.close(1011, "fault")
        elif message == "abort":
            conn.abort()
        else:
            conn.send(message)

    def on_close(self, conn: Connection) -> None:
        sys.stdout.write(f"closed {conn.close_code} {conn.close_reason!r}\n")
        sys.stdout.flush()


def hello(request: Request) -> str:
    """Answer a plain request."""
    return "hello"


app = App(access_log=True)
app.route("/told", Told(), subprotocols=["chat"])
app.http("/hello", hello)
