"""`pywsapp top`: in a pipe, in a terminal, and against what is no server with metrics."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from anyio.from_thread import start_blocking_portal
from support.serving import GUARD

from pywsapp import App, EchoServer
from pywsapp.auth import ApiKeyAuthenticator, public
from pywsapp.cli import main, top
from pywsapp.client import connect_sync
from pywsapp.http import Response
from pywsapp.testing import AppServer

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
termios = pytest.importorskip("termios")
pytestmark = pytest.mark.once
KEY = "a-key-of-more-than-20-characters"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server with metrics at several paths."""
    app = App()
    app.route("/rooms/{name}", EchoServer())
    app.metrics(guard=public)
    app.metrics("/private", guard=ApiKeyAuthenticator({"ana": KEY}))
    app.metrics("/far", guard=["192.0.2.0/24"])
    app.http("/page", lambda request: "hello")
    app.http("/moved", lambda request: Response("", 302, headers={"Location": "http://other.example/"}))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(AppServer(app)) as found:
        yield found.url


def run(*arguments: str) -> int:
    return main(["top", *arguments, "--interval", "0.05"])


def test_a_pipe_gets_one_view(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with connect_sync(server.replace("http", "ws") + "/rooms/1") as conn:
        conn.send("hello")
        conn.receive()
        assert run(server) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{server}/metrics  ")
    assert "\x1b" not in text
    assert re.search(r"^connections  1 open", text, re.MULTILINE)
    assert re.search(r"^messages in +0 +1$", text, re.MULTILINE)
    assert re.search(r"^/rooms/\{name\} +1 ", text, re.MULTILINE)


def test_a_token_is_sent(server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(f"{server}/private", "--token", KEY) == 0
    assert run(f"{server}/private", "--header", f"X-API-Key: {KEY}") == 0
    monkeypatch.setenv("PYWSAPP_TOKEN", KEY)
    assert run(f"{server}/private", "--once") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/private", "status 401: it needs a token, write --token TOKEN"),
        ("/far", "status 403: the metrics are not for this address"),
        ("/nothing", "status 404: app.metrics\\(\\) serves the metrics at /metrics"),
        ("/rooms/1", "status 426"),
        ("/page", "answers, but it is not in the text format of Prometheus; app.metrics\\(\\)"),
        ("/moved", "status 302: it redirects to http://other.example/"),
    ],
)
def test_an_error_is_one_line(server: str, path: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{server}{path}") == 1
    error = capsys.readouterr().err
    assert re.fullmatch(f"pywsapp: .*{message}.*\n", error)


def test_a_server_that_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("localhost:1") == 1
    assert capsys.readouterr().err == "pywsapp: cannot read http://localhost:1/metrics: Connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["ftp://host/x"], "must begin with http"), (["localhost", "--header", "x"], "must be 'NAME: VALUE'")],
    ids=["scheme", "header"],
)
def test_mistakes_in_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:8080", "http://localhost:8080/metrics"),
        ("wss://chat.example/", "https://chat.example/metrics"),
        ("http://chat.example/numbers", "http://chat.example/numbers"),
    ],
)
def test_the_url_can_be_short(given: str, url: str) -> None:
    assert top.url_of(given) == url


class Terminal:
    """`pywsapp top` in a terminal of its own, 60 columns wide."""

    def __init__(self, *arguments: str) -> None:
        self.main, other = pty.openpty()
        self.other = other
        command = [sys.executable, "-m", "pywsapp", "top", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "60", "LINES": "12"}
        self.process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=environment)
        self.output = ""

    def until(self, text: str) -> None:
        due = time.monotonic() + GUARD
        while text not in self.output:
            assert select.select([self.main], [], [], due - time.monotonic())[0], self.output
            self.output += os.read(self.main, 65536).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)
        os.close(self.other)


@pytest.mark.parametrize(("how", "status"), [("q", 0), ("ctrl-c", 0), ("sigterm", 143)])
def test_a_terminal_is_restored(server: str, how: str, status: int) -> None:
    terminal = Terminal(server, "--interval", "0.1")
    try:
        before = termios.tcgetattr(terminal.other)
        terminal.until("waiting")
        first = terminal.output
        terminal.output = ""
        terminal.until("waiting")  # another view
        assert termios.tcgetattr(terminal.other) != before
        if how == "q":
            os.write(terminal.main, b"q")
        else:
            terminal.process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        terminal.until("\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(GUARD) == status
        assert termios.tcgetattr(terminal.other) == before
    finally:
        terminal.close()
    assert first.startswith("\x1b[?1049h\x1b[?25l")
    lines = [re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", line) for line in first.split("\r\n")]
    assert max(map(len, lines)) <= 60


def test_a_server_that_ends_leaves_the_last_numbers() -> None:
    app = App()
    app.metrics(guard=public)
    with start_blocking_portal() as portal, ExitStack() as opened:
        with portal.wrap_async_context_manager(AppServer(app)) as found:
            terminal = Terminal(found.url, "--interval", "0.1")
            opened.callback(terminal.close)
            terminal.until("waiting")
            assert "these numbers are old" not in terminal.output
        before = len(terminal.output)
        terminal.until("these numbers are old: cannot read")
        assert "waiting" in terminal.output[before:]  # the row of the last numbers
