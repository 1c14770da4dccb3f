"""`pywsapp top`: in a pipe, in a terminal, and against what is no server with metrics."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import ExitStack, suppress

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
fcntl = pytest.importorskip("fcntl")
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
    [
        (["ftp://host/x"], "must begin with http"),
        (["localhost", "--header", "x"], "must be 'NAME: VALUE'"),
        (["localhost", "--ca-file", "/nothing.pem"], "cannot use '/nothing.pem': No such file"),
    ],
    ids=["scheme", "header", "file"],
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
        ("chat.example?key=1", "http://chat.example/metrics?key=1"),
        ("[::1]:8080/?key=a/b", "http://[::1]:8080/metrics?key=a/b"),
    ],
)
def test_the_url_can_be_short(given: str, url: str) -> None:
    assert top.url_of(given) == url


def test_secrets_of_the_url_are_not_shown(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{server}/metrics?key=hidden") == 0
    assert run(f"{server}/nothing?key=hidden") == 1
    found = capsys.readouterr()
    assert found.out.startswith(f"{server}/metrics?...  ")
    assert f"{server}/nothing?... answered" in found.err
    with pytest.raises(SystemExit, match="2"):
        run(server.replace("://", "://ana:hidden@"))
    found = capsys.readouterr()
    assert "must have no user and no password" in found.err
    assert "hidden" not in found.out + found.err


@pytest.mark.parametrize(
    ("end", "seconds", "error"),
    [(False, 0.2, "timed out"), (True, GUARD, "the answer ends 97 bytes too early")],
    ids=["slow", "cut"],
)
def test_an_answer_that_does_not_come_completely(
    end: bool, seconds: float, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer() -> None:
        conn, _ = listener.accept()
        with conn, suppress(OSError):  # the reader has given up
            conn.recv(4096)
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n###")
            while not end:
                conn.sendall(b"#")
                given_up.wait(0.02)

    given_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        assert run(f"127.0.0.1:{listener.getsockname()[1]}", "--timeout", str(seconds)) == 1
        thread.join(GUARD)
    assert capsys.readouterr().err.endswith(f": {error}\n")


class Terminal:
    """`pywsapp top` in a terminal of its own, 60 columns wide."""

    def __init__(self, *arguments: str) -> None:
        self.main, other = pty.openpty()
        self.other = other
        self.resize(60, 12)
        self.before = termios.tcgetattr(other)
        command = [sys.executable, "-m", "pywsapp", "top", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for name in ("COLUMNS", "LINES"):  # they would be stronger than the size of the terminal
            environment.pop(name, None)
        self.process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=environment)
        self.output = ""
        self._decode = getincrementaldecoder("utf-8")().decode  # a character can come in two pieces

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> None:
        due = time.monotonic() + GUARD
        while text not in self.output:
            assert select.select([self.main], [], [], max(due - time.monotonic(), 0))[0], self.output
            self.output += self._decode(os.read(self.main, 65536))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)
        os.close(self.other)


@pytest.mark.parametrize(("how", "status"), [("q", 0), ("ctrl-c", 0), ("sigterm", 143)])
def test_a_terminal_is_restored(server: str, how: str, status: int) -> None:
    terminal = Terminal(server, "--interval", "0.1")
    try:
        terminal.until("more lines")  # the end of a view, which can come in pieces
        first = terminal.output
        terminal.output = ""
        terminal.until("more lines")  # another view
        assert termios.tcgetattr(terminal.other) != terminal.before
        if how == "q":
            os.write(terminal.main, b"q")
        else:
            terminal.process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        terminal.until("\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(GUARD) == status
        assert termios.tcgetattr(terminal.other) == terminal.before
    finally:
        terminal.close()
    assert first.startswith("\x1b[?1049h\x1b[?25l")
    assert re.search(r"\.\.\. \d+ more lines", first)
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
        note = "these numbers are old: cannot read"
        terminal.until(note)
        terminal.output = terminal.output[terminal.output.index(note) :]
        terminal.until("waiting")  # the row of the last numbers


def test_another_size_and_ctrl_z(server: str) -> None:
    terminal = Terminal(server, "--interval", "1000")
    try:
        terminal.until("more lines")
        terminal.output = ""
        terminal.resize(100, 50)
        terminal.until("IN ALL")
        assert "more lines" not in terminal.output
        terminal.output = ""
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.until("\x1b[?25h\x1b[?1049l")
        while not select.select([terminal.main], [], [], 0.05)[0]:  # it is stopped a moment after its last output
            terminal.process.send_signal(signal.SIGCONT)
        terminal.until("\x1b[?1049h\x1b[?25l")
        terminal.until("IN ALL")
        os.write(terminal.main, b"q")
        assert terminal.process.wait(GUARD) == 0
    finally:
        terminal.close()
