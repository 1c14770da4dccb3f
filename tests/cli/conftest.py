"""A directory with a module that the commands can import."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.program import Program

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the current directory, which is a new one, and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = []

    def write(source: str) -> str:
        names.append(f"program_of_test_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


SERVER = """
import json
import time
from pywsapp import App, MessageComponent

class Echo(MessageComponent):
    subprotocols = ("echo.v1",)

    def on_open(self, conn):
        if "show" in conn.request.query_params:
            conn.send(json.dumps(dict(conn.request.headers)))

    def on_message(self, conn, message):
        if message == "end":
            conn.close(4401, "the \\x1b[2J end")
        elif message == "bye":
            conn.close()
        elif message == "escape":
            conn.send("\\x1b[2J \\u202e \\n")
        elif message == "later":
            conn.subscribe("later")
        elif message == "now":
            self.topic.broadcast("now: later")
        else:
            conn.send(message)

class Stalls(MessageComponent):
    def on_open(self, conn):
        conn.state.count = 0

    def on_message(self, conn, message):
        conn.state.count += 1
        if conn.state.count == 60:
            time.sleep(0.3)
        conn.send(message)

class Talks(MessageComponent):
    def on_message(self, conn, message):
        conn.send("unasked")
        conn.send('{"echo": "%s"}' % message)
        if "close" in conn.request.query_params:
            conn.close(1013)

app = App("*", 0)
app.route("/stalls", Stalls())
app.route("/talks", Talks())
app.route("/silent", MessageComponent())
echo = Echo()
echo.topic = app.topic("later")
app.route("/", echo)
rooms = app.topic("rooms")

class Room(MessageComponent):
    def on_open(self, conn):
        conn.subscribe("rooms")

    def on_message(self, conn, message):
        rooms.broadcast(message)

app.route("/room", Room())
app.route("/private", Echo(), authenticate=lambda request: None)
app.run()
"""


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Run a server in another process; its URL without a path."""
    with Program(SERVER) as program:
        yield f"ws://localhost:{program.port}"
